"""Private synthesizers side by side: the whole pipeline under one epsilon, beside dpmm's and smartnoise's.

usage: python benchmarks/private.py DATA [NAME ...] [--tables adult,nist_acs_ma2019] [--epsilons 1] [--seeds 3]
       [--minutes 60] [--interpreter dpmm=PYTHON] [--interpreter smartnoise=PYTHON] [--work FOLDER]

DATA is a folder with tabular/NAME/*.parquet. NAME is one of ours (`marginals`, `gmm`, `circuit`, `vae`, `ctgan`),
dpmm-aim, dpmm-mst, dpmm-priv-bayes (dpmm 0.1.9; with `-paid` at the end they pay for their bins) or smartnoise-dpctgan,
smartnoise-aim, smartnoise-mst (smartnoise-synth 1.0.8, with its defaults). All are given the same public facts: the
categories of every column and the bounds of every number, as the training rows have them, about how many rows there
are, and delta 1e-6. Ours spends the epsilon on everything, bins included. dpmm has 32 bins cut by PrivTree along the
exact rows, which is not private, or pays a tenth of epsilon for their noise (`-paid`); smartnoise's AIM and MST have 32
equal bins for nothing, its DP-CTGAN draws categories by their exact counts for nothing. Ours is a release (`understudy
release`), so its seconds include everything but the evidence; every line says how long the fit alone took. One line of
JSON each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from synthesizers import TABLES as COMMON
from synthesizers import split

HERE = Path(__file__).parent
DELTA = 1e-6
BINS = 32

TABLES: dict[str, dict[str, Any]] = {**COMMON, "nist_acs_ma2019": {"target": "OWN_RENT"}}

PAID = 0.1
"""Share of epsilon for bins where they are paid for: dpmm's own default, at epsilon 1."""

DPMM = {"dpmm-aim": "AIMPipeline", "dpmm-mst": "MSTPipeline", "dpmm-priv-bayes": "PrivBayesPipeline"}


SMARTNOISE = {"smartnoise-dpctgan": "dpctgan", "smartnoise-aim": "aim", "smartnoise-mst": "mst"}

KEEPS_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**35), "MALLOC_TOP_PAD_": str(2**29)}
"""For smartnoise: gradients of rows are given back to the system after each step otherwise, at twice its seconds."""


def declared(train: Path, folder: Path) -> None:
    """A recipe and a schema for a table, with all facts declared as the rows have them."""
    import pandas as pd
    import pyarrow.parquet as pq
    import yaml

    from pipelines.init import initialize

    initialize(train, folder, blind=False, force=True)
    schema = yaml.safe_load((folder / "schema.yaml").read_text("utf-8"))
    rows = pd.read_parquet(train)
    for column in schema["columns"]:
        # What `init` writes is coarse, so that it shows no single row; dpmm is told what the rows have.
        values = rows[column["name"]].dropna()
        column["facts"] = "declared: the benchmark"
        if column["kind"] == "numerical":
            column["min"], column["max"] = values.min().item(), values.max().item()
        elif column["kind"] == "categorical":
            column["categories"] = sorted(values.unique().tolist())
    schema["units_about"] = int(pq.read_metadata(train).num_rows)
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema), "utf-8")


def ours(name: str, train: Path, held: Path, out: Path, epsilon: float, seed: int) -> dict[str, Any]:
    """A release with all facts declared, in a folder of its own."""
    import pyarrow.parquet as pq

    from pipelines.drawing import released_batches
    from pipelines.recipe import load
    from pipelines.run import open_run
    from pipelines.steps import perform

    folder = Path(tempfile.mkdtemp(dir=out.parent))
    declared(train, folder)
    changes = {
        "dataset": "benchmark",
        "synthesizer": name,
        "seed": seed,
        "holdout": str(held),
        "privacy": {"epsilon": epsilon, "delta": DELTA},
    }
    run = open_run(load(folder / "recipe.yaml").with_fields(changes), folder, roots=[train.parent])
    began = time.perf_counter()
    seconds = {step: perform(run, step).seconds for step in ("ingest", "profile", "fit", "sample")}
    done = time.perf_counter() - began
    import pyarrow as pa

    pq.write_table(pa.Table.from_batches(released_batches(run)), out)
    return {
        "fit_seconds": round(seconds["profile"] + seconds["fit"], 2),
        "release_seconds": round(done, 2),
    }


def dpmm(name: str, train: Path, out: Path, epsilon: float, seed: int) -> dict[str, Any]:
    """One of dpmm's, given its domain, with bins by its own method."""
    import dpmm.pipelines
    import pandas as pd

    frame = pd.read_parquet(train)
    domain: dict[str, Any] = {}
    for column, values in frame.items():
        if pd.api.types.is_numeric_dtype(values) and values.nunique() > BINS:
            domain[column] = {"lower": float(values.min()), "upper": float(values.max())}
        else:
            domain[column] = {"categories": sorted(values.dropna().unique().tolist(), key=str)}
    for column in frame.columns:
        if "categories" in domain[column]:
            frame[column] = frame[column].astype("category" if frame[column].dtype != object else object)
    bins = PAID * epsilon if name.endswith("-paid") else 0.0
    pipeline = getattr(dpmm.pipelines, DPMM[name.removesuffix("-paid")])(
        epsilon=epsilon - bins,
        delta=DELTA,
        proc_epsilon=bins or None,
        binner_type="priv-tree",
        n_bins=BINS,
        n_jobs=1,
    )
    began = time.perf_counter()
    pipeline.fit(frame, domain=domain, random_state=seed)
    fitted = time.perf_counter() - began
    pipeline.generate(n_records=len(frame), random_state=seed).to_parquet(out, index=False)
    return {"fit_seconds": round(fitted, 2), "release_seconds": round(time.perf_counter() - began, 2)}


def smartnoise(name: str, train: Path, out: Path, epsilon: float, seed: int) -> dict[str, Any]:
    """One of smartnoise's, given categories and bounds, so that it spends nothing on them."""
    import numpy as np
    import pandas as pd
    import torch
    from snsynth import Synthesizer
    from snsynth.transform import (
        BinTransformer,
        ChainTransformer,
        LabelTransformer,
        MinMaxTransformer,
        OneHotEncoder,
        TableTransformer,
    )

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    frame = pd.read_parquet(train)
    columns, whole = [], [c for c in frame if pd.api.types.is_integer_dtype(frame[c])]
    network = SMARTNOISE[name] == "dpctgan"
    for column, values in frame.items():
        missing = bool(values.isna().any())
        if pd.api.types.is_numeric_dtype(values) and values.nunique() > BINS:
            low, high = float(values.min()), float(values.max())
            number = {"lower": low, "upper": high, "nullable": missing}
            columns.append(MinMaxTransformer(**number) if network else BinTransformer(bins=BINS, **number))
        else:
            frame[column] = values.astype(object).where(values.notna(), None)
            label = LabelTransformer(nullable=missing)
            columns.append(ChainTransformer([label, OneHotEncoder()]) if network else label)
    more = {"verbose": False, "cuda": False} if network else {}
    fitter = Synthesizer.create(SMARTNOISE[name], epsilon=epsilon, delta=DELTA, **more)
    began = time.perf_counter()
    fitter.fit(frame, transformer=TableTransformer(columns), preprocessor_eps=0.0)
    fitted = time.perf_counter() - began
    drawn = fitter.sample(len(frame))
    for column in whole:
        drawn[column] = drawn[column].astype(float).round().astype("int64")
    drawn.to_parquet(out, index=False)
    return {"fit_seconds": round(fitted, 2), "release_seconds": round(time.perf_counter() - began, 2)}


def main() -> None:
    """Runs all that was asked for, one line of JSON each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", default=["marginals"], metavar="NAME")
    parser.add_argument("--tables", default="adult,nist_acs_ma2019")
    parser.add_argument("--epsilons", default="1")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--interpreter", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--fit", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fit:
        train, held, out, epsilon, seed = given.fit
        paths, name = (Path(train), Path(held), Path(out)), given.names[0]
        if name.removesuffix("-paid") in DPMM:
            print(json.dumps(dpmm(name, paths[0], paths[2], float(epsilon), int(seed))))
        elif name in SMARTNOISE:
            print(json.dumps(smartnoise(name, paths[0], paths[2], float(epsilon), int(seed))))
        else:
            print(json.dumps(ours(name, *paths, float(epsilon), int(seed))))
        return
    pythons = dict(text.split("=", 1) for text in given.interpreter)
    work = given.work or Path(tempfile.mkdtemp(prefix="understudy-bench-"))
    work.mkdir(parents=True, exist_ok=True)
    for table in given.tables.split(","):
        for epsilon in given.epsilons.split(","):
            for seed in range(given.seeds):
                train, held = split(given.data, table, seed, work, TABLES[table])
                for name in given.names:
                    print(
                        json.dumps(_line(given, pythons, table, epsilon, seed, train, held, name)), flush=True
                    )


def _line(
    given: Any,
    pythons: dict[str, str],
    table: str,
    epsilon: str,
    seed: int,
    train: Path,
    held: Path,
    name: str,
) -> dict[str, Any]:
    out = train.parent / f"{table}-{epsilon}-{seed}-{name}.parquet"
    python = pythons.get(name.split("-")[0], sys.executable)
    itself = [python, __file__, str(given.data), name]
    itself += ["--fit", str(train), str(held), str(out), epsilon, str(seed)]
    line: dict[str, Any] = {"table": table, "epsilon": float(epsilon), "synthesizer": name, "seed": seed}
    try:
        more = KEEPS_MEMORY if name in SMARTNOISE else {}
        done = subprocess.run(
            itself,
            capture_output=True,
            text=True,
            check=True,
            timeout=60 * given.minutes,
            env={**os.environ, **more},
        )
        card = [sys.executable, str(HERE / "scorecard.py"), str(train), str(held), str(out)]
        card += ["--target", TABLES[table]["target"]]
        scores = subprocess.run(card, capture_output=True, text=True, check=True)
        return line | json.loads(done.stdout.splitlines()[-1]) | json.loads(scores.stdout)
    except subprocess.TimeoutExpired:
        return line | {"error": f"longer than {given.minutes:g} minutes"}
    except subprocess.CalledProcessError as e:
        return line | {"error": e.stderr.strip()[-300:]}


if __name__ == "__main__":
    main()
