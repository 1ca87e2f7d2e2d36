"""The catalogue of a root: made of what lies there, by whoever publishes last."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.catalog import CATALOG, PAGE, rebuild, rebuild_remote
from pipelines.cli import run
from pipelines.publish import publish
from pipelines.remote import Store, push
from pipelines.steps import Outcome
from privacy.errors import InputError, UsageError


def files(done: Outcome) -> dict[str, bytes | Path]:
    """The files of a real release, to be published again under other names."""
    return {
        p.relative_to(done.release).as_posix(): p
        for p in done.release.rglob("*")
        if p.is_file() and p.name != "SHA256SUMS"
    }


def listed(root: Path) -> set[str]:
    found = json.loads((root / CATALOG).read_text("utf-8"))["dcat:dataset"]
    return {d["@id"] for d in found if d["@type"] == "dcat:Dataset"}


def test_a_release_puts_itself_into_the_catalogue_of_its_root(done: Outcome) -> None:
    root = done.release.parents[1]
    assert listed(root) == {f"{done.release.parent.name}/{done.release.name}/"}
    page = (root / PAGE).read_text("utf-8")
    assert f"{done.release.parent.name}/{done.release.name}/report.html" in page
    figures = json.loads((done.release / "figures.json").read_text("utf-8"))
    assert f"{100 * figures['faithful']['columns']['score']:.1f}" in page


def test_what_the_catalogue_says_comes_from_published_files_alone(done: Outcome, tmp_path: Path) -> None:
    shutil.copytree(done.release, tmp_path / "root" / done.release.parent.name / done.release.name)
    rebuild(tmp_path / "root")
    texts = [(root / CATALOG).read_text("utf-8") for root in (tmp_path / "root", done.release.parents[1])]
    here, there = (json.loads(text)["dcat:dataset"] for text in texts)
    for dataset in (*here, *there):
        dataset.pop("issued", None)
    assert here == there


def test_rebuilding_changes_nothing(done: Outcome, tmp_path: Path) -> None:
    publish(tmp_path, "people", files(done))
    rebuild(tmp_path)
    before = [(tmp_path / name).read_bytes() for name in (CATALOG, PAGE)]
    rebuild(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in (CATALOG, PAGE)] == before


PUBLISHER = """
import sys
import time
from pathlib import Path
from pipelines.catalog import rebuild
from pipelines.publish import publish
from pipelines.remote import Store, push
root, source, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
found = {p.relative_to(source).as_posix(): p for p in source.rglob("*") if p.is_file() and p.name != "SHA256SUMS"}
for number in range(4):
    publish(root, name, {**found, "README.md": f"{name} {number}".encode()})
    rebuild(root)
"""


def test_publishers_at_once_lose_no_entry(done: Outcome, tmp_path: Path) -> None:
    names = ("flights", "visits", "trains")
    running = [
        subprocess.Popen([sys.executable, "-c", PUBLISHER, str(tmp_path), str(done.release), name])
        for name in names
    ]
    assert [p.wait(timeout=200) for p in running] == [0, 0, 0]
    there = {
        f"{p.parent.parent.name}/{p.parent.name}/"
        for p in tmp_path.glob("*/*/SHA256SUMS")
        if p.parent.name != "latest"
    }
    assert len(there) == 12
    assert listed(tmp_path) == there


def test_a_release_that_cannot_be_read_is_left_out_and_named(
    done: Outcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = publish(tmp_path, "people", files(done))
    bad = publish(tmp_path, "broken", {**files(done), "schema.json": b"no schema"})
    worse = publish(tmp_path, "worse", {**files(done), "figures.json": b"[1]"})
    assert run(["catalog", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "1 release\n" in told.out
    assert str(bad) in told.err
    assert str(worse) in told.err
    assert listed(tmp_path) == {f"people/{good.name}/"}


def test_a_release_of_before_there_were_figures_is_listed(done: Outcome, tmp_path: Path) -> None:
    old = {name: content for name, content in files(done).items() if name != "figures.json"}
    release = publish(tmp_path, "people", old)
    rebuild(tmp_path)
    assert listed(tmp_path) == {f"people/{release.name}/"}


def test_a_root_that_is_none_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="correct the path"):
        rebuild(tmp_path / "nowhere")
    assert run(["catalog", str(tmp_path / "nowhere"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["exit"] == 2


# ------------------------------------------------------------------------------------------------ in an object store


STORE = "s3://releases/team"


def remote(bucket: Any) -> set[str]:
    found = json.loads(bucket.Object(f"team/{CATALOG}").get()["Body"].read())["dcat:dataset"]
    return {d["@id"] for d in found if d["@type"] == "dcat:Dataset"}


def test_a_root_in_an_object_store_has_the_catalogue_that_it_has_on_a_disk(
    bucket: Any, done: Outcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = publish(tmp_path, "people", files(done))
    new = publish(tmp_path, "people", {**files(done), "README.md": b"newer"})
    other = publish(tmp_path, "visits", files(done))
    # Which is the newer one must not hang on where a second ends, on the disk or in the store.
    os.utime(old / "SHA256SUMS", (0, 10**9))
    push(old, STORE)
    time.sleep(1.1)
    for release in (new, other):
        push(release, STORE)
    bucket.put_object(Key="team/people/0123456789abcdef/README.md", Body=b"an upload that broke off")
    assert run(["catalog", STORE]) == 0
    told = capsys.readouterr().out
    assert "3 releases" in told
    assert f"{STORE}/{PAGE}" in told
    rebuild(tmp_path)
    here, there = (
        json.loads(text)["dcat:dataset"]
        for text in (
            (tmp_path / CATALOG).read_text("utf-8"),
            bucket.Object(f"team/{CATALOG}").get()["Body"].read(),
        )
    )
    for entry in (*here, *there):
        entry.pop("issued", None)
    assert sorted(here, key=lambda d: str(d["@id"])) == sorted(there, key=lambda d: str(d["@id"]))
    page = bucket.Object(f"team/{PAGE}").get()
    assert page["ContentType"].startswith("text/html")
    assert f"people/{new.name}/report.html" in page["Body"].read().decode()


def test_rebuilding_in_an_object_store_writes_nothing_anew(
    bucket: Any, done: Outcome, tmp_path: Path
) -> None:
    push(publish(tmp_path, "people", files(done)), STORE)
    rebuild_remote(STORE)
    before = {o.key: (o.e_tag, o.last_modified) for o in bucket.objects.all()}
    rebuild_remote(f"{STORE}/")
    assert {o.key: (o.e_tag, o.last_modified) for o in bucket.objects.all()} == before


@pytest.mark.parametrize("name", [CATALOG, PAGE])
def test_who_finds_that_another_wrote_meanwhile_looks_again(
    bucket: Any, done: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    first = publish(tmp_path, "people", files(done))
    second = publish(tmp_path, "visits", files(done))
    push(first, STORE)
    real, calls = Store.swap, []

    def late(self: Any, key: str, *arguments: Any, **more: Any) -> bool:
        if key.endswith(name) and not calls:
            # Between the listing of one and its writing, another publishes and writes the catalogue.
            calls.append(key)
            push(second, STORE)
            rebuild_remote(STORE)
        return real(self, key, *arguments, **more)

    monkeypatch.setattr(Store, "swap", late)
    rebuild_remote(STORE)
    assert calls
    assert remote(bucket) == {f"people/{first.name}/", f"visits/{second.name}/"}
    assert f"visits/{second.name}" in bucket.Object(f"team/{PAGE}").get()["Body"].read().decode()


def test_a_release_in_a_store_that_cannot_be_read_is_left_out_and_named(
    bucket: Any, done: Outcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = publish(tmp_path, "people", files(done))
    bad = publish(tmp_path, "broken", {**files(done), "schema.json": b"no schema"})
    push(good, STORE)
    push(bad, STORE)
    assert run(["catalog", STORE]) == 0
    assert f"{STORE}/broken/{bad.name}" in capsys.readouterr().err
    assert remote(bucket) == {f"people/{good.name}/"}


def test_a_root_without_releases_and_a_bucket_that_is_not_there_are_refused(bucket: Any) -> None:
    with pytest.raises(UsageError, match="holds none"):
        rebuild_remote("s3://releases/nowhere")
    with pytest.raises(InputError, match="NoSuchBucket"):
        rebuild_remote("s3://nowhere/x")
    assert run(["catalog", "s3://UPPER/x"]) == 2
