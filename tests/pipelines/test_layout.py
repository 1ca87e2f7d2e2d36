from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.aside import Aside
from pipelines.ingest import batches, sniff
from pipelines.init import initialize
from pipelines.layout import Layout, Told
from pipelines.private import ledger_at
from pipelines.recipe import load
from pipelines.run import Run, open_run
from pipelines.steps import check, perform
from privacy.errors import InputError, RowError

PRIVACY = {"epsilon": 1.0, "delta": 1e-5}
ENCODINGS = {"utf-8": b"caf\xe9", "cp1252": b"caf\x81", "utf-16": b"\x00\xd8"}
"""Encoding → bytes that are no text in it."""

COLUMNS = pa.schema([("region", pa.string()), ("n", pa.int64())])


def encoded(text: str, encoding: str) -> bytes:
    """UTF-16 without its mark, which stands once in a file."""
    return text.encode("utf-16-le" if encoding == "utf-16" else encoding)


def rows_of(
    path: Path, encoding: str = "utf-8", *, most: int = 0, delimiter: str = ","
) -> tuple[list[dict[str, Any]], Aside]:
    layout = Layout.model_validate({"encoding": encoding, "delimiter": delimiter})
    source, aside = sniff(path, told=Told(columns=tuple(COLUMNS.names), layout=layout)), Aside(most=most)
    return pa.Table.from_batches(batches(source, COLUMNS, aside=aside)).to_pylist(), aside


def private(folder: Path, content: bytes, *, columns: str = "region,n", **fields: object) -> Run:
    """A run that asks for privacy, of a table that `init` has never seen."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "t.csv").write_bytes(content)
    kinds = {"n": "numerical, type: int64", "column_2": "numerical, type: int64"}
    lines = [
        f"- {{name: {c}, kind: {kinds.get(c, 'categorical, type: string')}}}" for c in columns.split(",")
    ]
    (folder / "schema.yaml").write_text("\n".join(["columns:", *lines]), "utf-8")
    (folder / "recipe.yaml").write_text("name: t\ninput: t.csv\ndataset: t\n", "utf-8")
    return open_run(load(folder / "recipe.yaml").with_fields({"privacy": PRIVACY, **fields}), folder)


def ingested(run: Run) -> list[dict[str, Any]]:
    perform(run, "ingest")
    found: list[dict[str, Any]] = pq.read_table(run.workspace.path / "rows.parquet").to_pylist()
    return found


# ------------------------------------------------------------------------------------- a row moves no other row


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("at", [0, 700, 3_000])
def test_a_row_of_other_bytes_moves_no_other_row(tmp_path: Path, encoding: str, at: int) -> None:
    lines = [encoded(f"{('süd', 'köln')[i % 2]},{i}\n", encoding) for i in range(3_000)]
    head = "region,n\n".encode(encoding)
    odd = ENCODINGS[encoding] + encoded(",7\n", encoding)
    (tmp_path / "d.csv").write_bytes(head + b"".join(lines))
    (tmp_path / "e.csv").write_bytes(head + b"".join([*lines[:at], odd, *lines[at:]]))
    without, _ = rows_of(tmp_path / "d.csv", encoding)
    beside, aside = rows_of(tmp_path / "e.csv", encoding, most=1)
    assert without == beside
    assert len(without) == 3_000
    assert (without[0]["region"], without[1]["region"]) == ("süd", "köln")
    (broken,) = [b.to_dict() for b in aside.rows]
    assert (broken["line"], broken["encoding"]) == (at + 2, encoding)
    with pytest.raises(RowError, match=f"text in {encoding}.* line {at + 2}") as refused:
        rows_of(tmp_path / "e.csv", encoding)
    assert "line" not in str(refused.value.public())


@given(
    odd=st.binary(max_size=12).filter(lambda b: not set(b) & set(b'",\r\n')),
    encoding=st.sampled_from(["utf-8", "cp1252"]),
)
def test_whatever_bytes_a_row_holds_the_others_are_read_as_without_it(
    tmp_path_factory: pytest.TempPathFactory, odd: bytes, encoding: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    before, after = (encoded(f"{word},1\n", encoding) for word in ("süd", "köln"))
    path.write_bytes(b"region,n\n" + before + odd + b",2\n" + after)
    found, _ = rows_of(path, encoding, most=1)
    assert [r["region"] for r in found if r["n"] == 1] == ["süd", "köln"]


def test_rows_that_do_not_decode_and_rows_of_another_width_share_what_may_be_set_aside(
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"region,n\nx,1\ncaf\xe9,2\nx,3,4\ncaf\xe9,3,4\ny,5\n")
    found, aside = rows_of(path, most=3)
    assert [r["n"] for r in found] == [1, 5]
    assert [b.to_dict()["line"] for b in aside.rows] == [3, 4, 5]
    with pytest.raises(RowError, match="broken_rows: 2"):
        rows_of(path, most=2)


def test_under_privacy_one_row_more_flips_no_encoding(tmp_path: Path) -> None:
    content = b"region,n\n" + "süd,1\nköln,2\n".encode() * 50
    odd = b"caf\xe9,3\n"
    without = ingested(private(tmp_path / "d", content))
    assert without[0]["region"] == "süd"
    assert ingested(private(tmp_path / "e", content + odd, broken_rows=1)) == without
    refused = private(tmp_path / "f", content + odd)
    with pytest.raises(InputError, match=r"text in utf-8.*refused\.txt") as caught:
        perform(refused, "ingest")
    assert "102" not in str(caught.value)
    assert "line 102" in (refused.workspace.path / "refused.txt").read_text("utf-8")


def test_under_privacy_rows_decide_no_delimiter_and_no_header(tmp_path: Path) -> None:
    rows = b"a;1,2\n" * 2_000  # which sniffing takes for two columns by semicolons, and for no header
    assert ingested(private(tmp_path / "d", b"region,n\n" + rows))[0] == {"region": "a;1", "n": 2}
    plain = private(tmp_path / "e", b"x,1\ny,2\n", columns="column_1,column_2")
    assert ingested(plain) == [{"column_1": "x", "column_2": 1}, {"column_1": "y", "column_2": 2}]


def test_what_a_recipe_says_holds_under_privacy_and_without(tmp_path: Path) -> None:
    content = "region;n\nsüd;1\n".encode("cp1252")
    said = {"csv": {"encoding": "cp1252", "delimiter": ";"}}
    assert ingested(private(tmp_path / "a", content, **said)) == [{"region": "süd", "n": 1}]
    with pytest.raises(InputError, match="- 'region' is missing"):
        check(private(tmp_path / "b", content))
    exact = private(tmp_path / "c", "region,n\nsüd,1\n".encode("cp1252"), privacy=None, csv={})
    with pytest.raises(InputError, match="text in utf-8"):
        perform(exact, "ingest")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_init_writes_how_a_file_is_written_and_a_private_run_reads_it_so(
    tmp_path: Path, encoding: str, delimiter: str
) -> None:
    text = delimiter.join(["region", "n"]) + "\n" + "".join(f"süd{delimiter}{i}\n" for i in range(40))
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    initialize(tmp_path / "t.csv", tmp_path, blind=False, force=True)
    recipe = load(tmp_path / "recipe.yaml")
    assert (recipe.csv is None) == (encoding == "utf-8" and delimiter == ",")
    run = open_run(recipe.with_fields({"privacy": PRIVACY}), tmp_path)
    assert [r["region"] for r in ingested(run)] == ["süd"] * 40


def test_a_column_that_is_missing_is_named_and_nothing_else_is_said_of_rows(tmp_path: Path) -> None:
    run = private(tmp_path, b"n\n1\n")
    with pytest.raises(InputError, match="'region' is missing") as caught:
        check(run)
    assert "refused.txt" not in str(caught.value)
    assert not (run.workspace.path / "refused.txt").exists()
    assert ledger_at(tmp_path).datasets() == ()
