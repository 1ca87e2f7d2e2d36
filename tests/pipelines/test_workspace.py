import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.run import open_run, reopen_run
from pipelines.workspace import Workspace, digest_of, exclusive, sha256, write_atomic
from privacy.errors import Busy, ReleaseError
from tests.pipelines.tables import prepare, write_visits

HOLD = """
import sys
from pathlib import Path
from pipelines.workspace import exclusive
with exclusive(Path(sys.argv[1]), what="it"):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(path: Path) -> "subprocess.Popen[str]":
    """Another process that holds a lock file until it dies."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    """A workspace with one finished step, which wrote one file."""
    space = Workspace(tmp_path / "run")
    space.create({"recipe": 1})
    (space.path / "model").write_bytes(b"weights")
    space.commit("fit", {"profile": "a"}, [space.path / "model"], {"rows": 3}, 1.5)
    return space


def test_a_record_says_what_a_step_was_made_from_and_what_it_wrote(space: Workspace) -> None:
    record = space.records()["fit"]
    assert record.inputs == {"profile": "a"}
    assert record.outputs == {"model": sha256(space.path / "model")}
    assert (record.facts, record.seconds) == ({"rows": 3}, 1.5)


def test_a_step_is_finished_only_for_the_inputs_that_it_had(space: Workspace) -> None:
    assert space.finished("fit", {"profile": "a"}) == space.records()["fit"]
    assert space.finished("fit", {"profile": "b"}) is None
    assert space.finished("fit", {"profile": "a", "seed": "1"}) is None
    assert space.finished("fit", {}) is None
    assert space.finished("sample", {"profile": "a"}) is None


@pytest.mark.parametrize("damage", ["changed", "shortened", "removed", "a folder"])
def test_a_step_whose_artifact_is_not_what_it_wrote_is_not_finished(space: Workspace, damage: str) -> None:
    path = space.path / "model"
    if damage in ("removed", "a folder"):
        path.unlink()
    if damage == "a folder":
        path.mkdir()
    if damage in ("changed", "shortened"):
        path.write_bytes(b"weightz" if damage == "changed" else b"weight")
    assert space.finished("fit", {"profile": "a"}) is None


def test_an_artifact_without_a_record_does_not_count(space: Workspace) -> None:
    (space.path / "data").write_bytes(b"rows")
    assert space.finished("sample", {}) is None


def test_creating_it_again_keeps_what_is_finished(space: Workspace) -> None:
    space.create({"recipe": 1})
    space.create({"recipe": 2})
    assert space.about() == {"recipe": 2}
    assert "fit" in space.records()


def test_opening_a_run_that_is_at_work_does_not_touch_its_records(space: Workspace) -> None:
    with space.locked():
        before = space.manifest.stat()
        Workspace(space.path).create({"recipe": 1})
        after = space.manifest.stat()
        with pytest.raises(Busy):
            Workspace(space.path).create({"recipe": 2})
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_the_same_recipe_in_the_same_folder_has_the_same_workspace(tmp_path: Path) -> None:
    recipe = prepare(tmp_path, write_visits(tmp_path / "visits.csv", patients=50))
    run = open_run(recipe, tmp_path)
    assert open_run(recipe, tmp_path).workspace.path == run.workspace.path
    assert open_run(recipe.with_fields({"seed": 8}), tmp_path).workspace.path != run.workspace.path
    again = reopen_run(run.workspace.path)
    assert (again.recipe, again.folder, again.roots) == (run.recipe, run.folder, run.roots)


@pytest.mark.parametrize("content", [None, "", "[", "[]", "{}"])
def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(ReleaseError, match=r"however: .*run|run\.json"):
        reopen_run(tmp_path)


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomic(path, b"old")
    with path.open("rb") as reader:
        write_atomic(path, b"newer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"newer"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_what_a_killed_writer_left_behind_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / ".file.part").write_bytes(b"half of something very long")
    write_atomic(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_lock_is_held_by_one_process_and_let_go_when_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    holder = hold(path)
    with pytest.raises(Busy, match="another is at it"), exclusive(path, what="it"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with exclusive(path, what="it"):
        pass


def test_a_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    with pytest.raises(RuntimeError), space.locked():
        raise RuntimeError
    with space.locked():
        pass


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [2, "ü"]}) == digest_of(json.loads('{"b": [2, "\\u00fc"], "a": 1}'))
    assert digest_of([1, 2]) != digest_of([2, 1])


def test_an_empty_folder_takes_the_place_of_a_full_one(space: Workspace) -> None:
    (space.fresh("data") / "part").write_bytes(b"old")
    assert list(space.fresh("data").iterdir()) == []
