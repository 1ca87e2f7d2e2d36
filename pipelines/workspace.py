"""Workspace: the directory of one run, artifacts with digests, and what makes a run resumable.

Everything here is inside: encoded rows, exact evidence, attack results. A step's artifacts count only once
`run.json` names them with their digests, and that file is replaced atomically, so a run that is killed at any
moment goes on from the last step that was finished.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from privacy.errors import Busy, ReleaseError, UsageError

MODEL = "model"
"""The folder of the model in a run."""

CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a finished step.

    Attributes:
        inputs: name → digest of everything that the step depended on.
        outputs: path in the workspace → SHA-256 (hex).
        facts: small public figures, such as numbers of rows.
        seconds: how long it took.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class Workspace:
    """One run's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def manifest(self) -> Path:
        """The file that says which steps are finished."""
        return self.path / "run.json"

    def create(self, about: Mapping[str, Any]) -> None:
        """Makes the directory; `about` is kept in the manifest so that the run can be resumed by its path.

        Raises:
            Busy: another process is at work in it, and `about` differs from what that one was told.
        """
        if self.manifest.exists() and self.about() == about:
            return
        # Under the lock: a manifest that is read and written back must not lose a step that ends meanwhile.
        with self.locked():
            manifest = self._read() if self.manifest.exists() else {"steps": {}}
            self._write({**manifest, "about": dict(about)})

    def about(self) -> dict[str, Any]:
        """What `create` was told.

        Raises:
            ReleaseError: this is no workspace.
        """
        return dict(self._read()["about"])

    def records(self) -> dict[str, Record]:
        """The steps that were finished."""
        return {name: Record(**data) for name, data in self._read()["steps"].items()}

    def has(self, step: str) -> bool:
        """Whether a step was finished; no step was where no run has begun."""
        return self.manifest.exists() and step in self.records()

    def finished(self, step: str, inputs: Mapping[str, str]) -> Record | None:
        """The record of a step if its inputs are still these and its artifacts still what was recorded."""
        record = self.records().get(step)
        if record is None or dict(record.inputs) != dict(inputs):
            return None
        for name, digest in record.outputs.items():
            path = self.path / name
            if not path.is_file() or sha256(path) != digest:
                return None
        return record

    def commit(
        self,
        step: str,
        inputs: Mapping[str, str],
        outputs: Sequence[Path],
        facts: Mapping[str, Any],
        seconds: float,
    ) -> Record:
        """Records a step as finished."""
        digests = {str(p.relative_to(self.path)): sha256(p) for p in sorted(outputs)}
        record = Record(inputs=dict(inputs), outputs=digests, facts=dict(facts), seconds=round(seconds, 3))
        manifest = self._read()
        manifest["steps"][step] = asdict(record)
        self._write(manifest)
        return record

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run for this process.

        Raises:
            Busy: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # Private rows lie here: for the owner's eyes alone.
        self.path.chmod(0o700)
        with exclusive(self.path / ".lock", what=f"run {self.path.name}"):
            yield

    def fresh(self, name: str) -> Path:
        """An empty folder of that name."""
        folder = self.path / name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def _read(self) -> dict[str, Any]:
        try:
            data: dict[str, Any] = json.loads(self.manifest.read_text("utf-8"))
            if not (isinstance(data["about"], dict) and isinstance(data["steps"], dict)):
                raise TypeError
        except FileNotFoundError:
            raise ReleaseError(
                f"a run must be a folder with run.json, however: {self.path} has none; "
                "`understudy release RECIPE` prints the folder of its run"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise ReleaseError(
                "run.json must be what a run wrote, however: "
                f"{self.manifest} is not; remove the folder and release again"
            ) from None
        return data

    def _write(self, manifest: Mapping[str, Any]) -> None:
        write_atomic(self.manifest, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())


@contextlib.contextmanager
def exclusive(path: Path, *, what: str) -> Iterator[None]:
    """Holds a lock file. The kernel lets go of it when the process dies, however it dies.

    Raises:
        Busy: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                f"one process at a time may work on {what}, however: another is at it; wait for it to end"
            ) from None
        yield


def check_out(out: Path, rule: str, *, force: bool, what: str = "file") -> None:
    """Finds out beforehand whether a file that a person asked for can be written; `rule` is the command's.

    Raises:
        UsageError: it is there and is not to be overwritten, or its folder is not there.
    """
    if out.exists() and not force:
        raise UsageError(f"{rule}, however: {out} is there; add --force")
    if not out.parent.is_dir():
        raise UsageError(f"a {what} needs a folder, however: there is no {out.parent}; make it")


def model_in(place: Path) -> Path:
    """The folder of a model: that of a run, or the place itself."""
    return place / MODEL if (place / MODEL).is_dir() else place


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one, whole, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes renames in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of(value: object) -> str:
    """SHA-256 (hex) of a value as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
