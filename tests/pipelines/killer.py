"""Kills releases and resumes them. Run by `test_kill.py`, in a process of its own.

Everything is imported once; each release is a fork of this process. It must therefore do no arithmetic before
it forks: OpenMP's threads do not survive a fork.
"""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.catalog import CATALOG
from pipelines.publish import SUMS, check_sums
from pipelines.run import Run, open_run, reopen_run
from pipelines.steps import STEPS, release
from pipelines.workspace import Record
from privacy.errors import ReleaseError
from tests.pipelines.tables import prepare, write_visits

WARM = (
    "great_expectations", "sdmetrics.single_column", "torch", "synth.codec", "synth.gmm", "synth.profile",
    "synth.rows", "synth.table", "validation.card", "validation.expectations", "validation.fidelity",
    "validation.report",
)  # fmt: skip

CHANGES = (4, 6, 11, 14, 19, 26, 27, 28, 29, 30, 33, 36)
"""Changes of the release root after which `publish` dies: folders, files, renames and the link, then the catalogue."""

CHANGING = {"open": 0, "os.mkdir": 0, "os.rename": 1, "os.symlink": 1}
"""Audit event that changes a folder → which of its arguments names what is new."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Dies as soon as a step comes to a moment.

    Attributes:
        step: in which step.
        moment: started, wrote, or changing: before another change of the release root.
        changes: how many changes of the release root may still be made.
        root: the release root, for `changing`.
    """

    step: str
    moment: str
    changes: int = 0
    root: Path = Path()

    def started(self, step: str) -> None:
        if step == self.step and self.moment == "started":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.step and self.moment == "changing":
            sys.addaudithook(_Doom(str(self.root), self.changes))

    def wrote(self, step: str, path: Path) -> None:
        if step == self.step and self.moment == "wrote":
            os.kill(os.getpid(), signal.SIGKILL)

    def ended(self, step: str, record: Record, *, cached: bool) -> None:
        pass


class _Doom:
    """Dies before a folder is changed once too often; what runs cannot prepare for it."""

    def __init__(self, root: str, changes: int) -> None:
        self._root, self._left = root, changes

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGING or not str(arguments[CHANGING[event]]).startswith(self._root):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


@dataclass
class Reader:
    """Somebody who looks at a release root all the time.

    Attributes:
        root: what is looked at.
        looks: how often.
        broken: what was seen and is no whole release.
        seen: names of the whole releases that were seen.
    """

    root: Path
    looks: int = 0
    broken: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)

    def look(self) -> None:
        self.looks += 1
        for folder in [p for p in self.root.glob("*/*") if not p.name.startswith(".")]:
            try:
                check_sums(folder)
                self.seen.add(folder.resolve().name)
            except (ReleaseError, OSError) as e:
                self.broken.add(f"{folder.name}: {e}")


def fork(run: Run, reader: Reader) -> int:
    """Releases in a fork while somebody reads; gives the wait status."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            release(run)
            code = 0
        finally:
            os._exit(code)
    while True:
        reader.look()
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            reader.look()
            return status
        time.sleep(0.002)


def attempt(folder: Path, kill: Kill) -> dict[str, object]:
    """One release that is killed, and resumed."""
    run = opened(folder)
    run = replace(run, watch=replace(kill, root=run.release_root))
    reader = Reader(run.release_root)
    killed = fork(run, reader)
    finished = list(run.workspace.records())
    resumed = fork(reopen_run(run.workspace.path), reader)
    return {
        "step": kill.step,
        "moment": kill.moment,
        "changes": kill.changes,
        "killed": os.WIFSIGNALED(killed) and os.WTERMSIG(killed) == signal.SIGKILL,
        "finished_before": finished,
        "resumed": resumed,
        "looks": reader.looks,
        "broken": sorted(reader.broken),
        "seen": sorted(reader.seen),
        **published(run),
    }


def published(run: Run) -> dict[str, object]:
    """What lies in the release root: the names of releases, their sums, and where `latest` points."""
    home = run.release_root / run.recipe.name
    latest = home / "latest"
    catalog = json.loads((run.release_root / CATALOG).read_text("utf-8"))
    return {
        "sums": {p.parent.name: p.read_text("utf-8") for p in home.glob(f"*/{SUMS}") if p.parent != latest},
        "latest": os.readlink(latest) if latest.is_symlink() else None,
        "left": sorted(p.name for p in home.iterdir()),
        "root": sorted(p.name for p in run.release_root.iterdir()),
        "listed": [d["@id"] for d in catalog["dcat:dataset"] if d["@type"] == "dcat:Dataset"],
    }


def opened(folder: Path) -> Run:
    """A run of four shards in a new folder."""
    folder.mkdir()
    table = write_visits(folder / "visits.csv", patients=300)
    recipe = prepare(folder, table, rows=1_200, shard_rows=300)
    return open_run(recipe, folder)


def main(place: Path) -> None:
    for module in WARM:
        __import__(module)
    calm = opened(place / "calm")
    fork(calm, Reader(calm.release_root))
    kills = [Kill(step=step, moment=moment) for step in STEPS for moment in ("started", "wrote")]
    kills += [Kill(step="publish", moment="changing", changes=changes) for changes in CHANGES]
    tried = [attempt(place / f"{k.step}-{k.moment}-{k.changes}", k) for k in kills]
    json.dump({"calm": published(calm), "tried": tried}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
