"""Attacks on synthetic tables whose leakage is known, and on ours: rates with their intervals, and seconds.

usage: python benchmarks/attacks.py DATA [NAME ...] [--tables adult,magic_gamma] [--seeds 1] [--work FOLDER]

DATA is a folder with tabular/NAME/*.parquet (docs/benchmarks.md says which tables and where they are from). NAME is a
synthesizer (default: circuit, gmm), fitted as by default, or a control: `held-out`, half of the held-out rows as
synthetic rows, beside the other half; `copies`, rows of gmm of which 5 % are training rows; `near`, the same with noise
of a hundredth of a standard deviation on each number. Prints one line of JSON for each.
"""

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from synthesizers import split  # noqa: E402

import synth  # noqa: E402
from privacy.attacks import Attack, attack  # noqa: E402
from synth.table import TableModel  # noqa: E402
from validation.exposure import sides_of  # noqa: E402
from validation.gates import GateRules, verdict  # noqa: E402

CONTROLS = ("held-out", "copies", "near")
PART = 0.05


def leaky(drawn: pd.DataFrame, train: pd.DataFrame, seed: int, *, noise: float) -> pd.DataFrame:
    """Synthetic rows, of which a part is training rows, with noise of this share of a standard deviation."""
    rng = np.random.default_rng(seed)
    some = train.sample(round(PART * len(drawn)), random_state=seed)
    for name in some.select_dtypes("number") if noise else ():
        values = some[name].astype(float)
        some[name] = values + noise * train[name].std() * rng.normal(size=len(some))
    return pd.concat([drawn.iloc[len(some) :].astype(some.dtypes), some], ignore_index=True)


def made(
    name: str,
    train: pd.DataFrame,
    held: pd.DataFrame,
    models: Mapping[str, "TableModel[pd.DataFrame]"],
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Held-out and synthetic rows."""
    if name == "held-out":
        return held.iloc[::2], held.iloc[1::2]
    drawn = models["gmm" if name in CONTROLS else name].sample(len(train), seed=seed)
    if name in CONTROLS:
        drawn = leaky(drawn, train, seed, noise=0.01 if name == "near" else 0.0)
    return held, drawn


def shown(attack: Attack) -> dict[str, Any]:
    """The figures of an attack, in percent but for the area under the curve."""
    figures = {"success": attack.success, "control": attack.control, "risk": attack.risk.value}
    ends = {"low": attack.risk.low, "high": attack.risk.high}
    area = {} if attack.auc is None else {"auc": round(attack.auc.value, 3)}
    return {k: round(100 * v, 2) for k, v in (figures | ends).items()} | area


def main() -> None:
    """Runs all that was asked for, one line of JSON each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", default=["circuit", "gmm", *CONTROLS], metavar="NAME")
    parser.add_argument("--tables", default="adult,magic_gamma")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="understudy-bench-"))
    work.mkdir(parents=True, exist_ok=True)
    for table in given.tables.split(","):
        for seed in range(given.seeds):
            train, held = (pd.read_parquet(path) for path in split(given.data, table, seed, work))
            wanted = {"gmm" if n in ("copies", "near") else n for n in given.names} - set(CONTROLS) | {"gmm"}
            models = {name: synth.fit(train, name, seed=seed) for name in sorted(wanted)}
            for name in given.names:
                rows = made(name, train, held, models, seed)
                arrow = [pa.Table.from_pandas(f, preserve_index=False) for f in (train, *rows)]
                sides = sides_of(*arrow, models["gmm"].schema)
                before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
                found = attack(sides, np.random.default_rng(seed))
                seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
                judged = verdict(None, (), GateRules(), found)
                line = {"table": table, "synthesizer": name, "seed": seed, "user_seconds": round(seconds, 1)}
                line |= {
                    "rows": [len(train), *map(len, rows)],
                    "refused_by": sorted({f.rule for f in judged.critical}),
                }
                print(json.dumps(line | {a.name: shown(a) for a in found.done}), flush=True)


if __name__ == "__main__":
    main()
