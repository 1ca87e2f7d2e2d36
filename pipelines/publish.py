"""Publication: staging → an immutable, checksummed release, and the check of one.

A release root holds one folder per name, and in it one folder per release, named after the digest of its
contents. Files are staged beside it, synced, and become visible in one rename; then the link `latest` is
swapped. A release is never changed: publishing the same bytes again finds it there.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.machine import check_disk, room
from pipelines.workspace import exclusive, sha256, sync_folder
from privacy.errors import LeakRefused, ReleaseError
from privacy.inside import Exact

SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.minisig"

Content = bytes | Path
"""The bytes of a file, or where they lie."""


def publish(root: Path, name: str, files: Mapping[str, Content]) -> Path:
    """Makes a release visible.

    Args:
        root: the release root; it is made if it is not there.
        name: the release's name.
        files: path inside the release → its content. All of it must be fit to be public.

    Returns:
        The folder of the release.

    Raises:
        Busy: another process publishes under this name.
        LeakRefused: a content is exact evidence.
        NoRoom: the disk is too small; former releases are as they were.
    """
    for path, content in files.items():
        if isinstance(content, Exact):
            raise LeakRefused(f"a release must hold nothing exact, however: {path} is exact evidence")
    home = root / name
    needed = sum(c.stat().st_size if isinstance(c, Path) else len(c) for c in files.values())
    check_disk(home, needed, what=f"release {name}")
    with exclusive(home / ".lock", what=f"release {name}"), room(home, f"release {name}", needed):
        staging = home / ".staging"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            sums = _stage(staging, files)
            release = home / hashlib.sha256(sums.encode()).hexdigest()[:16]
            if not release.exists():
                staging.rename(release)
                sync_folder(home)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        _point(home / "latest", release.name)
    return release


def _stage(staging: Path, files: Mapping[str, Content]) -> str:
    """Writes and syncs all files; returns the text of their checksums, which is written last."""
    lines = []
    for name in sorted(files):
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        content = files[name]
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            target.write_bytes(content)
        _sync(target)
        lines.append(f"{sha256(target)}  {name}\n")
    sums = "".join(lines)
    (staging / SUMS).write_text(sums, "utf-8")
    _sync(staging / SUMS)
    for folder in [staging, *(p for p in staging.rglob("*") if p.is_dir())]:
        sync_folder(folder)
    return sums


def _sync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _point(link: Path, target: str) -> None:
    """Swaps a symbolic link atomically."""
    part = link.with_name(f".{link.name}.part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    part.symlink_to(target)
    part.replace(link)
    sync_folder(link.parent)


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What `verify` found.

    Attributes:
        files: number of files whose checksum is right.
        rows: rows of the data.
        signature: what is known of the signature, in words.
    """

    files: int
    rows: int
    signature: str


def check_sums(release: Path) -> int:
    """Compares every file of a release with its checksum.

    Returns:
        The number of files.

    Raises:
        ReleaseError: a file is missing, changed or not listed; the message names it.
    """
    listing = release / SUMS
    if not listing.is_file():
        fact = f"{release} has none" if release.is_dir() else f"{release} is no folder"
        raise ReleaseError(
            f"a release must have {SUMS}, however: {fact}; give the folder that `understudy release` printed"
        )
    expected: dict[str, str] = {}
    for line in listing.read_text("utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        path = (release / name).resolve()
        if not name or not path.is_relative_to(release.resolve()):
            raise ReleaseError(f"{SUMS} must list files of the release, however: it lists {name!r}")
        expected[name] = digest
    present = {
        str(p.relative_to(release))
        for p in release.rglob("*")
        if p.is_file() and p not in (listing, release / SIGNATURE)
    }
    for name in sorted(expected.keys() | present):
        if name not in present:
            raise ReleaseError(
                f"a release must be whole, however: {name} is missing; fetch the release again"
            )
        if name not in expected:
            raise ReleaseError(f"a release must hold listed files only, however: {name} is not in {SUMS}")
        if sha256(release / name) != expected[name]:
            raise ReleaseError(f"a release must be unchanged, however: {name} differs from its checksum")
    return len(expected)


def signature_status(release: Path) -> str:
    """What can be said of a release's signature without a key."""
    return "present, not checked" if (release / SIGNATURE).exists() else "none"
