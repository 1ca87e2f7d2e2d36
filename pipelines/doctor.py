"""doctor: is this installation what it should be?"""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from pipelines.cli import QUIET
from privacy.errors import UnderstudyError
from synth.registry import ALL

OURS = ("pipelines", "synth", "privacy", "validation")
RESTRICTED = ("Business Source", "BUSL")
ENOUGH_DISK_BYTES = 2_000_000_000

Level = Literal["ok", "note", "fault"]


@dataclass(frozen=True, kw_only=True)
class Remark:
    """One thing that was looked at."""

    level: Level
    about: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Examination:
    """All that was looked at."""

    remarks: tuple[Remark, ...]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {"healthy": not self.faults, **asdict(self)}

    @property
    def faults(self) -> tuple[Remark, ...]:
        """What must be mended."""
        return tuple(r for r in self.remarks if r.level == "fault")

    def describe(self) -> str:
        """For a person."""
        marks = {"ok": "ok", "note": " !", "fault": "✗ "}
        return "\n".join(f"{marks[r.level]} {r.about:<12} {r.text}" for r in self.remarks)

    def raise_for_faults(self) -> None:
        """Ends the command with exit code 1 if something must be mended.

        Raises:
            UnderstudyError: there is a fault.
        """
        if self.faults:
            raise UnderstudyError(
                f"an installation must be sound, however: {'; '.join(r.text for r in self.faults)}; "
                "`make setup` makes a sound one"
            )


def examine() -> Examination:
    """Looks at versions, licences, telemetry, disk, accelerator and import names."""
    return Examination(
        remarks=(
            *_python(),
            *_versions(),
            *_licences(),
            *_names(),
            *_telemetry(),
            *_disk(Path.cwd()),
            *_accelerator(),
            Remark(level="ok", about="synthesizer", text="auto, " + ", ".join(ALL)),
        )
    )


def _python() -> Iterator[Remark]:
    yield Remark(level="ok", about="python", text=f"{platform.python_version()} on {platform.machine()}")


def _versions() -> Iterator[Remark]:
    """Every pin of ours against what is installed."""
    wrong = 0
    for line in importlib.metadata.requires("understudy") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong += 1
            yield Remark(
                level="fault", about="version", text=f"{requirement.name} is not installed; it must be {line}"
            )
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong += 1
            yield Remark(level="fault", about="version", text=f"{requirement.name} {version} must be {line}")
    if not wrong:
        yield Remark(level="ok", about="versions", text="every requirement of understudy is met")


def _licences() -> Iterator[Remark]:
    """Packages whose licence is not an open one."""
    restricted = sorted(
        {f"{d.name} {d.version}" for d in importlib.metadata.distributions() if _restricted(d)}
    )
    if restricted:
        yield Remark(
            level="note",
            about="licences",
            text="under the Business Source License 1.1, which limits production use: "
            f"{', '.join(restricted)}; the core does not need them",
        )
    else:
        yield Remark(
            level="ok", about="licences", text="nothing under the Business Source License is installed"
        )


def _restricted(distribution: importlib.metadata.Distribution) -> bool:
    data = distribution.metadata
    said = " ".join(
        str(v) for key in ("License", "License-Expression", "Classifier") for v in data.get_all(key) or []
    )
    return any(word in said[:2000] for word in RESTRICTED)


def _names() -> Iterator[Remark]:
    """Whether another distribution owns one of our import names."""
    owners = importlib.metadata.packages_distributions()
    clashes = [(name, o) for name in OURS for o in owners.get(name, []) if o.lower() != "understudy"]
    for name, owner in clashes:
        yield Remark(
            level="fault",
            about="names",
            text=f"the package {owner} also installs {name!r}; remove it: pip uninstall {owner}",
        )
    if not clashes:
        yield Remark(level="ok", about="names", text=f"{', '.join(OURS)} are ours alone")


def _telemetry() -> Iterator[Remark]:
    """Dependencies that would report home are told not to by every command; is the environment, too?"""
    loud = [f"{name}={value}" for name, value in QUIET.items() if os.environ.get(name, "").lower() != value]
    if loud:
        yield Remark(level="fault", about="telemetry", text=f"set {', '.join(loud)}")
    else:
        yield Remark(level="ok", about="telemetry", text="off for every dependency")


def _disk(folder: Path) -> Iterator[Remark]:
    free = shutil.disk_usage(folder).free
    level: Level = "ok" if free > ENOUGH_DISK_BYTES else "note"
    yield Remark(level=level, about="disk", text=f"{free / 1e9:.0f} GB free here")


def _accelerator() -> Iterator[Remark]:
    import torch

    found = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none; none is needed"
    yield Remark(level="ok", about="accelerator", text=found)
