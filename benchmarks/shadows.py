"""Shadow models of configurations that leak, that should not, and that cannot: what the attack wins of each.

usage: python benchmarks/shadows.py DATA [NAME ...] [--table adult] [--rows 4000] [--models 32] [--targets 200]
           [--seed 0] [--threads 1]

DATA is a folder with tabular/NAME/*.parquet. NAME is a synthesizer, with its defaults; `overfitted`, a mixture with
half a component for each row, no pooling, and next to no smoothing; or a control that fits nothing: `strangers`, whose
synthetic rows are real ones that no shadow learns from, so that there is nothing to be found; `copies`, the same with
one row in twenty of those that the shadow learned from. One line of JSON each.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))

from private import TABLES

from privacy.curator import ExactCurator
from synth.infer import infer_table
from synth.rows import RawRows, table_source
from synth.table import fit
from validation.evidence import gather_shadows

PART = 0.05


def release(
    name: str, strangers: pa.Table, given: argparse.Namespace
) -> Callable[[pa.Table, object, int], pa.Table]:
    """What a shadow of this name makes of its rows."""

    def made(rows: pa.Table, _: object, number: int) -> pa.Table:
        rng = np.random.default_rng([given.seed, number])
        some = strangers.cast(rows.schema).take(rng.permutation(len(strangers))[: len(rows)])
        if name == "strangers":
            return some
        if name == "copies":
            copies = rows.take(rng.permutation(len(rows))[: int(PART * len(rows))])
            return pa.concat_tables([some.slice(len(copies)), copies])
        options, at_least = {}, 10
        if name == "overfitted":
            options = {"components": len(rows) // 2, "smoothing": 0.01, "min_std": 0.01}
            at_least = 0
        model = fit(
            rows, "gmm" if name == "overfitted" else name,
            seed=given.seed + number, at_least=at_least, threads=given.threads, options=options,
        )  # fmt: skip
        return model.sample(len(rows), seed=given.seed + number).cast(rows.schema)

    return made


def main() -> None:
    """Runs all that was asked for, one line of JSON each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "names", nargs="*", default=["strangers", "copies", "overfitted", "gmm", "circuit"], metavar="NAME"
    )
    parser.add_argument("--table", default="adult")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--models", type=int, default=32)
    parser.add_argument("--targets", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    file = TABLES.get(given.table, {}).get("file", f"{given.table}.parquet")
    every = pd.read_parquet(given.data / "tabular" / given.table / file)
    order = np.random.default_rng(given.seed).permutation(len(every))
    parts = order[: given.rows], order[given.rows : 2 * given.rows]
    rows, strangers = (
        pa.Table.from_pandas(every.iloc[np.sort(p)], preserve_index=False).replace_schema_metadata(None)
        for p in parts
    )
    schema = infer_table(rows)
    for name in given.names:
        began = time.process_time()
        raw = RawRows(schema, table_source(rows))
        found = gather_shadows(
            ExactCurator(raw, key=b"all", holdout=0.0), raw, schema, release(name, strangers, given),
            shadows=given.models, targets=given.targets, seed=given.seed,
        )  # fmt: skip
        line = {
            "shadows_of": name,
            "table": given.table,
            "rows": len(rows),
            "models": given.models,
            "seed": given.seed,
            "processor_seconds": round(time.process_time() - began, 1),
        }
        figures = {a.name: asdict(a) for a in found.open(formal_guarantee=False)}
        print(json.dumps({**line, **figures}), flush=True)


if __name__ == "__main__":
    main()
