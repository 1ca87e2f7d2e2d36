"""Noised figures: do their intervals hold, are damaged releases found, and what does the report's share cost the model?

usage: python benchmarks/noised.py DATA [--tables made-up,adult] [--epsilons 1,3] [--draws 200] [--share 0.05]
       [--work FOLDER]

DATA is a folder with tabular/NAME/*.parquet. A table is fitted once for each epsilon by `marginals` (the whole
pipeline, facts declared, delta 1e-6), with its own held-out rows. Then the report's answer is drawn often, without a
refit: about the rows that were learned from, whose true distance is known; and about held-out rows, which are drawn
anew each time from all rows there are, so that the truth is that of all rows. `made-up` needs no DATA and no fit: its
synthetic rows are drawn from another distribution than its rows. One line of JSON each:

  covered    share of draws in which the interval held the truth: of the table's shape and trend, and of all columns'
             shapes, all columns' pairs, all pairs, and all kept associations at once
  width      mean length of the interval, in points
  judged     how many of the figures of a draw passed, failed, and were undecided, on average
  refused    share of draws in which a critical rule failed
  told       share of draws in which the gate failed something, warnings included
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from private import DELTA, TABLES, declared
from synthesizers import split

FIGURES = ("shape", "trend", "columns", "columns' pairs", "pairs", "kept")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fit: what was asked, real rows encoded, and synthetic ones."""

    marginals: tuple[Any, ...]
    names: dict[int, str]
    train: Any
    everything: Any
    synthetic: Any
    noise_std: float
    held: int


def fitted(data: Path, table: str, epsilon: float, work: Path) -> Case:
    """A release up to its rows."""
    import pyarrow as pa

    from pipelines import private
    from pipelines.drawing import released_batches
    from pipelines.recipe import load
    from pipelines.run import ENCODED, PROFILE, open_run
    from pipelines.steps import perform
    from synth.codec import Codec, Encoded
    from synth.constraints import Constraints
    from synth.profile import Profile
    from synth.rows import open_store

    train, held = split(data, table, 0, work, TABLES[table])
    folder = work / f"{table}-{epsilon:g}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "recipe.yaml").exists():
        declared(train, folder)
    changes = {
        "dataset": "benchmark",
        "holdout": str(held),
        "threads": 1,
        "privacy": {"epsilon": epsilon, "delta": DELTA},
    }
    run = open_run(load(folder / "recipe.yaml").with_fields(changes), folder, roots=[train.parent])
    for step in ("ingest", "profile", "fit", "sample"):
        perform(run, step)
    profile = Profile.from_json((run.workspace.path / PROFILE).read_text("utf-8"))
    constraints = Constraints(run.schema)
    codec = Codec(constraints.coded, profile)
    assert run.recipe.privacy is not None
    budget = private.budget_of(run.recipe.privacy, run.schema)
    marginals, noise = asked(codec.layout, range(len(codec.schema)), budget.report)
    table_of = pa.Table.from_batches(released_batches(run))
    batches = list(open_store(run.workspace.path / ENCODED, unit_is_row=True).batches())
    whole = Encoded(
        states=np.concatenate([b.columns["states"] for b in batches]),
        scores=np.concatenate([b.columns["scores"] for b in batches]),
    )
    out = np.concatenate([b.holdout for b in batches])
    return Case(
        marginals=marginals,
        names=dict(enumerate(codec.schema.names)),
        train=whole.take(np.flatnonzero(~out)),
        everything=whole,
        synthetic=codec.encode(constraints.encode(table_of)),
        noise_std=noise,
        held=int(out.sum()),
    )


def asked(layout: Any, learned: Sequence[int], rho: float) -> tuple[tuple[Any, ...], float]:
    """What a report with so much of the budget asks about, and the noise of each count."""
    from privacy.curator import Batch, ExactCurator
    from validation.coarse import question

    class Priced(ExactCurator):
        """A curator of no rows that knows the price of an answer."""

        def price(self, question: Any, *, share: float = 0.0) -> float:
            return float(1 / np.sqrt(2 * rho * share))

    class Nothing:
        unit_is_row = True

        def batches(self, columns: Any = None, *, size: Any = None) -> Iterator[Batch]:
            return iter(())

    curator = Priced(Nothing(), key=b"nobody asks it a thing")
    marginals = question(curator, layout, learned, seed=0)
    return marginals, curator.price(None, share=1 / len(marginals))


def made_up(epsilon: float, share: float, *, rows: int = 32_000, columns: int = 12) -> Case:
    """Normal columns with one common factor, cut into eight states; synthetic rows have a weaker factor."""
    from privacy.accounting import rho_for
    from synth.codec import Encoded, Field, Layout

    rng = np.random.default_rng(1)
    loads = np.linspace(0.1, 0.9, columns)

    def drawn(number: int, strength: float, moved: float) -> Encoded:
        factor = rng.standard_normal((number, 1))
        values = strength * loads * factor + np.sqrt(1 - (strength * loads) ** 2) * rng.standard_normal(
            (number, columns)
        )
        return Encoded(
            states=np.clip(np.floor((values + moved) * 1.5 + 4), 0, 7).astype(np.int32),
            scores=np.zeros((number, 0), np.float32),
        )

    everything = drawn(20 * rows, 1.0, 0.0)
    train = everything.take(slice(0, rows))
    fields = tuple(
        Field(name=f"c{c}", rates=tuple(np.bincount(train.states[:, c], minlength=8) / rows), score=None)
        for c in range(columns)
    )
    layout = Layout(fields=fields, rows=float(rows))
    marginals, noise = asked(layout, range(columns), share * rho_for(epsilon, DELTA))
    return Case(
        marginals=marginals,
        names={c: f"c{c}" for c in range(columns)},
        train=train,
        everything=everything,
        synthetic=drawn(rows, 0.9, 0.03),
        noise_std=noise,
        held=rows // 2,
    )


def damaged(case: Case) -> Iterator[tuple[str, Any]]:
    """The synthetic rows as they are, and with damage: columns moved against each other."""
    rng = np.random.default_rng(2)

    def moved(chosen: Sequence[int], together: bool) -> Any:
        rows, states = case.synthetic, case.synthetic.states.copy()
        scores = rows.scores.copy()
        order = rng.permutation(len(rows))
        for c in chosen:
            order = order if together else rng.permutation(len(rows))
            states[:, c] = states[order, c]
            field = next((a.bins.field for m in case.marginals for a in m.axes if a.column == c), None)
            if field is not None and field.score is not None:
                scores[:, field.score] = scores[order, field.score]
        return replace(rows, states=states, scores=scores)

    columns = sorted(case.names)
    yield "as drawn", case.synthetic
    yield "all pairs decorrelated", moved(columns, False)
    yield "half of the columns against the other half", moved(columns[::2], True)
    for c in columns:
        yield f"{case.names[c]} shuffled", moved([c], False)


def simulate(case: Case, synthetic: Any, *, held_out: bool, draws: int) -> dict[str, Any]:
    """Draws the answer often, and holds intervals against the truth and figures against the gate's limits."""
    from validation.coarse import Recount
    from validation.gates import GateRules, verdict
    from validation.noised import Drawn, noised

    rng = np.random.default_rng(3)
    drawn = [Drawn.of(m, synthetic) for m in case.marginals]
    source = case.everything if held_out else case.train
    cells = [m.cells(source) for m in case.marginals]
    sizes = [int(np.prod(m.shape)) for m in case.marginals]
    true = [np.bincount(c, minlength=s) / len(source) for c, s in zip(cells, sizes, strict=True)]
    truth = true_figures(case, drawn, true)
    held: dict[str, list[bool]] = {name: [] for name in FIGURES}
    width: dict[str, list[float]] = {name: [] for name in FIGURES}
    outcomes, refused, told = {"pass": 0, "fail": 0, "undecided": 0}, 0, 0
    for _ in range(draws):
        counts = [t * len(source) for t in true]
        if held_out:
            rows = rng.integers(len(source), size=case.held)
            counts = [np.bincount(c[rows], minlength=s) for c, s in zip(cells, sizes, strict=True)]
        recount = Recount(
            marginals=case.marginals,
            counts=tuple(
                np.rint(c + case.noise_std * rng.standard_normal(s)).reshape(m.shape)
                for c, s, m in zip(counts, sizes, case.marginals, strict=True)
            ),
            noise_std=case.noise_std,
            unit_rows=1,
            held_out=held_out,
        )
        found = noised(recount, case.names, drawn)
        assert found is not None
        for name, (ends, real) in intervals(found, truth).items():
            if ends:
                held[name].append(
                    all(a - 1e-9 <= r <= b + 1e-9 for (a, b), r in zip(ends, real, strict=True))
                )
                width[name].append(100 * float(np.mean([b - a for a, b in ends])))
        judged = verdict(None, (), GateRules(), noised=found)
        for j in judged.judged:
            outcomes[j.outcome] += 1
        refused += not judged.passed
        told += any(j.outcome == "fail" for j in judged.judged)
    return {
        "true": {name: round(float(truth[name]), 4) for name in ("shape", "trend")},
        "covered": {n: round(float(np.mean(h)), 3) for n, h in held.items() if h},
        "width": {n: round(float(np.mean(w)), 2) for n, w in width.items() if w},
        "judged": {n: round(k / draws, 1) for n, k in outcomes.items()},
        "refused": round(refused / draws, 3),
        "told": round(told / draws, 3),
    }


def true_figures(case: Case, drawn: Sequence[Any], true: Sequence[Any]) -> dict[str, Any]:
    """The same figures by plain means, with exact shares."""
    squares = [d.share.size / 4 * ((d.share - t) ** 2).sum() for d, t in zip(drawn, true, strict=True)]
    alone = [i for i, m in enumerate(case.marginals) if len(m.axes) == 1]
    pairs = [i for i, m in enumerate(case.marginals) if len(m.axes) == 2]

    def score(which: Sequence[int]) -> float:
        return 1 - min(1.0, float(np.sqrt(np.mean([squares[i] for i in which]))))

    def rest(share: Any, i: int) -> Any:
        joint = share.reshape(case.marginals[i].shape)
        return joint - joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)

    own = {case.marginals[i].axes[0].column: i for i in alone}
    of_column = {c: [i for i in pairs if c in {a.column for a in case.marginals[i].axes}] for c in own}
    kept = {}
    for c, which in of_column.items():
        weights = [true[i].size / 4 for i in which]
        both = [(rest(drawn[i].share, i), rest(true[i], i)) for i in which]
        a = sum(w * (s * h).sum() for w, (s, h) in zip(weights, both, strict=True))
        kept[case.names[c]] = a / max(
            sum(w * (h * h).sum() for w, (_, h) in zip(weights, both, strict=True)), 1e-300
        )
    return {
        "shape": score(alone),
        "trend": score(pairs),
        "columns": [score([own[c]]) for c in own],
        "columns' pairs": [score(of_column[c]) for c in own],
        "pairs": [score([i]) for i in pairs],
        "kept": kept,
    }


def intervals(found: Any, truth: dict[str, Any]) -> dict[str, tuple[list[tuple[float, float]], list[float]]]:
    """Intervals of each kind beside what is true."""

    def ends(scores: Sequence[Any]) -> list[tuple[float, float]]:
        return [(s.low, s.high) for s in scores]

    kept = [c for c in found.columns if c.kept is not None]
    return {
        "shape": (ends([found.shape]), [truth["shape"]]),
        "trend": (ends([found.trend]), [truth["trend"]]),
        "columns": (ends([c.shape for c in found.columns]), truth["columns"]),
        "columns' pairs": (ends([c.trend for c in found.columns]), truth["columns' pairs"]),
        "pairs": (ends([p.trend for p in found.pairs]), truth["pairs"]),
        "kept": (ends([c.kept for c in kept]), [truth["kept"][c.name] for c in kept]),
    }


def main() -> None:
    """Runs all that was asked for, one line of JSON each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--tables", default="made-up,adult")
    parser.add_argument("--epsilons", default="1,3")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.05, help="of made-up tables; fits take the default")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="understudy-noised-"))
    work.mkdir(parents=True, exist_ok=True)
    for table in given.tables.split(","):
        for epsilon in (float(e) for e in given.epsilons.split(",")):
            case = (
                made_up(epsilon, given.share)
                if table == "made-up"
                else fitted(given.data, table, epsilon, work)
            )
            for name, synthetic in damaged(case):
                for held_out in (False, True):
                    line = {"table": table, "epsilon": epsilon, "rows": name, "held_out": held_out}
                    line |= {"noise": round(case.noise_std), "marginals": len(case.marginals)}
                    # What is found of a single column's damage shows in fewer draws.
                    draws = given.draws // 5 if name.endswith(" shuffled") else given.draws
                    line["draws"] = max(1, draws)
                    found = simulate(case, synthetic, held_out=held_out, draws=max(1, draws))
                    print(json.dumps(line | found), flush=True)


if __name__ == "__main__":
    main()
