"""Releases in an object store: moto's server, a real one over HTTP, in this process."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from pipelines import remote
from pipelines.cli import run as command
from pipelines.publish import SIGNATURE, SUMS, check_sums, publish
from pipelines.remote import LATEST, pull, push
from privacy.errors import InputError, ReleaseError, UsageError
from tests.pipelines.tables import bytes_of

FILES = {"data/part-00000.parquet": b"rows", "README.md": b"# a card"}
ROOT = "s3://releases/team"


def made(folder: Path, text: bytes = b"# a card") -> Path:
    return publish(folder, "flights", {**FILES, "README.md": text})


def keys(bucket: Any) -> list[str]:
    return sorted(o.key for o in bucket.objects.all())


def latest(bucket: Any) -> list[str]:
    text = bucket.Object(f"team/flights/{LATEST}").get()["Body"].read()
    return list(json.loads(text)["releases"])


def test_what_is_pushed_is_pulled_byte_for_byte(bucket: Any, tmp_path: Path) -> None:
    release = made(tmp_path / "a")
    (release / SIGNATURE).write_text("a signature")
    assert push(release, ROOT) == f"{ROOT}/flights/{release.name}"
    for address in (f"{ROOT}/flights", f"{ROOT}/flights/{release.name}/"):
        found = pull(address, tmp_path / address[-3:].strip("/"))
        assert found.name == release.name
        assert bytes_of(found) == bytes_of(release)


def test_pushing_again_changes_nothing_and_a_newer_one_is_the_latest(bucket: Any, tmp_path: Path) -> None:
    first, second = made(tmp_path / "a"), made(tmp_path / "a", b"newer")
    push(first, ROOT)
    before = keys(bucket)
    push(first, ROOT)
    assert keys(bucket) == before
    push(second, ROOT)
    assert latest(bucket) == [first.name, second.name]
    assert pull(f"{ROOT}/flights", tmp_path / "b").name == second.name
    push(first, ROOT)
    assert latest(bucket) == [second.name, first.name]


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_an_upload_that_breaks_off_is_no_release_until_it_is_finished(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    first, second = made(tmp_path / "a"), made(tmp_path / "a", b"newer")
    push(first, ROOT)
    real, calls = remote.Store.swap, []

    def broken(self: Any, *arguments: Any) -> bool:
        calls.append(1)
        if len(calls) > after:
            raise InputError("the line is dead")
        return real(self, *arguments)

    monkeypatch.setattr(remote.Store, "swap", broken)
    with pytest.raises(InputError, match="dead"):
        push(second, ROOT)
    monkeypatch.undo()
    for name, value in {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.meta.client.meta.endpoint_url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert pull(f"{ROOT}/flights", tmp_path / "b").name == first.name
    assert (f"team/flights/{second.name}/{SUMS}" in keys(bucket)) == (after == 3)
    push(second, ROOT)
    assert pull(f"{ROOT}/flights", tmp_path / "c").name == second.name


def test_publishers_at_once_lose_no_release_and_mix_none(bucket: Any, tmp_path: Path) -> None:
    releases = [made(tmp_path / str(i), f"card {i % 3}".encode()) for i in range(4)]
    barrier, failed = threading.Barrier(4), []

    def work(release: Path) -> None:
        barrier.wait()
        try:
            push(release, ROOT)
        except Exception as e:  # noqa: BLE001 - told below
            failed.append(repr(e))

    threads = [threading.Thread(target=work, args=(r,)) for r in releases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(latest(bucket)) == sorted({r.name for r in releases})
    for number, release in enumerate(releases[:3]):
        found = pull(f"{ROOT}/flights/{release.name}", tmp_path / f"out{number}")
        assert bytes_of(found) == bytes_of(release)


def test_a_catalogue_is_swapped_only_if_nobody_did_meanwhile(bucket: Any) -> None:
    store = remote.Store("releases")
    assert store.swap("x", b"1", None)
    assert not store.swap("x", b"2", None)
    found = store.get("x")
    assert found is not None
    assert store.swap("x", b"3", found[1])
    assert not store.swap("x", b"4", found[1])
    assert store.get("x") == (b"3", store.get("x")[1])  # type: ignore[index]


def test_other_bytes_under_a_digest_are_refused(bucket: Any, tmp_path: Path) -> None:
    release = made(tmp_path / "a")
    bucket.put_object(Key=f"team/flights/{release.name}/README.md", Body=b"evil")
    with pytest.raises(ReleaseError, match=r"README\.md in the store is not"):
        push(release, ROOT)
    assert f"team/flights/{release.name}/{SUMS}" not in keys(bucket)


@pytest.mark.parametrize("change", ["altered", "missing", "escaping"])
def test_what_was_changed_in_the_store_is_not_pulled(bucket: Any, tmp_path: Path, change: str) -> None:
    release = made(tmp_path / "a")
    push(release, ROOT)
    home = f"team/flights/{release.name}"
    if change == "altered":
        bucket.put_object(Key=f"{home}/README.md", Body=b"evil")
    elif change == "missing":
        bucket.Object(f"{home}/README.md").delete()
    else:
        bucket.put_object(Key=f"{home}/{SUMS}", Body=b"0" * 64 + b"  ../../../evil\n")
    with pytest.raises(ReleaseError):
        pull(f"{ROOT}/flights", tmp_path / "b")
    assert not (tmp_path / "b").exists() or list((tmp_path / "b").iterdir()) == []


def test_a_damaged_release_is_not_pushed(bucket: Any, tmp_path: Path) -> None:
    release = Path(shutil.copytree(made(tmp_path / "a"), tmp_path / "copy"))
    (release / "README.md").write_bytes(b"other")
    with pytest.raises(ReleaseError, match="differs"):
        push(release, ROOT)
    assert keys(bucket) == []


@pytest.mark.parametrize(
    "address", ["releases/team", "s3://", "s3://key:secret@bucket/x", "gs://bucket", "s3://Bucket"]
)
def test_what_is_no_address_is_refused_without_repeating_it(tmp_path: Path, address: str) -> None:
    with pytest.raises(UsageError, match="s3://bucket/prefix") as caught:
        push(made(tmp_path / "a"), address)
    assert "secret@" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_said_to_be_missing(bucket: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NoSuchBucket"):
        push(made(tmp_path / "a"), "s3://nowhere/x")
    with pytest.raises(ReleaseError, match="is neither"):
        pull(f"{ROOT}/trains", tmp_path / "b")


def test_the_commands_push_and_pull(bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = made(tmp_path / "a")
    assert command(["push", str(release.parent / "latest"), ROOT, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["address"].endswith(release.name)
    assert command(["pull", f"{ROOT}/flights", str(tmp_path / "b")]) == 0
    assert check_sums(tmp_path / "b" / release.name) == 2
    assert command(["pull", f"{ROOT}/flights", str(tmp_path / "b")]) == 2
