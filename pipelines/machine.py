"""Machine: whether disk and memory suffice, said before the work where that can be known, and in words where not."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privacy.errors import NoRoom

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_disk(folder: Path, needed: int, *, what: str) -> None:
    """Refuses what would not fit into the disk that a folder is on.

    Args:
        folder: it need not be there yet.
        needed: bytes.
        what: what needs them.

    Raises:
        NoRoom: fewer bytes are free.
    """
    there = next(p for p in (folder, *folder.resolve().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise NoRoom(
            f"{what} needs {needed:,} bytes of disk, however: {free:,} are free in {there}; make room, then go on"
        )


def check_memory(needed: int, available: int | None) -> None:
    """Refuses what would not fit into memory; where nobody knows how much there is, nothing is refused.

    Raises:
        NoRoom: less is available.
    """
    if available is not None and available < needed:
        raise NoRoom(
            f"a release needs about {needed / 1e9:.1f} GB of memory, however: {available / 1e9:.1f} GB are available; "
            "write a smaller fit_rows into the recipe, or end something else"
        )


def available_memory() -> int | None:
    """Bytes of memory that may still be taken, swap and the limit of a container included; None where unknown."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    facts = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
    free = facts.get("MemAvailable", 0) + facts.get("SwapFree", 0)
    group = Path("/sys/fs/cgroup")
    try:
        most, used = (int((group / name).read_text("ascii")) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # another version of control groups, or the word `max`
        return free
    return min(free, most - used)


@contextmanager
def room(folder: Path, what: str, needed: int | None = None) -> Iterator[None]:
    """Says in words that disk or memory ran out, and takes half-written files out of a folder.

    Args:
        folder: where files are written.
        what: what is done.
        needed: bytes of disk that it takes, where that is known.

    Raises:
        NoRoom: disk or memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as e:
        # torch raises a RuntimeError of its own.
        if isinstance(e, RuntimeError) and "allocate memory" not in str(e):
            raise
        raise NoRoom(
            f"{what} must fit into memory, however: it ran out; write a smaller fit_rows, evidence_rows or workers "
            "into the recipe, or end something else, then go on with `understudy resume`"
        ) from None
    except OSError as e:
        # numpy names no error number, but how many bytes it could not write.
        if e.errno not in _FULL and "requested and" not in str(e):
            raise
        for part in (p for p in folder.rglob(".*.part") if p.is_file()):
            part.unlink(missing_ok=True)
        said = "" if needed is None else f" of the {needed:,} bytes that it needs"
        raise NoRoom(
            f"{what} needs room on the disk, however: {folder} took not all{said} ({os.strerror(e.errno or _FULL[0])}, "
            f"{shutil.disk_usage(folder).free:,} bytes free); make room, then go on with `understudy resume`"
        ) from None
