import bz2
import csv
import datetime
import gzip
import io
import lzma
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.aside import Aside
from pipelines.delimited import MISSING
from pipelines.ingest import batches, digest, infer_types, sniff
from pipelines.init import initialize
from pipelines.recipe import load
from privacy.errors import InputError, RowError, SchemaError
from synth.schema import Schema

FOLDER_STAYS = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, schema: pa.Schema | None = None, *, batch_rows: int = 65536) -> pa.Table:
    source = sniff(path)
    return pa.Table.from_batches(batches(source, schema or infer_types(source), batch_rows=batch_rows))


def column(path: Path, cells: list[str], name: str = "x") -> pa.ChunkedArray:
    rows = "".join(f"{cell},1\n" for cell in cells)
    return read(write(path / "t.csv", f"{name},other\n{rows}"))[name]


# --------------------------------------------------------------------------------------------------- sniff


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    rows = [["name", "amount"], ["a, b", "1"], ["c; d", "2"]]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    source = sniff(write(tmp_path / "t.csv", text.getvalue()))
    assert (source.delimiter, source.columns) == (delimiter, ("name", "amount"))


def test_decimal_commas_do_not_win_over_semicolons(tmp_path: Path) -> None:
    assert sniff(write(tmp_path / "t.csv", "a;b\n1,5;2,5\n2,5;3,5\n")).delimiter == ";"


@pytest.mark.parametrize(
    ("encoding", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("cp1252", "cp1252"),
        ("ascii", "utf-8"),
    ],
)
def test_the_encoding_is_found_and_read(tmp_path: Path, encoding: str, found: str) -> None:
    word = "plain" if encoding == "ascii" else "Zürich"
    path = write(tmp_path / "t.csv", f"city,n\n{word},1\n".encode(encoding))
    assert sniff(path).encoding == found
    assert read(path).to_pylist() == [{"city": word, "n": 1}]


def test_a_letter_far_into_the_file_decides_the_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ("city,n\n" + "Bern,1\n" * 400_000 + "Zürich,2\n").encode("cp1252"))
    assert sniff(path).encoding == "cp1252"
    assert read(path)["city"][-1].as_py() == "Zürich"


def test_line_ends_of_carriage_returns_alone_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b\r" + "".join(f"{i},x\r" for i in range(500_000)))
    table = read(path)
    assert table.num_rows == 500_000
    assert table.schema.field("a").type == pa.int64()


def test_quoted_newlines_and_delimiters_belong_to_the_cell(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'a,b\n1,"two\nlines, ""quoted"""\n2,x\n')
    assert read(path)["b"].to_pylist() == ['two\nlines, "quoted"', "x"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blank_lines_hold_no_row(tmp_path: Path, end: str) -> None:
    path = write(tmp_path / "t.csv", end.join(["", "", "a,b", "1,2", "", "3,4", "", ""]))
    assert read(path).to_pylist() == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]


def test_a_header_with_a_newline_is_one_row(tmp_path: Path) -> None:
    assert read(write(tmp_path / "t.csv", '"a\nb",c\n1,2\n')).to_pylist() == [{"a\nb": 1, "c": 2}]


def test_a_table_of_one_column_is_a_table(tmp_path: Path) -> None:
    assert read(write(tmp_path / "t.csv", "name\nx\ny\n")).to_pylist() == [{"name": "x"}, {"name": "y"}]


def test_a_first_row_of_numbers_is_no_header(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "6,148,33.6,g\n1,85,26.6,h\n")
    assert sniff(path).columns == ("column_1", "column_2", "column_3", "column_4")
    assert read(path).num_rows == 2


BOB = "Bob Jones,Basel,77,HIV\n"
PEOPLE = "".join(f"P{chr(97 + i)} Q{chr(97 + i)},Bern,{40 + i},flu\n" for i in range(20))
ADULT = "".join(
    f"{39 + i}, {job}, {77516 + 13 * i}, Bachelors, {13 - i % 3}, single, clerk, none, White, Male, {i}, 0, "
    f"{40 + i % 2}, {land}, <=50K\n"
    for i, (job, land) in enumerate([("State-gov", "US"), ("?", "?"), ("Private", "Cuba")] * 9)
)
HEADERLESS = {
    "one number": BOB + PEOPLE,
    "only that row": BOB,
    "one code among the numbers": BOB + PEOPLE + "Al Bo,Bern,unknown,flu\n",
    "a text that recurs": "Bob Jones,Basel,HIV\nAnn Hu,Bern,flu\nEve Wu,Basel,flu\nJo Li,Basel,HIV\n",
    "a date": "Bob Jones,1948-02-03\nAnn Hu,1950-12-31\n",
    "a truth value": "Bob Jones,true\nAnn Hu,False\n",
    "a mail address": "Bob Jones,bob@example.org\nAnn Hu,ann@example.org\n",
    "years over years": "Bob Jones,2019,2020\nAnn Hu,2011,2020\n",
    "two numbers that count up": "Bob Jones,1,2\nAnn Hu,2,2\n",
    "a missing cell": "Bob Jones,,HIV\nAnn Hu,Bern,flu\nEve Wu,Basel,flu\n",
    "a text twice": "Bob Jones,yes,yes\nAnn Hu,no,yes\nEve Wu,no,no\n",
    "adult.data": ADULT,
}


@pytest.mark.parametrize("text", HEADERLESS.values(), ids=HEADERLESS)
def test_a_first_row_of_data_is_not_published_as_names(tmp_path: Path, text: str) -> None:
    source = sniff(write(tmp_path / "t.csv", text))
    assert not source.header
    assert source.columns == tuple(f"column_{i}" for i in range(1, len(source.columns) + 1))
    assert read(source.path).num_rows == text.count("\n")


HEADERS = {
    "names over numbers": "name,age\nBob,77\nAnn,76\n",
    "names over text": "name,town\nBob,Basel\nAnn,Basel\n",
    "years over text": "name,2019,2020\nBob,flu,none\nAnn,none,none\nEve,none,flu\n",
    "years that skip": "country,2010,2015,2020\nCH,7.8,8.2,8.6\nAT,8.3,8.6,8.9\n",
    "wave lengths": "sample,400,410,420,430\nx,0.1,0.2,0.3,0.4\ny,0.1,0.3,0.2,0.4\n",
    "places": "0,1,2\n5.1,3.5,0\n4.9,3.0,1\n",
    "an index and places": ",0,1,2\n0,5,3,0\n1,4,3,1\n",
    "dates over numbers": "store,2020-01-01,2020-01-08\nx,1,2\ny,3,4\n",
    "boxes that hold their name": "id,Windows,Linux\n1,Windows,\n2,Windows,Linux\n3,,Linux\n",
    "a name that one row repeats": "type,age\na,1\ntype,2\nb,3\n",
    "a name that many rows repeat, beside numbers": "a,c\n1,c\n2,b\n3,c\n4,a\n",
    "a name too few among others": "name,,age\nBob,Basel,77\nAnn,Bern,76\n",
    "no rows": "name,age\n",
    "no rows and years": "name,2019,2020\n",
}


@pytest.mark.parametrize("text", HEADERS.values(), ids=HEADERS)
def test_ordinary_names_are_a_header(tmp_path: Path, text: str) -> None:
    assert sniff(write(tmp_path / "t.csv", text)).header


def test_init_says_that_there_is_no_header(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", BOB + PEOPLE)
    warnings = initialize(path, tmp_path, blind=False, force=False).warnings
    assert any("t.csv has no header line; columns are named column_1 … column_4" in w for w in warnings)
    assert "Jones" not in (tmp_path / "schema.yaml").read_text("utf-8") + " ".join(warnings)
    write(path, "name,town,age,finding\n" + BOB + PEOPLE)
    warnings = initialize(path, tmp_path, blind=False, force=True).warnings
    assert not any("header" in w for w in warnings)


def test_years_may_be_names(tmp_path: Path) -> None:
    assert sniff(write(tmp_path / "t.csv", "country,2019,2020,2021\nCH,1,2,3\n")).columns[1] == "2019"


def test_a_nameless_column_is_named_by_its_place(tmp_path: Path) -> None:
    assert sniff(write(tmp_path / "t.csv", ",a\n0,x\n1,y\n")).columns == ("column_1", "a")


def test_a_folder_is_searched_but_not_its_hidden_and_underscored_parts(tmp_path: Path) -> None:
    for name in ("b.csv", "sub/a.CSV", "_SUCCESS", "_old/c.csv", ".git/d.csv", "README.md"):
        write(tmp_path / name, "a,b\n1,2\n")
    source = sniff(tmp_path)
    assert [source.name_of(f) for f in source.files] == ["b.csv", "sub/a.CSV"]
    assert read(tmp_path).num_rows == 2


def test_releases_below_an_input_are_no_part_of_it(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), write(tmp_path / "t.parquet", ""))
    for folder in ("releases/t/0123456789abcdef", ".understudy/runs/t", "releases/t/.staging"):
        inner = write(tmp_path / folder / "data" / "part-0.parquet", "")
        pq.write_table(pa.table({"a": [3]}), inner)
    write(tmp_path / "releases/t/0123456789abcdef/SHA256SUMS", "")
    (tmp_path / "releases/t/latest").symlink_to("0123456789abcdef")
    source = sniff(tmp_path)
    assert [source.name_of(f) for f in source.files] == ["t.parquet"]
    assert read(tmp_path).num_rows == 2


def test_a_release_itself_can_be_an_input(tmp_path: Path) -> None:
    write(tmp_path / "SHA256SUMS", "")
    write(tmp_path / "t.csv", "a,b\n1,2\n")
    assert read(tmp_path).num_rows == 1


PACKED = b"city,n\n" + b"".join(b"%d,%d\n" % (i * i, i) for i in range(1, 200_000))
"""More than what is looked at first."""


def zstd(content: bytes) -> bytes:
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(content)
    return packed.getvalue().to_pybytes()


REFUSED = {
    "empty": ({"t.csv": b""}, "empty"),
    "no files": ({"notes.md": b"x"}, "holds none"),
    "truncated parquet": ({"t.parquet": b"PAR1" + b"\0" * 100}, "t.parquet is truncated"),
    "text named parquet": ({"t.parquet": b"a,b\n1,2\n"}, "does not"),
    "damaged parquet": ({"t.parquet": b"PAR1" + b"\7" * 100 + b"PAR1"}, "t.parquet is damaged"),
    "no gzip after all": ({"t.csv": b"\x1f\x8b\x08\x00abc"}, "t.csv is damaged"),
    "gzip that breaks off": ({"t.csv": gzip.compress(PACKED)[:-9]}, "t.csv is damaged"),
    "xz that breaks off": ({"t.csv": lzma.compress(PACKED)[:-9]}, "t.csv is damaged"),
    "bzip2 that breaks off": ({"t.csv": bz2.compress(PACKED)[:-9]}, "t.csv is damaged"),
    "zstd that breaks off": ({"t.csv": zstd(PACKED)[:-9]}, "t.csv is damaged"),
    "a packed nothing": ({"t.csv.gz": gzip.compress(b"")}, "empty"),
    "zip": ({"t.csv": b"PK\x03\x04abc"}, "zip archive"),
    "packed parquet": ({"t.parquet": gzip.compress(b"PAR1abcdPAR1")}, "unpack it first"),
    "binary": ({"t.csv": b"a,b\n\0\0,1\n"}, "NUL"),
    "mixed formats": ({"a.csv": b"a\n1\n", "b.parquet": None}, "one format"),
    "name twice": ({"t.csv": b"a,b,a\n1,2,3\n"}, "columns 1 and 3 have the same"),
    "column missing in one": (
        {"a.csv": b"a,b\n1,2\n", "b.csv": b"a,c\n1,2\n"},
        "b.csv must have every column",
    ),
    "column too many in one": ({"a.csv": b"a,b\n1,2\n", "b.csv": b"a,b,c\n1,2,3\n"}, "column 3"),
    "two delimiters": ({"a.csv": b"a,b\n1,2\n", "b.csv": b"a;b\n1;2\n"}, "one delimiter"),
    "two encodings": (
        {"a.csv": "a,b\né,2\n".encode(), "b.csv": "a,b\né,2\n".encode("cp1252")},
        "one encoding",
    ),
    "partitions of other names": (
        {"year=2020/a.csv": b"a,b\n1,2\n", "jahr=2021/a.csv": b"a,b\n1,2\n"},
        "jahr=2021/a.csv has jahr and year=2020/a.csv has year",
    ),
    "partitions and none": (
        {"year=2020/a.csv": b"a,b\n1,2\n", "a.csv": b"a,b\n1,2\n"},
        "a.csv has none and year=2020/a.csv has year",
    ),
}


@pytest.mark.parametrize(("files", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_table_is_refused(tmp_path: Path, files: dict[str, bytes | None], message: str) -> None:
    for name, content in files.items():
        if content is None:
            pq.write_table(pa.table({"a": [1]}), tmp_path / name)
        else:
            write(tmp_path / name, content)
    path = next(tmp_path.iterdir()) if len(files) == 1 and "/" not in next(iter(files)) else tmp_path
    with pytest.raises(InputError, match=message):
        sniff(tmp_path if "notes.md" in files else path)


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_packed_csv_is_the_csv(tmp_path: Path, suffix: str) -> None:
    plain = read(write(tmp_path / "plain" / "t.csv", PACKED))
    # Named after what it is in a folder, and known by its first bytes under any name.
    for path in (tmp_path / "folder" / f"t.csv{suffix}", tmp_path / "other" / "t.csv"):
        write(path, PACKERS[suffix](PACKED))
        assert read(path.parent).equals(plain)
        assert read(path).equals(plain)


@pytest.mark.parametrize("suffix", PACKERS)
def test_what_was_packed_piece_by_piece_is_read_whole(tmp_path: Path, suffix: str) -> None:
    pack = PACKERS[suffix]
    path = write(tmp_path / f"t.csv{suffix}", pack(b"a,b\n1,2\n") + pack(b"3,4\n5,6\n"))
    assert read(path).to_pylist() == [{"a": 1, "b": 2}, {"a": 3, "b": 4}, {"a": 5, "b": 6}]


def test_what_folders_say_is_a_column(tmp_path: Path) -> None:
    pq.write_to_dataset(
        pa.table(
            {"x": [1, 2, 3], "year": [2020, 2021, 2021], "town": ["a b", None, "c/d"], "month": ["01"] * 3}
        ),
        str(tmp_path / "t"),
        partition_cols=["year", "town", "month"],
    )
    found = read(tmp_path / "t")
    assert found.schema.types == [pa.int64(), pa.int64(), pa.string(), pa.string()]
    assert sorted(found.to_pylist(), key=lambda r: r["x"]) == [
        {"x": 1, "year": 2020, "town": "a b", "month": "01"},
        {"x": 2, "year": 2021, "town": None, "month": "01"},
        {"x": 3, "year": 2021, "town": "c/d", "month": "01"},
    ]


def test_partitions_of_csv_files_are_columns_too(tmp_path: Path) -> None:
    write(tmp_path / "day=2020-01-01" / "t.csv", "a,b\n1,2\n")
    write(tmp_path / "day=2020-01-02" / "t.csv", "a,b\n3,4\n")
    found = read(tmp_path)
    assert found["day"].to_pylist() == [datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)]


def test_a_column_that_stands_in_the_files_as_well_is_taken_from_them(tmp_path: Path) -> None:
    write(tmp_path / "year=2020" / "t.csv", "a,year\n1,20\n")
    assert read(tmp_path).to_pylist() == [{"a": 1, "year": 20}]


# ------------------------------------------------------------------------------------------------ broken rows

BROKEN = 'a,b\n1,2\n"x\ny",4\n\n5,6,7\n8,9\n10\n'


def test_broken_rows_are_set_aside_with_their_lines(tmp_path: Path) -> None:
    source = sniff(write(tmp_path / "t.csv", BROKEN))
    aside = Aside(most=2)
    schema = pa.schema([("a", pa.string()), ("b", pa.int64())])
    rows = pa.Table.from_batches(batches(source, schema, aside=aside)).to_pylist()
    assert rows == [{"a": "1", "b": 2}, {"a": "x\ny", "b": 4}, {"a": "8", "b": 9}]
    assert [(b.file, b.line, b.cells, b.text) for b in aside.rows] == [
        ("t.csv", 6, 3, ("5", "6", "7")),
        ("t.csv", 8, 1, ("10",)),
    ]


@pytest.mark.parametrize("most", [0, 1])
def test_more_broken_rows_than_allowed_are_refused_with_a_line_but_not_shown(
    tmp_path: Path, most: int
) -> None:
    source = sniff(write(tmp_path / "t.csv", BROKEN))
    line, cells = [(6, 3), (8, 1)][most]
    with pytest.raises(RowError, match=f"`broken_rows: {most}` allows.*line {line} has {cells}") as caught:
        infer_types(source, Aside(most=most))
    assert "7" not in str(caught.value)
    assert f"{line}" not in str(caught.value.public())


def test_the_broken_rows_of_all_files_count_together(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write(tmp_path / name, "a,b\n1,2\n3,4\n5\n")
    with pytest.raises(RowError, match=r"b\.csv"):
        infer_types(sniff(tmp_path), Aside(most=1))
    aside = Aside(most=2)
    infer_types(sniff(tmp_path), aside)
    assert aside.lines == "a.csv line 4, b.csv line 4"


def test_init_counts_broken_rows_and_a_recipe_takes_them(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "name,age\n" + "Bern,30\nBasel,40\n" * 300 + "Chur\nGenf,2,3\n")
    (warning,) = [w for w in initialize(path, tmp_path, blind=False, force=False).warnings if "cells" in w]
    assert "2 rows have too many or too few cells: t.csv line 602, t.csv line 603" in warning
    assert load(tmp_path / "recipe.yaml").broken_rows == 2


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither"):
        sniff(tmp_path / "nothing.csv")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside.csv", "a,b\n1,2\n")
    (tmp_path / "data").mkdir()
    os.symlink(outside, tmp_path / "data" / "t.csv")
    with pytest.raises(InputError, match="link"):
        sniff(tmp_path / "data")


# --------------------------------------------------------------------------------------------------- types

TYPES = {
    "integers": (["1", "-20", "0"], pa.int64()),
    "beyond 2^53": (["9007199254740993", "-9223372036854775808"], pa.int64()),
    "beyond int64": (["9223372036854775808", "1"], pa.string()),
    "large among floats": (["9223372036854775808", "1.5"], pa.float64()),
    "leading zeros": (["00123", "45678"], pa.string()),
    "leading zeros of floats": (["007.5", "1.5"], pa.string()),
    "phone numbers": (["+41791234567", "+41791234568"], pa.string()),
    "floats": (["1.5", "-.5", "1e-3", "2"], pa.float64()),
    "fixed digits": (["12.50", "3.00"], pa.float64()),
    "hexadecimal": (["0x1F", "0x2A"], pa.string()),
    "truth": (["true", "False", "TRUE"], pa.bool_()),
    "yes": (["yes", "no"], pa.string()),
    "dates": (["2020-02-29", "1899-12-31"], pa.date32()),
    "no date": (["2021-02-29", "2020-01-01"], pa.string()),
    "times": (["2020-01-01T10:00:00", "2020-01-01 10:00:00.123456"], pa.timestamp("us")),
    "dates and times": (["2020-01-01", "2020-01-01 10:00"], pa.timestamp("us")),
    "zoned": (["2020-01-01T10:00:00Z", "2020-01-01T10:00:00+02:00"], pa.timestamp("us", tz="UTC")),
    "zoned and not": (["2020-01-01T10:00:00Z", "2020-01-01T10:00:00"], pa.string()),
    "nanoseconds": (["2020-01-01T10:00:00.123456789", "2020-01-01T10:00:00"], pa.timestamp("ns")),
    "zoned nanoseconds": (["2020-01-01T10:00:00.123456789Z"], pa.timestamp("ns", tz="UTC")),
    "nanoseconds long ago": (["1500-01-01T10:00:00.123456789"], pa.string()),
    "integers and text": (["1", "x"], pa.string()),
    "padded": (["  1", "2  "], pa.int64()),
    "nothing": (["", "NA"], pa.string()),
}


@pytest.mark.parametrize(("cells", "type"), TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("gap", ["", "NA"])
def test_the_type_fits_every_value(tmp_path: Path, cells: list[str], type: pa.DataType, gap: str) -> None:
    found = column(tmp_path, [*cells, gap])
    assert found.type == type
    assert found[len(cells)].as_py() is None


def test_a_column_that_turns_to_text_on_a_late_row_is_text(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b\n" + "".join(f"{i},1234567\n" for i in range(500_000)) + "x,1\n")
    assert infer_types(sniff(path)).types == [pa.string(), pa.int64()]


def test_quotes_make_a_missing_word_a_text_in_strings_only(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'country,n\n"NA",1\nNA,"NA"\n"",""\nCH,4\n')
    table = read(path)
    assert table["country"].to_pylist() == ["NA", None, "", "CH"]
    assert table["n"].to_pylist() == [1, None, None, 4]


def test_zoned_times_come_in_utc(tmp_path: Path) -> None:
    value = column(tmp_path, ["2020-01-01T00:30:00+02:00"])[0].as_py()
    assert value == datetime.datetime(2019, 12, 31, 22, 30, tzinfo=datetime.UTC)


def test_files_of_a_folder_decide_a_type_together(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "a,b\n1,2\n")
    write(tmp_path / "b.csv", "b,a\n2,1.5\n")
    assert read(tmp_path).to_pylist() == [{"a": 1.0, "b": 2}, {"a": 1.5, "b": 2}]


@FOLDER_STAYS
@given(values=st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=30))
def test_every_int64_survives_a_csv(tmp_path: Path, values: list[int | None]) -> None:
    found = column(tmp_path, ["" if v is None else str(v) for v in values])
    assert found.to_pylist() == values


WORDS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=12)


@FOLDER_STAYS
@given(values=st.lists(WORDS, min_size=1, max_size=30))
def test_every_quoted_string_survives_a_csv(tmp_path: Path, values: list[str]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["x", "other"], *([v, "é"] for v in values)])
    path = write(tmp_path / "t.csv", text.getvalue())
    schema = pa.schema([("x", pa.string()), ("other", pa.string())])
    assert read(path, schema)["x"].to_pylist() == values


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "i": pa.array([1, None], pa.int8()),
            "d": pa.array(["1.50", None], pa.string()).cast(pa.decimal128(10, 2)),
            "t": pa.array([1, None], pa.timestamp("ns", tz="Europe/Zurich")),
            "s": pa.array([1, None], pa.duration("s")),
            "c": pa.array(["x", None]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert read(tmp_path).to_pylist() == table.to_pylist()
    assert infer_types(sniff(tmp_path)).types == table.schema.types


def test_categorical_columns_of_pandas_are_read(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"c": pandas.Categorical(["x", None, "y"], ordered=True)})
    frame.to_parquet(tmp_path / "t.parquet")
    found = read(tmp_path, batch_rows=1)
    assert pa.types.is_dictionary(found["c"].type)
    assert found["c"].to_pylist() == ["x", None, "y"]


def test_what_no_schema_can_name_becomes_text_with_the_same_gaps(tmp_path: Path) -> None:
    table = pa.table(
        {
            "l": [[1], None, []],
            "s": [{"a": 1}, None, {"a": None}],
            "b": [b"x", None, b""],
            "m": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert read(tmp_path).to_pylist() == [dict.fromkeys("lsbm", v) for v in ("(text)", None, "(text)")]


def test_nan_is_missing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, float("nan"), None]}), tmp_path / "t.parquet")
    assert read(tmp_path)["x"].to_pylist() == [1.0, None, None]


def test_parquet_files_that_disagree_are_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"a": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet: 'a' is string, and int64 before"):
        infer_types(sniff(tmp_path))


def test_a_parquet_file_without_values_agrees_with_the_others(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.nulls(1)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"a": ["x"]}), tmp_path / "b.parquet")
    assert read(tmp_path)["a"].to_pylist() == [None, "x"]


# ------------------------------------------------------------------------------------------------- batches


@given(batch_rows=st.integers(1, 40))
@FOLDER_STAYS
def test_batches_are_no_longer_than_asked_and_lose_no_row(tmp_path: Path, batch_rows: int) -> None:
    path = write(tmp_path / "t.csv", "a,b\n" + "".join(f"{i},x\n" for i in range(33)))
    source = sniff(path)
    parts = list(batches(source, infer_types(source), batch_rows=batch_rows))
    assert max(p.num_rows for p in parts) <= batch_rows
    assert [v for p in parts for v in p["a"].to_pylist()] == list(range(33))


def test_columns_come_in_the_schemas_order(tmp_path: Path) -> None:
    schema = pa.schema([("b", pa.string()), ("a", pa.int32())])
    assert read(write(tmp_path / "t.csv", "a,b\n1,2\n"), schema).schema == schema


def test_a_table_without_rows_gives_one_empty_batch(tmp_path: Path) -> None:
    assert read(write(tmp_path / "t.csv", "a,b\n")).num_rows == 0


CONVERTED = {
    "int": ("7", pa.int16(), 7),
    "decimal": ("1.50", pa.decimal128(5, 2), None),
    "clock": ("10:30:00", pa.time64("us"), datetime.time(10, 30)),
    "duration": ("90", pa.duration("s"), datetime.timedelta(seconds=90)),
    "category": ("x", pa.dictionary(pa.int8(), pa.string()), "x"),
}


@pytest.mark.parametrize(("cell", "type", "value"), CONVERTED.values(), ids=CONVERTED)
def test_a_cell_takes_the_type_that_the_schema_names(
    tmp_path: Path, cell: str, type: pa.DataType, value: object
) -> None:
    path = write(tmp_path / "t.csv", f"x,other\n{cell},1\nNA,1\n")
    found = read(path, pa.schema([("x", type), ("other", pa.int64())]))["x"]
    assert found.type == type
    assert found[1].as_py() is None
    assert value is None or found[0].as_py() == value


@pytest.mark.parametrize("row", [1, 2, 777, 1000])
@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_wrong_value_is_named_by_file_column_and_row_but_not_shown(
    tmp_path: Path, format: str, row: int
) -> None:
    values = ["secret" if i == row else str(i) for i in range(1, 1001)]
    if format == "csv":
        write(tmp_path / "t.csv", "x,other\n" + "".join(f"{v},1\n" for v in values))
    else:
        pq.write_table(pa.table({"x": values, "other": [1] * 1000}), tmp_path / "t.parquet")
    schema = pa.schema([("x", pa.int64()), ("other", pa.int64())])
    with pytest.raises(InputError, match=rf"t\.{format}: 'x', about row {row}, is not int64") as caught:
        read(tmp_path, schema, batch_rows=100)
    assert "secret" not in str(caught.value)


def test_a_missing_value_where_none_may_be_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "x,other\n1,1\nNA,1\n")
    schema = pa.schema([pa.field("x", pa.int64(), nullable=False), ("other", pa.int64())])
    with pytest.raises(InputError, match="'x', about row 2"):
        read(path, schema)


@pytest.mark.parametrize(("names", "message"), [(["a", "b", "c"], "'c' is missing"), (["a"], "'b' is new")])
def test_columns_must_be_those_of_the_schema(tmp_path: Path, names: list[str], message: str) -> None:
    path = write(tmp_path / "t.csv", "a,b\n1,2\n")
    with pytest.raises(InputError, match=message):
        read(path, pa.schema([(n, pa.int64()) for n in names]))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\nsecret\n", "must have 2 cells"), ('a,b\n1,"secret\n' + "2,3\n" * 3_000_000, "quote")],
)
def test_a_malformed_csv_is_refused_without_quoting_it(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert "secret" not in str(caught.value)


def test_a_parquet_file_with_damaged_pages_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": list(range(100_000))}), path, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[100:20_000] = b"\xff" * 19_900
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"t\.parquet is damaged"):
        read(path)


def test_missing_words_stay_few() -> None:
    assert "None" not in MISSING
    assert "" in MISSING


# -------------------------------------------------------------------------------------------------- digest


def test_the_digest_changes_with_content_names_and_files(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.csv", "a,b\n1,2\n")
    same = write(tmp_path / "b" / "x.csv", "a,b\n1,2\n").parent
    first = digest(sniff(tmp_path / "a"))
    assert digest(sniff(same)) == first
    write(same / "x.csv", "a,b\n1,3\n")
    changed = digest(sniff(same))
    write(same / "x.csv", "a,b\n1,2\n").rename(same / "y.csv")
    renamed = digest(sniff(same))
    write(same / "z.csv", "a,b\n1,2\n")
    assert len({first, changed, renamed, digest(sniff(same))}) == 4


def test_a_header_that_the_schema_names_is_one_whatever_the_rows_look_like(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", '"x","other"\n"0","a"\n"x","a"\n"x","a"\n')
    assert not sniff(path).header
    schema = pa.schema([("x", pa.string()), ("other", pa.string())])
    assert read(path, schema)["x"].to_pylist() == ["0", "x", "x"]


@pytest.mark.parametrize(
    ("written", "first", "last"),
    [
        ("DD-MM-YYYY", "05-02-2010", "26-02-2010"),
        ("DD/MM/YYYY", "5/2/2010", "26/2/2010"),
        ("DD.MM.YYYY", "05.02.2010", "26.02.2010"),
        ("MM-DD-YYYY", "02-05-2010", "02-26-2010"),
        ("MM/DD/YYYY", "2/5/2010", "2/26/2010"),
        ("YYYY/MM/DD", "2010/02/05", "2010/02/26"),
        ("YYYY.MM.DD", "2010.2.5", "2010.2.26"),
    ],
)
def test_dates_are_read_as_they_are_written(tmp_path: Path, written: str, first: str, last: str) -> None:
    path = write(tmp_path / "t.csv", f"day,at\n{first},{first} 7:05\n {last} ,{last}T23:59:58\n,\n")
    table = read(path)
    days = [datetime.date(2010, 2, 5), datetime.date(2010, 2, 26), None]
    assert table.column("day").to_pylist() == days
    assert table.schema.field("day").type == pa.date32()
    assert table.column("at").to_pylist() == [
        datetime.datetime(2010, 2, 5, 7, 5), datetime.datetime(2010, 2, 26, 23, 59, 58), None
    ]  # fmt: skip
    initialize(path, tmp_path, blind=False, force=False)
    schema = Schema.parse((tmp_path / "schema.yaml").read_text("utf-8"), source="schema.yaml")
    assert [c.dates for c in schema] == [written, written]
    assert read(path, schema.source).column("day").to_pylist() == days
    # Where it is written down, it binds: the 26th is no month, and the 31st of February no day.
    for wrong in ("2010-02-31", "31-02-2010", "31.02.2010", "yesterday"):
        write(path, f"day,at\n{wrong},\n")
        with pytest.raises(InputError, match="'day', about row 1, is not date32"):
            read(path, schema.source)


def test_where_day_and_month_may_be_exchanged_somebody_must_say(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "day\n" + "01/02/2010\n03/04/2010\n" * 20)
    assert read(path).schema.field("day").type == pa.string()
    said = initialize(path, tmp_path, blind=False, force=False)
    assert any("day and month may be exchanged" in w for w in said.warnings)
    schema = Schema.model_validate(
        {"columns": [{"name": "day", "kind": "datetime", "type": "date32[day]", "dates": "MM/DD/YYYY"}]}
    )
    assert read(path, schema.source).column("day").to_pylist()[:2] == [
        datetime.date(2010, 1, 2),
        datetime.date(2010, 3, 4),
    ]


def test_days_that_do_not_exist_make_no_dates(tmp_path: Path) -> None:
    assert read(write(tmp_path / "t.csv", "v\n31-02-2010\n30-04-2010\n")).schema.types == [pa.string()]
    with pytest.raises(SchemaError, match="dates are written in columns of times"):
        Schema.parse(
            "columns: [{name: v, kind: categorical, type: string, dates: DD-MM-YYYY}]", source="schema.yaml"
        )
