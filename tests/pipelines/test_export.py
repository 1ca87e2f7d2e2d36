import csv
import datetime
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cli import run as command
from pipelines.export import export, plain_batch
from pipelines.ingest import batches, sniff
from pipelines.publish import publish
from pipelines.steps import Outcome
from privacy.errors import ReleaseError, UsageError

EVIL = ["=1+1", "+1", "-1+1|cmd", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n@x", "＝1", '=HYPERLINK("http://x")']
TAME = ["a=b", "1-2", "me@example.org", "", "'=1", "#"]


@given(st.text(max_size=5) | st.sampled_from(EVIL + TAME))
def test_no_text_begins_like_a_formula_and_others_stay(text: str) -> None:
    # The other name is longer than any text, lest a table of one name is made.
    found, count = plain_batch(pa.record_batch({text: pa.array([text, None]), "number": pa.array([-1, 2])}))
    (cell, missing), name = found.column(0).to_pylist(), found.schema.names[0]
    assert missing is None
    assert cell == name
    assert cell.lstrip("\0 \n\t\r\v\f")[:1] not in set("=+-@＝＋－＠") or cell.startswith("'")
    assert cell == (f"'{text}" if count else text)
    assert found.column(1).to_pylist() == [-1, 2]


@pytest.mark.parametrize("text", EVIL)
def test_what_begins_like_a_formula_is_escaped(text: str) -> None:
    assert plain_batch(pa.record_batch({"x": [text]}))[0].column(0).to_pylist() == [f"'{text}"]


@pytest.mark.parametrize("text", TAME)
def test_what_does_not_stays(text: str) -> None:
    assert plain_batch(pa.record_batch({"x": [text]}))[0].column(0).to_pylist() == [text]


def test_every_type_of_a_release_can_be_written(tmp_path: Path) -> None:
    table = pa.table(
        {
            "d": pa.array([datetime.timedelta(hours=1)], pa.duration("us")),
            "t": pa.array([datetime.time(1, 2)], pa.time64("us")),
            "z": pa.array([datetime.datetime(2020, 1, 1)], pa.timestamp("us", tz="UTC")),
            "f": pa.array([1.5], pa.float16()),
            "e": pa.array(["=x"]).dictionary_encode(),
            "n": pa.nulls(1),
            "m": pa.array([1], pa.decimal128(9, 2)),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    release = publish(tmp_path / "root", "t", {"data/part-00000.parquet": tmp_path / "t.parquet"})
    assert export(release, tmp_path / "t.csv") == (1, 1)
    rows = list(csv.reader((tmp_path / "t.csv").open(encoding="utf-8")))
    assert rows[1][0] == "3600000000"
    assert rows[1][4] == "'=x"


def test_the_command_exports_what_is_read_again(
    done: Outcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.csv.gz"
    assert command(["export", str(done.release), str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 1_000
    assert gzip.decompress(out.read_bytes())
    table = pq.read_table(done.release / "data")
    read = pa.Table.from_batches(batches(sniff(out), table.schema.remove_metadata()))
    assert read["age"].equals(table["age"])
    assert command(["export", str(done.release), str(out)]) == 2


def test_a_damaged_release_is_not_exported(copied: Path, tmp_path: Path) -> None:
    (copied / "schema.json").write_text("{}")
    with pytest.raises(ReleaseError, match="differs"):
        export(copied, tmp_path / "x.csv")
    with pytest.raises(UsageError, match="needs a folder"):
        export(copied, tmp_path / "no" / "x.csv")
    assert list(tmp_path.glob("*x.csv*")) == []
