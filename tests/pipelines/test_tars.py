import contextlib
import gzip
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import tars
from pipelines.aside import Aside
from pipelines.ingest import batches, infer_types, sniff
from pipelines.plan import rows_of
from privacy.errors import InputError, RowError
from tests.pipelines.test_gallery import shade, shade_of


def pack(path: Path, members: Iterable[tuple[str, bytes | str | dict]]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members:
            data = json.dumps(content) if isinstance(content, dict) else content
            data = data.encode() if isinstance(data, str) else data
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return path


def read(path: Path, aside: Aside | None = None) -> list[dict]:
    source = sniff(path)
    types = infer_types(source, Aside(most=100))
    rows = pa.Table.from_batches(batches(source, types, aside=aside)).to_pylist()
    return [{**r, "image": shade_of(r["image"]["bytes"]), "path": r["image"]["path"]} for r in rows]


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_members_of_a_stem_are_a_row(tmp_path: Path, name: str) -> None:
    members = [
        ("a/0.png", shade(1)), ("a/0.cls", "3\n"), ("a/0.json", {"age": 30, "ok": True, "box": [1, 2], "who": None}),
        ("a/1.png", shade(2)), ("a/1.cls", "4"), ("a/1.json", {"age": 41, "ok": False, "box": [], "who": "x"}),
        ("README.md", "words"),
    ]  # fmt: skip
    path = pack(tmp_path / name, members)
    assert read(path) == [
        {"image": 1, "label": 3, "age": 30, "ok": True, "box": "(text)", "who": None, "path": f"{name}/a/0"},
        {"image": 2, "label": 4, "age": 41, "ok": False, "box": "(text)", "who": "x", "path": f"{name}/a/1"},
    ]
    assert rows_of(sniff(path)) == 2


def test_shards_are_read_in_order_and_name_their_split(tmp_path: Path) -> None:
    for name, shades in {"train-000.tar": (1, 2), "train-001.tar": (3,), "val-000.tar": (4,)}.items():
        pack(tmp_path / name, ((f"{s}.seg.png", shade(s)) for s in shades))
    assert [(r["image"], r["split"]) for r in read(tmp_path)] == [
        (1, "train"), (2, "train"), (3, "train"), (4, "validation"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../x", "..\\..\\x", "./\x1bx"])
def test_names_lead_nowhere(tmp_path: Path, name: str) -> None:
    (row,) = read(pack(tmp_path / "t.tar", [(f"{name}.png", shade(1))]))
    parts = row["path"].removeprefix("t.tar/").split("/")
    assert not {"..", ".", ""} & set(parts)
    assert row["path"].isprintable()
    assert "\\" not in row["path"]
    assert [p.name for p in tmp_path.iterdir()] == ["t.tar"]


def test_links_and_devices_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, kind in (
            ("a.png", tarfile.SYMTYPE),
            ("b.png", tarfile.LNKTYPE),
            ("c.png", tarfile.CHRTYPE),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        about = tarfile.TarInfo("d.png")
        about.size = len(shade(7))
        tar.addfile(about, io.BytesIO(shade(7)))
    assert [r["image"] for r in read(tmp_path / "t.tar")] == [7]


BROKEN = {
    "damaged": [("x.png", shade(1)[:-26])],
    "none": [("x.cls", "1")],
    "has 2": [("x.png", shade(1)), ("x.jpg", shade(1, ".jpg"))],
    "what its name says": [("x.png", shade(1)), ("x.json", "[1]")],
    "bytes at most": [("x.png", shade(1)), ("x.txt", "y" * 100)],
}


@pytest.mark.parametrize(("reason", "members"), BROKEN.items())
def test_a_broken_sample_is_set_aside_with_its_name(
    tmp_path: Path, reason: str, members: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "SAID_BYTES", 99)
    path = pack(
        tmp_path / "t.tar",
        [("a.png", shade(5)), ("a.cls", "1"), *members, ("z.png", shade(6)), ("z.cls", "2")],
    )
    aside = Aside(most=1)
    assert [r["image"] for r in read(path, aside)] == [5, 6]
    assert aside.rows[0].file == "t.tar/x"
    assert reason in aside.rows[0].reason
    with pytest.raises(RowError, match=r"t\.tar/x"):
        read(path, Aside())


def test_a_sample_with_a_column_that_none_before_it_had_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "LOOKED_AT", 1)
    path = pack(tmp_path / "t.tar", [("a.png", shade(5)), ("b.png", shade(6)), ("b.cls", "1")])
    aside = Aside(most=1)
    assert [r["image"] for r in read(path, aside)] == [5]
    assert aside.rows[0].file == "t.tar/b"


@pytest.mark.parametrize("cut", [200, 700])
def test_a_damaged_tar_is_refused(tmp_path: Path, cut: int) -> None:
    path = pack(tmp_path / "t.tar", [(f"{i}.png", shade(i)) for i in range(3)])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"damaged|holds none"):
        read(path)


LONG = "x" * 300


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_names_of_any_length_and_alphabet_are_read_as_tarfile_writes_them(
    tmp_path: Path, format: int
) -> None:
    ustar = format == tarfile.USTAR_FORMAT
    stems = [f"{'d' * 90}/{'e' * 60}", "köln" if not ustar else "koeln"] + (
        [] if ustar else [LONG, f"日本/{LONG}"]
    )
    with tarfile.open(tmp_path / "t.tar", "w", format=format) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number, stem in enumerate(stems):
            for kind, data in ((".png", shade(number)), (".txt", b"y" * number * 600)):
                about = tarfile.TarInfo(stem + kind)
                about.size, about.pax_headers = len(data), {"comment": "a remark"}
                tar.addfile(about, io.BytesIO(data))
    found = read(tmp_path / "t.tar")
    assert [(r["path"], r["image"], len(r["text"] or "")) for r in found] == [
        (f"t.tar/{stem}", number, 600 * number) for number, stem in enumerate(stems)
    ]


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    about = tarfile.TarInfo(name)
    about.type, about.size = kind, size
    return about.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE]
)
def test_a_header_that_says_gigabytes_is_refused_unread(tmp_path: Path, kind: bytes) -> None:
    with gzip.open(tmp_path / "t.tar.gz", "wb") as packed:
        packed.write(header(kind, 8 << 30))
        for _ in range(16):
            packed.write(bytes(1 << 20))
    with pytest.raises(InputError, match="65,536 bytes at most"):
        read(tmp_path / "t.tar.gz")


def test_a_chain_of_headers_costs_nothing_and_names_the_file_after_it(tmp_path: Path) -> None:
    chain = b"".join(
        header(tarfile.GNUTYPE_LONGNAME, 512) + f"{i}.png".encode().ljust(512, b"\0") for i in range(5_000)
    )
    data = shade(7)
    (tmp_path / "t.tar").write_bytes(
        chain
        + header(tarfile.REGTYPE, len(data), "y.png")
        + data.ljust(-(-len(data) // 512) * 512, b"\0")
        + bytes(1024)
    )
    assert [(r["path"], r["image"]) for r in read(tmp_path / "t.tar")] == [("t.tar/4999", 7)]


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
def test_a_negative_size_is_damage(tmp_path: Path, kind: bytes) -> None:
    plain = bytearray(header(kind, 0, "x.png"))
    plain[124:136] = b"\xff" * 12
    plain[148:156] = b"%06o\0 " % (sum(plain[:148]) + sum(plain[156:]) + 8 * 32)
    (tmp_path / "t.tar").write_bytes(bytes(plain) + bytes(1 << 14))
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path / "t.tar")


def test_a_list_of_holes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(header(tarfile.GNUTYPE_SPARSE, 512, "x.png") + bytes(4096))
    with pytest.raises(InputError, match="holes"):
        read(tmp_path / "t.tar")


@pytest.mark.parametrize("record", [b"5 x", b"99999 path=x\n", b"0 path=x\n", b"-7 path=x\n", b"path=x\n"])
def test_damaged_records_of_pax_are_damage(tmp_path: Path, record: bytes) -> None:
    (tmp_path / "t.tar").write_bytes(
        header(tarfile.XHDTYPE, len(record))
        + record.ljust(512, b"\0")
        + header(tarfile.REGTYPE, 0, "x.png")
        + bytes(1024)
    )
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path / "t.tar")


@given(st.binary(max_size=3000), st.integers(0, 3))
def test_any_bytes_are_a_tar_or_an_error(content: bytes, headers: int) -> None:
    kinds = (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE)
    whole = (
        b"".join(header(kinds[i], 40 * i, "a.png") + bytes(512 * min(i, 1)) for i in range(headers)) + content
    )
    with contextlib.suppress(InputError, tarfile.TarError, ValueError):
        for _, size in tars._files(stream := io.BytesIO(whole)):
            tars._skip(stream, tars._blocks(size))


def test_of_a_sample_with_many_images_or_texts_little_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "SAID_BYTES", 99)
    members = [*((f"a.{i}.png", shade(1)) for i in range(9)), *((f"b.{i}.txt", "y" * 40) for i in range(9))]
    first, second = tars.tar_samples(pack(tmp_path / "t.tar", members))
    assert (first.images, first.image) == (9, shade(1))
    assert second.said <= 99
    assert second.wrong is not None
