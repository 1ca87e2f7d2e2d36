"""Synthesizers side by side on real tables: seconds, rows per second, and the scorecard; ours and those of others.

usage: python benchmarks/synthesizers.py DATA [NAME ...] [--tables adult,...] [--seeds 5] [--work FOLDER]
       [--interpreter arfpy=PYTHON] [--epochs 300] [--at-least 0] [--minutes 30]

DATA is a folder with tabular/NAME/*.parquet (docs/benchmarks.md says which tables and where they are from). NAME is one
of ours, or a peer: sdv-gaussian-copula, sdv-ctgan, sdv-tvae, sdv-copula-gan, arfpy, mostlyai. Identifiers are dropped
for all alike; a table without a file of held-out rows is split at random, four fifths for training. Every fit runs in
a process of its own, with the interpreter that --interpreter names for a peer that needs another environment, and
prints one line of JSON. `plain_seconds` is what writing the drawn table alone takes. A fit that takes longer than
--minutes is given up; mostlyai is told to train for ten minutes at most.
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

HERE = Path(__file__).parent

TABLES: dict[str, dict[str, Any]] = {
    "adult": {"file": "adult_train.parquet", "holdout": "adult_test.parquet", "target": "income"},
    "credit_default": {"drop": ["ID"], "target": "default.payment.next.month"},
    "magic_gamma": {"target": "class"},
    "bank_marketing": {"target": "y"},
    "california_housing": {"target": "median_house_value"},
    "diabetes_130": {"drop": ["encounter_id", "patient_nbr"], "target": "readmitted"},
    "loans_full": {"drop": ["emp_title"], "target": "interest_rate"},
    "king_county_housing": {"drop": ["id"], "target": "price"},
}

SDV = {
    "sdv-gaussian-copula": "GaussianCopulaSynthesizer",
    "sdv-ctgan": "CTGANSynthesizer",
    "sdv-tvae": "TVAESynthesizer",
    "sdv-copula-gan": "CopulaGANSynthesizer",
}


def split(
    data: Path, name: str, seed: int, work: Path, about: dict[str, Any] | None = None
) -> tuple[Path, Path]:
    """Writes the training and the held-out rows of a table, of which `about` says what `TABLES` says of others."""
    import numpy as np
    import pandas as pd

    about = about or TABLES[name]
    folder = data / "tabular" / name
    whole = pd.read_parquet(folder / about.get("file", f"{name}.parquet")).drop(columns=about.get("drop", []))
    if "holdout" in about:
        train, held = whole, pd.read_parquet(folder / about["holdout"])
    else:
        order = np.random.default_rng(seed).permutation(len(whole))
        cut = int(0.8 * len(whole))
        train, held = whole.iloc[order[:cut]], whole.iloc[order[cut:]]
    paths = work / f"{name}-{seed}-train.parquet", work / f"{name}-{seed}-held.parquet"
    train.to_parquet(paths[0], index=False)
    held.to_parquet(paths[1], index=False)
    return paths


def fit(name: str, train: Path, out: Path, seed: int, epochs: int | None, at_least: int) -> dict[str, float]:
    """Fits one synthesizer and draws as many rows as it has learned from; runs in a process of its own."""
    import pandas as pd

    frame = pd.read_parquet(train)
    began = time.perf_counter()
    if name in SDV:
        drawn, fitted = _sdv(name, frame, seed, epochs)
    elif name == "arfpy":
        drawn, fitted = _arfpy(frame)
    elif name == "mostlyai":
        drawn, fitted = _mostlyai(frame, out.with_suffix(""), seed)
    else:
        import synth

        more = {} if epochs is None or name not in ("vae", "ctgan") else {"epochs": epochs}
        model = synth.fit(frame, name, seed=seed, at_least=at_least, options=more)
        fitted = time.perf_counter()
        drawn = model.sample(len(frame), seed=seed)
    drawn_at = time.perf_counter()
    drawn.to_parquet(out, index=False)
    done = time.perf_counter()
    return {
        "fit_seconds": round(fitted - began, 2),
        "rows_per_second": round(len(drawn) / (done - fitted)),
        "plain_seconds": round(done - drawn_at, 3),
        "cores": len(os.sched_getaffinity(0)),
    }


def _sdv(name: str, frame: Any, seed: int, epochs: int | None) -> tuple[Any, float]:
    import sdv.single_table
    import torch
    from sdv.metadata import Metadata

    torch.manual_seed(seed)
    metadata = Metadata.detect_from_dataframes({"table": frame})
    more = {} if epochs is None or name == "sdv-gaussian-copula" else {"epochs": epochs}
    model = getattr(sdv.single_table, SDV[name])(metadata, **more)
    model.fit({"table": frame})
    fitted = time.perf_counter()
    return model.sample(len(frame))["table"], fitted


def _arfpy(frame: Any) -> tuple[Any, float]:
    from arfpy import arf

    model = arf.arf(x=frame)
    model.forde()
    fitted = time.perf_counter()
    return model.forge(n=len(frame)), fitted


def _mostlyai(frame: Any, folder: Path, seed: int) -> tuple[Any, float]:
    import pandas as pd
    from mostlyai import engine

    engine.set_random_state(seed)
    engine.split(tgt_data=frame, workspace_dir=folder, model_type="TABULAR")
    engine.analyze(workspace_dir=folder)
    engine.encode(workspace_dir=folder)
    engine.train(workspace_dir=folder, max_training_time=10)
    fitted = time.perf_counter()
    engine.generate(workspace_dir=folder, sample_size=len(frame))
    return pd.read_parquet(folder / "SyntheticData"), fitted


def main() -> None:
    """Runs all that was asked for, one line of JSON each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", default=["circuit", "vae", "ctgan", "gmm", *SDV], metavar="NAME")
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--at-least", type=int, default=10, help="disclosure control of ours; 0: none")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--interpreter", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--fit", nargs=3, metavar=("TRAIN", "OUT", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fit:
        train, out, seed = given.fit
        print(
            json.dumps(fit(given.names[0], Path(train), Path(out), int(seed), given.epochs, given.at_least))
        )
        return
    pythons = dict(text.split("=", 1) for text in given.interpreter)
    work = given.work or Path(tempfile.mkdtemp(prefix="understudy-bench-"))
    work.mkdir(parents=True, exist_ok=True)
    more = ["--at-least", str(given.at_least)]
    more += [] if given.epochs is None else ["--epochs", str(given.epochs)]
    for table in given.tables.split(","):
        for seed in range(given.seeds):
            train, held = split(given.data, table, seed, work)
            for name in given.names:
                out = work / f"{table}-{seed}-{name}.parquet"
                itself = [pythons.get(name, sys.executable), __file__, str(given.data), name, *more]
                itself += ["--fit", str(train), str(out), str(seed)]
                shown = f"{name}, no disclosure control" if given.at_least == 0 else name
                line: dict[str, Any] = {"table": table, "synthesizer": shown, "seed": seed}
                try:
                    done = subprocess.run(
                        itself, capture_output=True, text=True, check=True, timeout=60 * given.minutes
                    )
                    card = [sys.executable, str(HERE / "scorecard.py"), str(train), str(held), str(out)]
                    card += ["--target", TABLES[table]["target"]]
                    scores = subprocess.run(card, capture_output=True, text=True, check=True)
                    line |= json.loads(done.stdout.splitlines()[-1]) | json.loads(scores.stdout)
                except subprocess.TimeoutExpired:
                    line["error"] = f"longer than {given.minutes:g} minutes"
                except subprocess.CalledProcessError as e:
                    line["error"] = e.stderr.strip()[-300:]
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
