"""catalog: the releases at one root, as data (`catalog.json`) and as a page (`index.html`).

Both are made anew from what lies there, under a lock that a second publisher waits for: whoever comes last has seen
the releases of all who came before, so none is lost. Both files are swapped in whole.
"""

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.publish import SUMS
from pipelines.released import Released, read
from pipelines.workspace import write_atomic
from privacy.errors import ReleaseError, UsageError
from validation.catalog import Entry, dcat, render

CATALOG, PAGE, LOCK = "catalog.json", "index.html", ".catalog.lock"


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Where a catalogue lies.

    Attributes:
        releases: how many it lists.
        page: for people.
        catalog: for machines.
        left_out: what is wrong with releases that it does not list.
    """

    releases: int
    page: Path
    catalog: Path
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
        data = json.dumps(dcat(entries), indent=1, ensure_ascii=False) + "\n"
        write_atomic(catalog, data.encode())
        write_atomic(page, render(entries).encode())
    return Catalog(releases=len(entries), page=page, catalog=catalog, left_out=tuple(left_out))


def _entries(root: Path) -> tuple[list[Entry], list[str]]:
    """What lies two folders below the root and has checksums, and what of it cannot be read."""
    entries, left_out = [], []
    for sums in sorted(root.glob(f"*/*/{SUMS}")):
        folder = sums.parent
        if folder.is_symlink() or folder.name.startswith(".") or folder.parent.name.startswith("."):
            continue
        try:
            entries.append(_entry(read(folder)))
        except ReleaseError as e:
            left_out.append(str(e))
    return entries, left_out


def _entry(release: Released) -> Entry:
    certificate = release.certificate
    latest = (release.folder.parent / "latest").resolve() == release.folder
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
