"""Evidence: do its figures agree with an independent scorecard, and how long does all of it take?

usage: python benchmarks/evidence.py DATA [--only agree|time] [--rows 6000]

Prints one JSON object a line. `agree`: three real tables; real rows with five columns partly shuffled and 1 % of copies
stand for synthetic ones, and are measured by `understudy evaluate` and by `benchmarks/scorecard.py`. `time`:
`understudy evaluate` in a process of its own on Adult with rows of a mixture and on 1,000,000 rows by 20 columns, with
its largest resident size, and SDMetrics' report alone.
"""

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scorecard import quality, score

import synth
from pipelines.evaluate import Asked, evaluate

TABLES = (
    ("magic_gamma", "magic_gamma/magic_gamma.parquet", "class"),
    ("california_housing", "california_housing/california_housing.parquet", "median_house_value"),
    ("adult", "adult/adult_train.parquet", "income"),
)
ADULT = TABLES[2][1]


def written(folder: Path, name: str, **sides: pd.DataFrame) -> None:
    """A file for each side."""
    for side, rows in sides.items():
        rows.to_parquet(folder / f"{name}-{side}.parquet")


def roughened(frame: pd.DataFrame, rows: int) -> tuple[pd.DataFrame, ...]:
    """Training rows, half as many held-out rows, and as many others, which are damaged."""
    frame = frame.sample(frac=1, random_state=1).reset_index(drop=True)
    rows = min(rows, int(len(frame) / 2.5))
    cuts = (rows, rows + rows // 2, 2 * rows + rows // 2)
    train, holdout, made = (frame.iloc[a:b].reset_index(drop=True) for a, b in itertools.pairwise((0, *cuts)))
    rng = np.random.default_rng(0)
    for name in frame.columns[1:6]:
        moved = rng.random(len(made)) < 0.35
        values = made[name].to_numpy(copy=True)
        values[moved] = rng.permutation(values[moved])
        made[name] = values
    copies = len(made) // 100
    return train, holdout, pd.concat([made.iloc[copies:], train.iloc[:copies]], ignore_index=True)


def fitted(path: Path, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Adult's training rows and as many of a mixture; a fifth is held out."""
    frame = pd.read_parquet(path).sample(frac=1, random_state=1).reset_index(drop=True)
    most = int(0.8 * len(frame))
    train, holdout = frame.iloc[:most].reset_index(drop=True), frame.iloc[most:].reset_index(drop=True)
    synthetic = synth.fit(train, "gmm", seed=0).sample(len(frame), seed=0)
    written(folder, "adult", train=train, holdout=holdout, synthetic=synthetic)
    return train, synthetic


def agree(data: Path, folder: Path, rows: int) -> Iterator[dict[str, object]]:
    """The same figures from two sides."""
    for name, file, target in TABLES:
        train, holdout, synthetic = roughened(pd.read_parquet(data / "tabular" / file), rows)
        written(folder, name, train=train, holdout=holdout, synthetic=synthetic)
        told = score(train, holdout, synthetic, target=target, seed=0)
        found = evaluate(
            Asked(
                real=folder / f"{name}-train.parquet",
                holdout=folder / f"{name}-holdout.parquet",
                synthetic=folder / f"{name}-synthetic.parquet",
                targets=(target,),
            )
        ).evidence
        fidelity, detection, use = found.fidelity, found.detection, found.utility
        assert detection is not None
        assert use is not None
        trees = use.tasks[0].scores[0]
        ours = {
            "shape_err": 100 * (1 - (fidelity.shape or 0)),
            "trend_err": 100 * (1 - (fidelity.trend or 0)),
            "detect_auc": detection.auc.value,
            "tstr": trees.synthetic.value,
            "trtr": trees.real.value,
            "copies": fidelity.copies or 0.0,
        }
        for figure, value in ours.items():
            yield {
                "what": "agree", "table": name, "figure": figure,
                "ours": round(value, 4), "scorecard": told[figure],
            }  # fmt: skip


def large(rows: int, seed: int) -> pa.Table:
    """Ten numbers and ten categories that hang together, half a million different values in all."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, 4))
    columns: dict[str, pa.Array] = {}
    for i in range(10):
        mixed = hidden @ np.random.default_rng(i).normal(size=4) + rng.normal(size=rows)
        columns[f"number {i}"] = pa.array(np.round(mixed, 4), mask=rng.random(rows) < 0.02 * i)
        cells = np.digitize(mixed, np.linspace(-4, 4, 3 + 3 * i))
        columns[f"word {i}"] = pa.array([f"w{k}" for k in range(40)]).take(pa.array(cells))
    return pa.table(columns)


def timed(folder: Path, name: str) -> dict[str, object]:
    """`understudy evaluate` on three files, with wall seconds and the largest resident size."""
    files = [str(folder / f"{name}-{side}.parquet") for side in ("train", "synthetic", "holdout")]
    command = [
        str(Path(sys.executable).with_name("understudy")),
        "evaluate",
        *files[:2],
        "--holdout",
        files[2],
    ]
    begun = time.perf_counter()
    child = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE)
    output = child.stdout.read() if child.stdout is not None else b""
    _, status, used = os.wait4(child.pid, 0)
    said = json.loads(output)
    return {
        "what": "time", "table": name, "seconds": round(time.perf_counter() - begun, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1), "megabytes": round(used.ru_maxrss / 1024),
        "exit": os.waitstatus_to_exitcode(status), "passed": said["passed"],
    }  # fmt: skip


def durations(data: Path, folder: Path, _rows: int) -> Iterator[dict[str, object]]:
    """All evidence, and SDMetrics' report alone."""
    train, synthetic = fitted(data / "tabular" / ADULT, folder)
    yield timed(folder, "adult")
    begun = time.perf_counter()
    quality(train, synthetic)
    yield {"what": "sdmetrics alone", "table": "adult", "seconds": round(time.perf_counter() - begun, 1)}
    for seed, (side, rows) in enumerate(
        (("train", 1_000_000), ("holdout", 200_000), ("synthetic", 1_000_000))
    ):
        pq.write_table(large(rows, seed), folder / f"large-{side}.parquet")
    yield timed(folder, "large")
    frames = [pd.read_parquet(folder / f"large-{side}.parquet") for side in ("train", "synthetic")]
    begun = time.perf_counter()
    quality(*frames)
    yield {"what": "sdmetrics alone", "table": "large", "seconds": round(time.perf_counter() - begun, 1)}


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", choices=("agree", "time"))
    parser.add_argument("--rows", type=int, default=6_000)
    given = parser.parse_args()
    parts = {"agree": agree, "time": durations}
    with tempfile.TemporaryDirectory() as folder:
        for part in [given.only] if given.only else parts:
            for line in parts[part](given.data, Path(folder), given.rows):
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    with contextlib.suppress(KeyboardInterrupt):
        main()
