"""Kills releases and resumes them. Run by `test_kill.py`, in a process of its own.

Everything is imported once; each release is a fork of this process. It must therefore do no arithmetic before
it forks: OpenMP's threads do not survive a fork.
"""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.publish import SUMS, check_sums
from pipelines.steps import STEPS, Run, Watch, open_run, release, reopen_run
from pipelines.workspace import Record
from privacy.errors import ReleaseError
from tests.pipelines.tables import prepare, write_visits

WARM = (
    "great_expectations", "sdmetrics.single_column", "torch", "synth.codec", "synth.gmm", "synth.profile",
    "synth.rows", "synth.table", "validation.card", "validation.expectations", "validation.fidelity",
    "validation.report",
)  # fmt: skip

DELAYS_SECONDS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03)
"""After the start of `publish`, so that some of the kills fall between two files."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Dies as soon as a step comes to a moment.

    Attributes:
        step: in which step.
        moment: started, wrote, or writing: `delay` seconds after the start.
        delay: seconds that the step may go on.
    """

    step: str
    moment: str
    delay: float = 0.0

    def started(self, step: str) -> None:
        if step == self.step and self.moment == "started":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.step and self.moment == "writing":
            _die_in(self.delay)

    def wrote(self, step: str, path: Path) -> None:
        if step == self.step and self.moment == "wrote":
            os.kill(os.getpid(), signal.SIGKILL)

    def ended(self, step: str, record: Record, *, cached: bool) -> None:
        pass


def _die_in(seconds: float) -> None:
    """Another process, so that nothing in this one can prepare for it."""
    victim = os.getpid()
    if os.fork() == 0:
        time.sleep(seconds)
        os.kill(victim, signal.SIGKILL)
        os._exit(0)


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
    run = opened(folder, watch=kill)
    reader = Reader(run.release_root)
    killed = fork(run, reader)
    finished = list(run.workspace.records())
    resumed = fork(reopen_run(run.workspace.path), reader)
    return {
        "step": kill.step,
        "moment": kill.moment,
        "delay": kill.delay,
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
    return {
        "sums": {p.parent.name: p.read_text("utf-8") for p in home.glob(f"*/{SUMS}") if p.parent != latest},
        "latest": os.readlink(latest) if latest.is_symlink() else None,
        "left": sorted(p.name for p in home.iterdir()),
    }


def opened(folder: Path, *, watch: Watch | None = None) -> Run:
    """A run of four shards in a new folder."""
    folder.mkdir()
    table = write_visits(folder / "visits.csv", patients=300)
    recipe = prepare(folder, table, rows=1_200, shard_rows=300)
    return open_run(recipe, folder, watch=watch)


def main(place: Path) -> None:
    for module in WARM:
        __import__(module)
    calm = opened(place / "calm")
    fork(calm, Reader(calm.release_root))
    kills = [Kill(step=step, moment=moment) for step in STEPS for moment in ("started", "wrote")]
    kills += [Kill(step="publish", moment="writing", delay=delay) for delay in DELAYS_SECONDS]
    tried = [attempt(place / f"{k.step}-{k.moment}-{k.delay}", k) for k in kills]
    json.dump({"calm": published(calm), "tried": tried}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
