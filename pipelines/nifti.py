"""NIfTI: volumes as slices along an axis, in canonical orientation.

A volume is turned to right, anterior, superior; slices of the recipe's axis are shown with anterior (or superior) up
and the patient's right at the right. Values are shown as the recipe's window has it, or from the lowest to the highest
of the volume. A file of several volumes, as of functional MRI, gives the slices of each in turn.
"""

import gzip
import importlib
import itertools
import logging
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.pictures import grey, png
from pipelines.scans import AXES, FILE_BYTES, FRAME, PATIENT, Scans, Window, pseudonym
from privacy.errors import InputError, UsageError
from synth.images import LIMITS, Limits, check_size

_SUBJECT = re.compile(r"(?:^|/)(sub-[A-Za-z0-9]+)")
"""The subject, as BIDS names files and folders."""

_BROKEN = (OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, zlib.error)


def nifti_slices(
    file: Path, name: str, scans: Scans, limits: Limits = LIMITS
) -> Iterator[tuple[bytes, Mapping[str, str | None]]]:
    """The slices of one NIfTI file, .nii or .nii.gz, as PNG, and what is said of each.

    Args:
        file: where it is.
        name: its relative name; the subject is what BIDS names in it, else the file.
        scans: what the recipe says.
        limits: of the slices.

    Raises:
        InputError: it cannot be read; volumes before the one that cannot have been given.
    """
    image = _opened(file)
    shape = _checked(image, scans, limits)
    subject = _SUBJECT.search(name)
    who = pseudonym("subject", subject[1]) if subject else pseudonym("file", name)
    number = 0
    for index in itertools.product(*map(range, shape[3:])):
        for shown in _slices(_volume(image, index), scans):
            yield png(shown), {PATIENT: who, FRAME: str(number)}
            number += 1


def nifti_count(file: Path, scans: Scans) -> int:
    """How many slices a file says that it holds; 0 if it cannot be read."""
    try:
        shape = _checked(_opened(file), scans, LIMITS)
    except InputError:
        return 0
    return int(np.prod([shape[AXES[scans.axis]], *shape[3:]]))


def is_nifti(name: str) -> bool:
    """Whether a file is called as NIfTI files are."""
    return name.lower().endswith((".nii", ".nii.gz"))


def _opened(file: Path) -> Any:
    try:
        import nibabel
    except ImportError:
        raise UsageError(
            "NIfTI needs nibabel, however: it is not installed; pip install 'understudy[nifti]'"
        ) from None
    # It logs values of headers.
    logging.getLogger("nibabel").setLevel(logging.CRITICAL)
    try:
        return nibabel.load(file)
    except (
        *_BROKEN,
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        nibabel.spatialimages.HeaderTypeError,
    ):
        raise InputError("a NIfTI file must be whole, however: its header is damaged") from None


def _checked(image: Any, scans: Scans, limits: Limits) -> tuple[int, ...]:
    """The shape, after sizes were held against limits: no value was read so far."""
    shape = tuple(int(n) for n in image.shape) + (1,) * max(0, 3 - len(image.shape))
    values = int(np.prod(shape[:3], dtype=object))
    if min(shape) < 1:
        raise InputError("a NIfTI file must hold a volume, however: it is empty")
    if values * 8 > FILE_BYTES:
        raise InputError(f"a volume must have {FILE_BYTES // 8:,} values at most, however: it has {values:,}")
    if int(np.prod(shape[3:], dtype=object)) > limits.frames:
        raise InputError(f"a file must have {limits.frames:,} volumes at most, however: it has more")
    height, width = (n for axis, n in enumerate(shape[:3]) if axis != AXES[scans.axis])
    check_size(width, height, limits)
    return shape


def _volume(image: Any, index: tuple[int, ...]) -> npt.NDArray[Any]:
    """One volume: (right, anterior, superior), or with a last axis of red, green and blue."""
    nibabel: Any = importlib.import_module("nibabel")
    try:
        stored = np.asanyarray(image.dataobj[(..., *index)] if index else image.dataobj)
        while stored.ndim < 3:
            stored = stored[..., None]
        turned = nibabel.apply_orientation(stored, nibabel.io_orientation(image.affine))
    except (*_BROKEN, gzip.BadGzipFile, nibabel.orientations.OrientationError):
        raise InputError("a volume must be whole, however: it is damaged or truncated") from None
    if turned.dtype.fields is not None:
        return np.stack([turned[c] for c in ("R", "G", "B")], axis=-1)
    if turned.dtype.kind not in "biuf":
        raise InputError("values of a volume must be real numbers, however: they are of another type")
    return np.asarray(turned, np.float64)


def _slices(volume: npt.NDArray[Any], scans: Scans) -> Iterator[npt.NDArray[np.uint8]]:
    """The slices of a volume, the first axis upwards of what stays up: uint8 (height, width) or with colours."""
    if volume.ndim == 4:
        yield from (np.rot90(plane).astype(np.uint8) for plane in np.moveaxis(volume, AXES[scans.axis], 0))
        return
    present = volume[np.isfinite(volume)]
    ends = present.min(initial=np.inf), present.max(initial=-np.inf)
    window = None if scans.window is None else Window(center=scans.window[0], width=scans.window[1])
    for plane in np.moveaxis(volume, AXES[scans.axis], 0):
        shown = grey(plane, *ends) if window is None else window.apply(plane)
        yield np.ascontiguousarray(np.rot90(shown))
