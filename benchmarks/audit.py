"""Audits by the dozen: how near a lower bound comes to what is true, and how often it says more than is promised.

usage: python benchmarks/audit.py gaussian [--epsilons 1,4,8] [--canaries 20000] [--runs 20]
       python benchmarks/audit.py DATA SYNTHESIZER [--table adult | digits] [--epsilons 1] [--runs 20]
           [--rows 10000] [--canaries 1000] [--options '{"steps": 20}'] [--fault silent | quiet | unclipped]

`gaussian` audits a bare histogram with discrete Gaussian noise, each canary alone in its cell, at delta 1e-6. The
other audits a whole recipe (`understudy audit`): profile and model on made-up rows that follow the table's schema, as
they are or with a fault: all noise left out, a fiftieth of it, or gradients as long as they are. One line of JSON for
each epsilon: the bounds, sorted, and how many are above what is promised. Without a fault at most 3 of 20 may be, at
95 % confidence; with one each should be.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from privacy.audit import Audit

# For the arrays of the tests.
sys.path.insert(0, str(Path(__file__).parent.parent))

DELTA = 1e-6


def gaussian(epsilon: float, canaries: int) -> "Audit":
    """The bounds of one run on a bare mechanism."""
    from privacy.accounting import rho_for
    from privacy.audit import audit
    from privacy.curator import Cells
    from privacy.mechanisms import SystemNoise
    from privacy.private import Account, PrivateCurator
    from tests.privacy.arrays import numbered

    rng = np.random.default_rng()
    included = rng.random(canaries) < 0.5
    rows = numbered(int(included.sum()), k=np.flatnonzero(included).astype(np.int64))
    account = Account(rho=rho_for(epsilon, DELTA))
    curator = PrivateCurator(rows, account, key=rng.bytes(16), noise=SystemNoise())
    cells = Cells(columns=("k",), edges=(np.arange(canaries, dtype=np.int64),))
    scores = curator.histogram([cells], share=1.0)[0].value[2:]
    return audit(np.resize(scores, canaries), included, delta=DELTA)


def recipe(
    data: Path,
    synthesizer: str,
    table: str,
    epsilon: float,
    folder: Path,
    rows: int,
    canaries: int,
    options: dict[str, Any],
) -> "Audit":
    """The bounds of one audit of a recipe."""
    import yaml
    from private import TABLES

    from pipelines.audit import examine
    from pipelines.init import initialize
    from pipelines.recipe import load
    from pipelines.run import open_run

    if table == "digits":
        source = next((data / "imaging" / "sklearn_digits").glob("*.parquet"))
    else:
        source = data / "tabular" / table / TABLES.get(table, {}).get("file", f"{table}.parquet")
    if not (folder / "recipe.yaml").exists():
        initialize(source, folder, blind=False, force=True)
        schema = yaml.safe_load((folder / "schema.yaml").read_text("utf-8"))
        for column in schema["columns"]:
            column["facts"] = "declared: the benchmark"
        schema["units_about"] = rows + canaries // 2
        (folder / "schema.yaml").write_text(yaml.safe_dump(schema), "utf-8")
    changes = {
        "dataset": "benchmark",
        "synthesizer": synthesizer,
        "options": options,
        "privacy": {"epsilon": epsilon, "delta": DELTA},
    }
    run = open_run(load(folder / "recipe.yaml").with_fields(changes), folder, roots=[source.parent])
    return examine(run, rows=rows, canaries=canaries).found


def plant(fault: str) -> None:
    """Breaks a promise, in this process."""
    from privacy.dpsgd import Layers
    from privacy.mechanisms import SystemNoise

    if fault == "unclipped":
        clipped = Layers.clipped
        Layers.clipped = lambda *args, **_: clipped(*args, bound=1e9)  # type: ignore[method-assign]
        return
    share = {"silent": 0.0, "quiet": 0.02}[fault]
    gaussian, normal = SystemNoise.gaussian, SystemNoise.normal
    SystemNoise.normal = lambda self, size: share * normal(self, size)  # type: ignore[method-assign]
    SystemNoise.gaussian = lambda self, values, *, scale: (  # type: ignore[method-assign]
        gaussian(self, values, scale=share * scale) if share else values
    )


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", help="`gaussian`, or the folder of the data")
    parser.add_argument("synthesizer", nargs="?")
    parser.add_argument("--table", default="adult")
    parser.add_argument("--epsilons", default="1")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--canaries", type=int, help="20,000 of a bare mechanism, 1,000 of a recipe")
    parser.add_argument("--options", type=json.loads, default={}, help="of the synthesizer, as JSON")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--fault", choices=["silent", "quiet", "unclipped"])
    given = parser.parse_args()
    if given.fault:
        plant(given.fault)
    for epsilon in map(float, given.epsilons.split(",")):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as name:
            if given.what == "gaussian":
                bounds = [gaussian(epsilon, given.canaries or 20_000) for _ in range(given.runs)]
            else:
                args: Any = (
                    Path(given.what),
                    given.synthesizer,
                    given.table,
                    epsilon,
                    Path(name),
                    given.rows,
                )
                bounds = [recipe(*args, given.canaries or 1_000, given.options) for _ in range(given.runs)]
        line = {
            "audited": given.synthesizer or given.what,
            "epsilon": epsilon,
            "fault": given.fault,
            **(
                {}
                if given.what == "gaussian"
                else {"table": given.table, "rows": given.rows, "options": given.options}
            ),
            "canaries": bounds[0].canaries,
            "runs": given.runs,
            "above": sum(b.epsilon > epsilon for b in bounds),
            "above_gaussian": sum(b.gaussian > epsilon for b in bounds),
            "median": round(float(np.median([b.epsilon for b in bounds])), 3),
            "median_gaussian": round(float(np.median([b.gaussian for b in bounds])), 3),
            "bounds": [round(b.epsilon, 3) for b in sorted(bounds, key=lambda b: b.epsilon)],
            "seconds": round(time.perf_counter() - began, 1),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
