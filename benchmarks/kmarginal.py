"""k-marginal score: is ours SDNist's?

usage: python benchmarks/kmarginal.py DATA --interpreter PYTHON_WITH_SDNIST

Half of nist_acs_ma2019 stands for the target, the other half, plain and with columns shuffled, for synthetic rows.
Numbers are binned once, by ours, and both score the same codes: ours in this process, SDNist (the package `sdnist`)
in the interpreter that is named. SDNist leaves out PUMA and INDP. Of up to 100 pairs ours takes all, of more it draws
100. Prints one JSON object a line.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from synth.infer import infer_table
from validation.associations import binned
from validation.cells import cells_of
from validation.structure import marginals

SDNIST = """
import sys, pandas as pd
import sdnist.report.score.utility  # it imports the metrics, which import it
from sdnist.metrics.kmarginal import KMarginal
print(KMarginal(pd.read_parquet(sys.argv[1]), pd.read_parquet(sys.argv[2])).compute_score())
"""


def main() -> None:
    """Reads the table and prints lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--interpreter", required=True)
    given = parser.parse_args()
    frame = pd.read_parquet(given.data / "tabular/nist_acs_ma2019/nist_acs_ma2019.parquet")
    frame = frame.drop(columns=["PUMA", "INDP"], errors="ignore").sample(frac=1, random_state=0)
    whole = pa.Table.from_pandas(frame, preserve_index=False)
    half = whole.num_rows // 2
    real, other = whole.slice(0, half), whole.slice(half)
    schema = infer_table(real)
    names = [c.name for c in schema if c.learned]
    rng = np.random.default_rng(0)
    for columns in (14, len(names)):
        for shuffled in (0, 3, columns):
            made = other.select(names[:columns])
            for i in range(shuffled):
                made = made.set_column(i, names[i], made[names[i]].take(pa.array(rng.permutation(len(made)))))
            tables = (real, other, made)
            cells = [cells_of(schema[n], tables) for n in names[:columns]]
            sides = {s: [binned(c, s) for c in cells] for s in ("train", "synthetic")}
            ours = marginals(
                list(zip(sides["train"], sides["synthetic"], strict=True)), 2, np.random.default_rng(0)
            )
            with tempfile.TemporaryDirectory() as folder:
                files = []
                for side, codes in sides.items():
                    files.append(f"{folder}/{side}.parquet")
                    pd.DataFrame(dict(zip(names, codes, strict=False))).to_parquet(files[-1])
                done = subprocess.run(
                    [given.interpreter, "-c", SDNIST, *files], capture_output=True, text=True, check=True
                )
            theirs = float(done.stdout.split()[-1])
            line = {
                "columns": columns,
                "shuffled": shuffled,
                "ours": round(ours, 6),
                "sdnist": round(theirs, 6),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
