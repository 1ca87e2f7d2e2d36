import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipelines.publish import SUMS, check_sums, publish
from pipelines.workspace import sha256
from privacy.errors import Busy, LeakRefused, ReleaseError
from privacy.inside import Exact
from tests.pipelines.conftest import Understudy
from tests.pipelines.tables import bytes_of, prepare, write_visits
from tests.pipelines.test_workspace import hold

FILES = {"README.md": b"a card", "data/part-00000.parquet": b"rows"}


def stats(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in [folder, *folder.rglob("*")]}


def test_a_release_holds_its_files_and_their_checksums(tmp_path: Path) -> None:
    source = tmp_path / "shard"
    source.write_bytes(b"from a file")
    release = publish(tmp_path / "root", "flights", {**FILES, "data/part-00001.parquet": source})
    assert release.parent == tmp_path / "root" / "flights"
    found = bytes_of(release)
    del found[SUMS]
    assert found == {**FILES, "data/part-00001.parquet": b"from a file"}
    listed = subprocess.run(
        ["sha256sum", "--check", "--strict", SUMS], cwd=release, capture_output=True, check=False
    )
    assert listed.returncode == 0
    assert check_sums(release) == 3


def test_publishing_the_same_again_changes_nothing(tmp_path: Path) -> None:
    first = publish(tmp_path, "flights", FILES)
    before = stats(first)
    assert publish(tmp_path, "flights", dict(reversed(FILES.items()))) == first
    assert stats(first) == before


def test_other_bytes_are_another_release_and_the_old_one_stays(tmp_path: Path) -> None:
    first = publish(tmp_path, "flights", FILES)
    before = stats(first)
    second = publish(tmp_path, "flights", {**FILES, "README.md": b"a better card"})
    assert second != first
    assert stats(first) == before
    assert (tmp_path / "flights" / "latest").resolve() == second


def test_latest_is_never_away_while_it_is_swapped(tmp_path: Path) -> None:
    publish(tmp_path, "flights", FILES)
    latest = tmp_path / "flights" / "latest"
    stop, gone = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                if b"card" not in (latest / "README.md").read_bytes():
                    gone.append("other text")
            except OSError as e:
                gone.append(str(e))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(30):
        publish(tmp_path, "flights", {**FILES, "README.md": f"card {number}".encode()})
    stop.set()
    reader.join()
    assert gone == []


def test_exact_evidence_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(LeakRefused, match=r"however: evidence\.json is exact evidence"):
        publish(tmp_path / "root", "flights", {**FILES, "evidence.json": Exact(b"rows")})  # type: ignore[dict-item]
    assert not (tmp_path / "root").exists()


def test_a_failure_while_staging_leaves_nothing_visible(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        publish(tmp_path, "flights", {**FILES, "z": tmp_path / "nowhere"})
    assert not (tmp_path / "flights").exists()
    with pytest.raises(IsADirectoryError):
        publish(tmp_path, "flights", {**FILES, "z": tmp_path})
    assert [p.name for p in (tmp_path / "flights").iterdir()] == [".lock"]


def test_what_a_killed_publisher_left_behind_does_not_get_into_a_release(tmp_path: Path) -> None:
    left = tmp_path / "flights" / ".staging"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    release = publish(tmp_path, "flights", FILES)
    assert sorted(bytes_of(release)) == sorted([*FILES, SUMS])


def test_a_second_publisher_is_turned_away_while_the_first_is_at_work(tmp_path: Path) -> None:
    holder = hold(tmp_path / "flights" / ".lock")
    with pytest.raises(Busy, match="release flights"):
        publish(tmp_path, "flights", FILES)
    other = publish(tmp_path, "trains", FILES)
    assert check_sums(other) == 2
    holder.communicate()
    assert check_sums(publish(tmp_path, "flights", FILES)) == 2


def test_of_two_releases_of_one_recipe_at_once_one_wins_and_the_other_exits_5(
    tmp_path: Path, understudy: Understudy
) -> None:
    recipe = prepare(tmp_path, write_visits(tmp_path / "visits.csv", patients=300))
    (tmp_path / "recipe.yaml").write_text(recipe.to_json())
    command = [str(Path(sys.executable).with_name("understudy")), "release", "recipe.yaml", "--json"]
    both = [
        subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [(p.communicate(timeout=200), p.returncode) for p in both]
    assert sorted(code for _, code in said) == [0, 5], said
    (loser,) = [out for (out, _), code in said if code == 5]
    assert '"release": null' in loser
    assert "another is at it" in loser
    home = tmp_path / "releases" / recipe.name
    (release,) = [p for p in home.iterdir() if not p.name.startswith(".") and not p.is_symlink()]
    assert check_sums(release) > 4
    assert (home / "latest").resolve() == release
    assert understudy("verify", str(release), cwd=tmp_path).returncode == 0


def test_a_release_of_a_name_that_somebody_publishes_exits_5(tmp_path: Path, understudy: Understudy) -> None:
    recipe = prepare(tmp_path, write_visits(tmp_path / "visits.csv", patients=300), name="visits")
    (tmp_path / "recipe.yaml").write_text(recipe.to_json())
    holder = hold(tmp_path / "releases" / "visits" / ".lock")
    refused = understudy("release", "recipe.yaml", cwd=tmp_path)
    assert refused.returncode == 5
    assert "release visits" in refused.stderr.splitlines()[-1]
    assert [p.name for p in (tmp_path / "releases" / "visits").iterdir()] == [".lock"]
    holder.communicate()


# ------------------------------------------------------------------------------------------------ check_sums


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return publish(tmp_path / "root", "flights", FILES)


def test_a_changed_file_is_found_and_named(release: Path) -> None:
    (release / "README.md").write_bytes(b"A card")
    with pytest.raises(ReleaseError, match=r"README\.md differs"):
        check_sums(release)


def test_a_missing_file_is_found_and_named(release: Path) -> None:
    (release / "data" / "part-00000.parquet").unlink()
    with pytest.raises(ReleaseError, match=r"data/part-00000\.parquet is missing"):
        check_sums(release)


@pytest.mark.parametrize("name", ["notes.txt", "data/more.parquet", f"data/{SUMS}", ".hidden"])
def test_an_added_file_is_found_and_named(release: Path, name: str) -> None:
    (release / name).write_bytes(b"more")
    with pytest.raises(ReleaseError, match=f"{name} is not in"):
        check_sums(release)


@pytest.mark.parametrize("name", ["../../../secret", "/etc/hostname", "data/../../../../secret", ""])
def test_a_listed_path_that_escapes_is_refused(release: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with (release / SUMS).open("a") as sums:
        sums.write(f"{sha256(tmp_path / 'secret')}  {name}\n")
    with pytest.raises(ReleaseError, match="must list files of the release"):
        check_sums(release)


def test_a_link_that_leads_out_of_the_release_is_refused(release: Path, tmp_path: Path) -> None:
    (tmp_path / "same").write_bytes(FILES["README.md"])
    (release / "README.md").unlink()
    (release / "README.md").symlink_to(tmp_path / "same")
    with pytest.raises(ReleaseError, match=r"README\.md"):
        check_sums(release)


def test_a_listing_that_is_no_text_is_refused_by_name(release: Path) -> None:
    (release / SUMS).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReleaseError, match=SUMS):
        check_sums(release)


def test_a_folder_without_checksums_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="give the folder that"):
        check_sums(tmp_path)
