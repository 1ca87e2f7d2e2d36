import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.init import initialize
from pipelines.plan import estimate
from pipelines.private import ledger_at
from pipelines.recipe import load
from pipelines.run import Run, open_run
from pipelines.steps import check, perform, release
from privacy.errors import BudgetRefused, InputError
from tests.contracts.test_contract import people
from tests.pipelines.test_layout import PRIVACY, private
from tests.synth.pictures import with_pictures


def bytes_read(run: Run) -> int:
    """How many bytes this process reads for a plan, a check and a refused release, whoever of it does."""

    def total() -> int:
        return int(Path("/proc/self/io").read_text("ascii").split()[1])

    before = total()
    estimate(run)
    check(run)
    with pytest.raises(BudgetRefused):
        release(run)
    return total() - before


@pytest.mark.skipif(sys.platform != "linux", reason="counts bytes as Linux does")
@pytest.mark.parametrize("form", ["csv", "gz", "parquet", "folder"])
def test_neither_a_plan_nor_a_refused_release_reads_rows(tmp_path: Path, form: str) -> None:
    dear = {"epsilon": 3.0, "delta": 1e-5, "lifetime": PRIVACY}
    counts = []
    for rows in (10, 10, 300_000):
        folder = tmp_path / f"{len(counts)}"
        run = private(folder, b"", privacy=dear)
        run = open_run(run.recipe.with_fields({"input": _table(folder, form, rows).name}), folder)
        counts.append(bytes_read(run))
    # The first reads imports as well. Files are read in blocks, so a little of what is beside the names is fetched.
    size = sum(f.stat().st_size for f in folder.rglob("t.*"))
    assert size > 3_000_000
    assert counts[2] - counts[1] < size / 3


def _table(folder: Path, form: str, rows: int) -> Path:
    (folder / "t.csv").unlink()
    draw = os.urandom(8 * rows).hex()
    table = pa.table({"region": [draw[16 * i : 16 * i + 16] for i in range(rows)], "n": list(range(rows))})
    text = b"region,n\n" + b"".join(
        f"{r},{n}\n".encode() for r, n in zip(*table.to_pydict().values(), strict=True)
    )
    if form == "parquet":
        pq.write_table(table, folder / "t.parquet", row_group_size=1_000_000)
        return folder / "t.parquet"
    if form == "gz":
        with pa.output_stream(str(folder / "t.csv.gz"), compression="gzip") as out:
            out.write(text)
        return folder / "t.csv.gz"
    target = folder / "t.csv" if form == "csv" else folder / "all" / "t.csv"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(text)
    return target if form == "csv" else target.parent


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_bytes_of_rows_are_not_looked_at_before_they_are_paid_for(tmp_path: Path, form: str) -> None:
    """Rows that nothing could read, under names that are as they should be."""
    dear = {"epsilon": 3.0, "delta": 1e-5, "lifetime": PRIVACY}
    run = private(tmp_path, b"region,n\n" + b'\xff\0"' * 100_000, privacy=dear)
    if form == "parquet":
        pq.write_table(pa.table({"region": ["x"] * 1_000, "n": [1] * 1_000}), tmp_path / "t.parquet")
        content = bytearray((tmp_path / "t.parquet").read_bytes())
        content[4:100] = b"\xff" * 96
        (tmp_path / "t.parquet").write_bytes(content)
        run = open_run(run.recipe.with_fields({"input": "t.parquet"}), tmp_path)
    estimate(run)
    with pytest.raises(BudgetRefused):
        release(run)
    with pytest.raises(InputError):
        perform(open_run(run.recipe.with_fields({"privacy": PRIVACY}), tmp_path), "ingest")
    assert [row.event for row in ledger_at(tmp_path).history("t")] == ["budget", "reserved", "touched"]


OPENED: list[str] = []
"""Files that Python opened while `watched` watches."""

_WATCHING: list[bool] = []
_HOOKED: list[bool] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _WATCHING:
        OPENED.append(str(arguments[0]))


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """Names of files that are opened meanwhile."""
    if not _HOOKED:
        sys.addaudithook(_hook)
        _HOOKED.append(True)
    OPENED.clear()
    _WATCHING.append(True)
    yield OPENED
    _WATCHING.clear()


def test_no_image_is_opened_before_it_is_paid_for(tmp_path: Path, watched: list[str]) -> None:
    images = with_pictures(people(30, seed=1), seed=1).column("photo").to_pylist()
    for number, image in enumerate(images):
        if image is not None:
            path = tmp_path / "scans" / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image["bytes"])
    initialize(tmp_path / "scans", tmp_path, blind=False, force=True)
    schema = (tmp_path / "schema.yaml").read_text("utf-8")
    (tmp_path / "schema.yaml").write_text(
        schema.replace("facts: observed", 'facts: "declared: the makers"'), "utf-8"
    )
    recipe = load(tmp_path / "recipe.yaml").with_fields({"dataset": "t", "privacy": PRIVACY})
    dear = recipe.with_fields({"privacy": {"epsilon": 3.0, "delta": 1e-5, "lifetime": PRIVACY}})
    watched.clear()
    estimate(open_run(dear, tmp_path))
    with pytest.raises(BudgetRefused):
        release(open_run(dear, tmp_path))
    assert not [name for name in watched if name.endswith(".png")]
    perform(open_run(recipe, tmp_path), "ingest")
    assert len([name for name in watched if name.endswith(".png")]) >= 20
