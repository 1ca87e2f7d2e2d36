"""catalog: the releases at one root, as data (`catalog.json`) and as a page (`index.html`).

Both are made anew from what lies there, so none is lost: on a disk under a lock that a second publisher waits for, in
an object store by conditional writes, where whoever finds that somebody else wrote meanwhile looks again. Both files
are swapped in whole.
"""

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.publish import SUMS
from pipelines.released import Released, described, read
from pipelines.remote import LATEST, TRIES, Listed, Store, place_of, releases_of
from pipelines.workspace import write_atomic
from privacy.errors import Busy, ReleaseError, UsageError
from validation.catalog import Entry, dcat, render

CATALOG, PAGE, LOCK = "catalog.json", "index.html", ".catalog.lock"

_TYPES = {CATALOG: "application/ld+json", PAGE: "text/html; charset=utf-8"}
"""What a browser is told that they are."""


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Where a catalogue lies.

    Attributes:
        releases: how many it lists.
        page: for people, its path or address.
        catalog: for machines.
        left_out: what is wrong with releases that it does not list.
    """

    releases: int
    page: str
    catalog: str
    left_out: tuple[str, ...]


def rebuild(root: Path) -> Catalog:
    """Writes the catalogue of a root.

    Raises:
        UsageError: there is no such folder.
    """
    if not root.is_dir():
        raise UsageError(f"a root must be a folder of releases, however: {root} is none; correct the path")
    page, catalog = root / PAGE, root / CATALOG
    with (root / LOCK).open("a") as handle:
        # Waits: who comes second must see what the first has published, and the other way round.
        fcntl.flock(handle, fcntl.LOCK_EX)
        entries, left_out = _entries(root)
        write_atomic(catalog, _data(entries).encode())
        write_atomic(page, render(entries).encode())
    return Catalog(releases=len(entries), page=str(page), catalog=str(catalog), left_out=tuple(left_out))


def rebuild_remote(address: str) -> Catalog:
    """Writes the catalogue of a root in an object store; of a release only its manifests are fetched.

    Args:
        address: `s3://bucket/prefix`, under which names lie.

    Raises:
        UsageError: the address is none, or no release lies there.
        InputError: the store cannot be reached, or refuses.
        Busy: others change the catalogue all the time.
    """
    bucket, prefix = place_of(address)
    store = Store(bucket)
    for _ in range(TRIES):
        # Tags first: what is published after the listing also changes them, or was seen.
        before = {name: store.get(f"{prefix}{name}") for name in (CATALOG, PAGE)}
        entries, left_out = _remote_entries(store, prefix, f"s3://{bucket}/")
        if not entries and not left_out and before[CATALOG] is None:
            raise UsageError(
                f"a root must hold releases, however: {address} holds none; push one, or correct the address"
            )
        texts = {CATALOG: _data(entries).encode(), PAGE: render(entries).encode()}
        if all(_swapped(store, f"{prefix}{name}", before[name], text) for name, text in texts.items()):
            page, catalog = (f"s3://{bucket}/{prefix}{name}" for name in (PAGE, CATALOG))
            return Catalog(releases=len(entries), page=page, catalog=catalog, left_out=tuple(left_out))
    raise Busy(
        f"one process at a time may change {address}, however: others do all the time; try again later"
    )


def _swapped(store: Store, key: str, before: tuple[bytes, str] | None, text: bytes) -> bool:
    """Whether an object now holds a text, since it did or since nobody changed it meanwhile."""
    if before is not None and before[0] == text:
        return True
    return store.swap(key, text, None if before is None else before[1], type=_TYPES[key.rpartition("/")[2]])


def _data(entries: list[Entry]) -> str:
    return json.dumps(dcat(entries), indent=1, ensure_ascii=False) + "\n"


def _content(store: Store, home: str, files: Mapping[str, Listed], file: str) -> bytes | None:
    found = store.get(f"{home}/{file}") if file in files else None
    return None if found is None else found[0]


def _remote_entries(store: Store, prefix: str, bucket: str) -> tuple[list[Entry], list[str]]:
    """What lies two folders below the prefix and has checksums, and what of it cannot be read."""
    homes: dict[tuple[str, str], dict[str, Listed]] = {}
    for key, one in store.list(prefix).items():
        name, number, file = (*key.removeprefix(prefix).split("/", 2), "", "")[:3]
        if file and not name.startswith(".") and not number.startswith("."):
            homes.setdefault((name, number), {})[file] = one
    entries, left_out = [], []
    for (name, number), files in sorted(homes.items()):
        if SUMS not in files:
            continue  # an upload that is not finished
        home = f"{prefix}{name}/{number}"
        latest = store.get(f"{prefix}{name}/{LATEST}")
        try:
            release = described(
                partial(_content, store, home, files), {file: one.size for file, one in files.items()},
                name=name, number=number, place=f"{bucket}{home}", issued=files[SUMS].written.timestamp(),
            )  # fmt: skip
            known = [] if latest is None else releases_of(latest[0])
            entries.append(_entry(release, latest=known[-1:] == [number]))
        except ReleaseError as e:
            left_out.append(str(e))
    return entries, left_out


def _entries(root: Path) -> tuple[list[Entry], list[str]]:
    """What lies two folders below the root and has checksums, and what of it cannot be read."""
    entries, left_out = [], []
    for sums in sorted(root.glob(f"*/*/{SUMS}")):
        folder = sums.parent
        if folder.is_symlink() or folder.name.startswith(".") or folder.parent.name.startswith("."):
            continue
        try:
            latest = (folder.parent / "latest").resolve() == folder.resolve()
            entries.append(_entry(read(folder), latest=latest))
        except ReleaseError as e:
            left_out.append(str(e))
    return entries, left_out


def _entry(release: Released, *, latest: bool) -> Entry:
    certificate = release.certificate
    warnings = release.figure("verdict", "warnings")
    return Entry(
        name=release.name,
        number=release.number,
        issued=datetime.fromtimestamp(int(release.issued), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        latest=latest,
        rows=release.rows,
        columns=len(release.schema),
        synthesizer=str(certificate.get("synthesizer") or "not said"),
        statement=str(certificate.get("statement") or ""),
        epsilon=_epsilon(certificate),
        shape=release.figure("faithful", "columns", "score"),
        shape_ceiling=release.figure("faithful", "columns", "ceiling"),
        trend=release.figure("faithful", "pairs", "score"),
        trend_ceiling=release.figure("faithful", "pairs", "ceiling"),
        told_apart=release.figure("faithful", "told_apart_auc"),
        leaked=release.figure("private", "worst_attack", "risk"),
        useful=_useful(release.figures),
        warnings=None if warnings is None else int(warnings),
        files={path: (size, release.sums.get(path, "")) for path, size in release.files.items()},
    )


def _epsilon(certificate: Mapping[str, Any]) -> float | None:
    """What is promised: by the certificate, which every release has."""
    promised = certificate.get("formal_guarantee")
    epsilon = promised.get("epsilon") if isinstance(promised, Mapping) else None
    return float(epsilon) if isinstance(epsilon, int | float) and not isinstance(epsilon, bool) else None


def _useful(figures: Mapping[str, Any]) -> tuple[str, str, float, float] | None:
    """The target that is taught worst."""
    found = []
    tasks = figures.get("useful")
    for task in tasks if isinstance(tasks, list) else ():
        try:
            real, guess = float(task["real"]), float(task["guess"])
            told = (str(task["target"]), str(task["measure"]), float(task["synthetic"]), real)
        except (TypeError, KeyError, ValueError):
            continue
        found.append(((real - told[2]) / max(real - guess, 1e-9), told))
    return max(found)[1] if found else None
