"""Writes the pages that `check.mjs` opens: reports and a catalogue, of names and values that try to break out.

python -m tests.browser.pages FOLDER
"""

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

from pipelines.evaluate import Asked, evaluate
from synth.schema import Column, Picture, Schema
from tests.validation.test_report import CERTIFICATE, HOSTILE, fidelity_of, finding
from validation import catalog, public, report
from validation.catalog import Entry
from validation.evidence import Evidence
from validation.gates import Verdict
from validation.images import image_evidence, sheet_of
from validation.inception import NAMES, Inception
from validation.learning import BETWEEN, Curve, Learning, ends, strips_of

ATTACKS = ("<script>window.broken = 1</script>", '"><img src=x onerror="window.broken=1">', "a'b`c${1}")
"""Names of columns, and values, that set a flag where they run."""


def table(rows: int, seed: int) -> pa.Table:
    """People with an age, a sex, a group, an income and, some of them, a day; names and values are hostile."""
    draw = random.Random(seed)
    ages = [draw.randint(18, 90) for _ in range(rows)]
    days = [draw.randint(0, 3650) if draw.random() < 0.9 else None for _ in range(rows)]
    return pa.table(
        {
            f"age {ATTACKS[0]}": ages,
            ATTACKS[1]: [draw.choice(ATTACKS) if a < 60 else "old" for a in ages],
            "sex": [draw.choice(["f", "m"]) for _ in range(rows)],
            "income": [round(100 * a + draw.gauss(0, 300), 2) for a in ages],
            "day": pa.array(days, pa.int32()).cast(pa.date32()),
            ATTACKS[2]: [draw.random() < a / 120 for a in ages],
        }
    )


def judged(folder: Path) -> Any:
    """All evidence of such tables, as `understudy evaluate` gathers it."""
    for name, seed in (("real", 1), ("holdout", 2), ("synthetic", 3)):
        pq.write_table(table(1_200, seed), folder / f"{name}.parquet")
    made = {name: folder / f"{name}.parquet" for name in ("real", "holdout", "synthetic")}
    return evaluate(Asked(**made, protected=("sex",), targets=("income",)))


def wide(columns: int) -> str:
    """A refused report of many columns with hostile names."""
    names = [f"{HOSTILE[i % len(HOSTILE)]} {i}" for i in range(columns)]
    findings = [finding("critical", f"a rule, however: {n!r} broke it; mend it", (n,)) for n in names[:40]]
    return report.render(
        title=ATTACKS[0],
        evidence=Evidence(fidelity=fidelity_of(names, labels=[*ATTACKS, *HOSTILE])),
        verdict=Verdict(findings=tuple(findings)),
        certificate={**CERTIFICATE, "statement": ATTACKS[0]},
        schema=Schema(columns=tuple(Column(name=n, kind="categorical", type="string") for n in names)),
    )


def noised() -> str:
    """A report under differential privacy."""
    lifetime = {"dataset": "people", "epsilon": 4.0, "delta": 1e-6, "spent_epsilon": 1.3}
    charges = [{"for": "profile", "question": f"{i} marginals of rows", "noise_std": 15.6 / i}
               for i in range(1, 9)]  # fmt: skip
    guarantee = {
        "epsilon": 1.0, "delta": 1e-6, "spent_epsilon": 0.97, "mechanisms": charges, "lifetime": lifetime,
        "renyi_curve": {str(i): 0.1 * i for i in range(20)},
    }  # fmt: skip
    names = ["age", "income", "city"]
    return report.render(
        title="people",
        evidence=Evidence(fidelity=replace(fidelity_of(names), noised=True, copies=None)),
        verdict=Verdict(findings=(finding("warning", "a thing, however: it is; look", ("age",)),)),
        certificate={**CERTIFICATE, "formal_guarantee": guarantee},
        schema=Schema(columns=tuple(Column(name=n, kind="categorical", type="string") for n in names)),
    )


def releases() -> str:
    """A catalogue of two names over a year."""
    entries = [
        Entry(
            name=name, number=f"{i:016x}", issued=f"2024-{i + 1:02}-01T00:00:00Z", latest=i == 11, rows=1_000 * (i + 1),
            columns=10, synthesizer=ATTACKS[0] if i % 4 == 0 else "gmm", statement=ATTACKS[1],
            epsilon=1.0 if i % 3 == 0 else None, shape=0.99 - 0.002 * i, shape_ceiling=0.992, trend=0.93 + 0.004 * i,
            trend_ceiling=0.98, told_apart=0.55, leaked=0.01 * i, useful=(ATTACKS[1], "AUC", 0.8, 0.9), warnings=i,
            files={"report.html": (1, ""), "data/part-00000.parquet": (1, "ab" * 32)},
        )
        for name in ("flights", "visits")
        for i in range(12)
    ]  # fmt: skip
    return catalog.render(entries)


def pictured() -> Evidence:
    """Evidence of digits, with figures of InceptionV3 and of a training that were made up."""
    data = load_digits()
    pixels = (data.images * (255 / 16)).astype(np.uint8)[..., None]
    sides = {"train": pixels[:600], "holdout": pixels[600:1200], "synthetic": pixels[1200:]}
    found = image_evidence(sides, None, seed=0)
    assert found is not None
    by = Inception(
        name=NAMES[1008], digest="ab" * 32, images=597, score_sd=0.03, score_ceiling_sd=0.04, most=600,
        most_frechet=7.1, most_score=1.9, most_score_sd=0.02,
    )  # fmt: skip
    close = replace(found.closeness, features="inception", score=1.9, score_ceiling=2.0, inception=by)
    first, second = ends(sides["synthetic"], data.target[1200:])
    shares = np.linspace(0, 1, BETWEEN)[None, :, None, None, None]
    between = (first[:, None] * (1 - shares) + second[:, None] * shares).astype(np.uint8)
    steps = tuple(range(50, 3001, 50))
    scores = tuple(-900.0 + 400 * (1 - 0.95**i) - 0.05 * max(0, i - 45) ** 2 for i in range(len(steps)))
    return Evidence(
        fidelity=fidelity_of(["label", "image"]),
        images=replace(found, closeness=close, sheet=sheet_of(sides["synthetic"], data.target[1200:])),
        learning=Learning(
            curve=Curve(steps=steps, scores=scores, kept=steps[int(np.argmax(scores))], made=3000),
            strips=strips_of(between),
        ),
    )


def of_images() -> str:
    """A report of a table with images."""
    columns = (
        Column(name="label", kind="categorical", type="string"),
        Column(
            name="image", kind="image", type="struct<bytes: binary, path: string>",
            image=Picture(width=8, height=8, mode="L"),
        ),
    )  # fmt: skip
    return report.render(
        title="digits",
        evidence=public.outside(pictured(), at_least=10),
        verdict=Verdict(findings=()),
        certificate=CERTIFICATE,
        schema=Schema(columns=columns),
    )


def main(folder: Path) -> None:
    """Writes all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    found = judged(folder)
    outside = report.render(
        title=found.name,
        evidence=public.outside(found.evidence, at_least=10),
        verdict=public.said(found.verdict, found.verdict),
        certificate=CERTIFICATE,
        schema=found.schema,
    )
    pages = {
        "report": outside, "inside": found.page(), "wide": wide(100), "noised": noised(), "catalog": releases(),
        "images": of_images(),
    }  # fmt: skip
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(page, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
