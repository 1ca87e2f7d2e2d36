"""DICOM: the frames of a file as images, with the window, the palette and the colours that it asks for.

Grey frames are shown as the recipe's window has it; else as the file's VOI look-up table or first window; else 8-bit
values as they are, and others from the lowest to the highest value of the file. Overlays are never drawn.

- Compressed frames are decoded by Pillow, pylibjpeg-openjpeg, pyjpegls and GDCM, all permissively licensed. JPEG of
  12 bits (1.2.840.10008.1.2.4.51) takes a decoder under the GPL, so it is not read.
- A file whose pixels hold writing (`BurnedInAnnotation` is YES) is not read: a name may stand in them.
"""

import importlib
import io
import logging
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.pictures import grey, jpeg_segments, png
from pipelines.scans import FILE_BYTES, FRAME, PATIENT, Scans, Window, pseudonym
from pipelines.source import BLOCK_BYTES, opened, reading
from privacy.errors import InputError, UsageError
from synth.images import LIMITS, Limits, check_size

Frame = tuple[bytes, Mapping[str, str | None]]
"""An image as PNG, and what is said of it."""

_DEFLATED = "1.2.840.10008.1.2.1.99"
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PLUGINS = ("", "pylibjpeg", "gdcm", "pillow")
"""Decoders that are tried in turn; the first leaves the choice to pydicom."""


def dicom_frames(file: Path, name: str, scans: Scans, limits: Limits = LIMITS) -> Iterator[Frame]:
    """The frames of one DICOM file.

    Args:
        file: where it is; packed with gzip or the like, or not.
        name: its relative name, which stands for a person where no header does.
        scans: what the recipe says.
        limits: of the frames.

    Raises:
        InputError: it holds no image, or one that cannot be read; frames before that one have been given.
    """
    pydicom = library()
    content = _content(file)
    with _quiet():
        try:
            data = pydicom.dcmread(io.BytesIO(content), force=True)
            _complete(data, pydicom)
            said = _said(data, name, scans)
        except _BROKEN:
            raise InputError("a DICOM file must be whole, however: its header is damaged") from None
    _check(data, limits)
    with _quiet():
        _check_codestreams(data, limits)
    try:
        show = _Show.of(data, scans)
    except _BROKEN:
        raise InputError("a DICOM image must say how it is shown, however: it is damaged") from None
    for number, frame in enumerate(_arrays(data)):
        with _quiet():
            try:
                shown = png(show.picture(frame, number))
            except _BROKEN:
                raise InputError("a frame must be shown, however: its look-up table is damaged") from None
        yield shown, {**said, FRAME: str(number)}


def dicom_count(file: Path) -> int:
    """How many frames a file says that it holds; 0 if it cannot be read."""
    pydicom = library()
    try:
        with reading(file.name), _quiet(), opened(file) as stream:
            wanted = ["Rows", "NumberOfFrames"]
            head = pydicom.dcmread(stream, force=True, stop_before_pixels=True, specific_tags=wanted)
            return int(head.get("NumberOfFrames") or 1) if "Rows" in head else 0
    except (InputError, *_BROKEN):
        return 0


def is_dicom(file: Path) -> bool:
    """Whether a file says at its beginning that it is DICOM."""
    try:
        with reading(file.name), opened(file) as stream:
            return stream.read(132)[128:] == b"DICM"
    except InputError:
        return False


def library() -> Any:
    """pydicom, whose types tell less than it exports."""
    for name in ("pydicom", "openjpeg"):
        # They log what they stumble over, which may be a piece of a header; without a handler it would be printed.
        logger = logging.getLogger(name)
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    try:
        return importlib.import_module("pydicom.pixels") and importlib.import_module("pydicom")
    except ImportError:
        raise UsageError(
            "DICOM needs pydicom, however: it is not installed; pip install 'understudy[dicom]'"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps warnings of pydicom from being printed: they quote what headers hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    zlib.error,
)
"""What pydicom and its decoders raise over a file that is not as it should be; their messages may quote it."""


def _content(file: Path) -> bytes:
    """The bytes of a file, unpacked."""
    with reading("it"), opened(file) as stream:
        content = stream.read(FILE_BYTES + 1)
    if len(content) > FILE_BYTES:
        raise InputError(f"a DICOM file must have {FILE_BYTES:,} bytes at most, however: it has more")
    if _DEFLATED.encode() in content[:1024]:
        _check_inflated(content)
    return content


def _check_inflated(content: bytes) -> None:
    """Finds out in bounded memory how large a deflated data set becomes, which pydicom does not ask."""
    pydicom = library()
    stream = io.BytesIO(content)
    try:
        with _quiet():
            pydicom.filereader.read_preamble(stream, force=True)
            pydicom.filereader._read_file_meta_info(stream)
        inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while block := stream.read(BLOCK_BYTES):
            while block and size <= FILE_BYTES:
                size += len(inflate.decompress(block, BLOCK_BYTES))
                block = inflate.unconsumed_tail
    except _BROKEN:
        raise InputError("a DICOM file must be whole, however: it is damaged") from None
    if size > FILE_BYTES:
        raise InputError(
            f"a DICOM file must unpack to {FILE_BYTES:,} bytes at most, however: it becomes more"
        )


def _complete(data: Any, pydicom: Any) -> None:
    """Gives a data set that lacks its file's meta information the transfer syntax that it was read with."""
    if "TransferSyntaxUID" in data.file_meta:
        return
    implicit, little = data.original_encoding
    syntax = (
        pydicom.uid.ImplicitVRLittleEndian
        if implicit
        else pydicom.uid.ExplicitVRLittleEndian
        if little
        else pydicom.uid.ExplicitVRBigEndian
    )
    data.file_meta.TransferSyntaxUID = syntax


def _said(data: Any, name: str, scans: Scans) -> dict[str, str | None]:
    """Whose the file is, as a pseudonym, and the header's values that the recipe names."""
    keys = [
        (k, str(data.get(k) or "").strip()) for k in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
    ]
    known = next(((k, v) for k, v in keys if v), ("file", name))
    who = pseudonym(*known, str(data.get("IssuerOfPatientID") or "") if known[0] == "PatientID" else "")
    return {PATIENT: who, **{keyword: _text(data.get(keyword)) for keyword in scans.headers}}


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    if hasattr(value, "__iter__"):
        return "\\".join(map(str, value)) or None
    return str(value)


def _check(data: Any, limits: Limits) -> None:
    """Refuses what holds no image, or one that must not be decoded.

    Raises:
        InputError: see `dicom_frames`.
    """
    if not any(keyword in data for keyword in _PIXELS):
        raise InputError("a DICOM file must hold an image, however: it holds no pixel data")
    if str(data.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        raise InputError(
            "pixels must hold no writing, however: BurnedInAnnotation is YES; clean them, and write NO"
        )
    with _quiet():
        try:
            rows, columns = int(data.Rows), int(data.Columns)
            frames = int(data.get("NumberOfFrames") or 1)
            samples, allocated = int(data.SamplesPerPixel), int(data.BitsAllocated)
            str(data.PhotometricInterpretation)
        except _BROKEN:
            raise InputError("a DICOM image must say its size, however: its header is damaged") from None
    check_size(columns, rows, limits)
    if not 1 <= frames <= limits.frames:
        raise InputError(f"a file must have 1 to {limits.frames:,} frames, however: it has {frames:,}")
    if samples not in (1, 3) or allocated not in (1, 8, 16, 32, 64):
        raise InputError(
            "a DICOM image must be grey or coloured of 1 to 64 bits, however: its header is damaged"
        )


_SIZ = re.compile(rb"\xff\x4f\xff\x51.{4}(.{4})(.{4})", re.DOTALL)
"""Width and height in a JPEG 2000 codestream (ISO/IEC 15444-1 A.5.1)."""

_SOF = frozenset(b"\xc0\xc1\xc2\xc3\xc5\xc6\xc7\xc9\xca\xcb\xcd\xce\xcf\xf7")
"""Markers of the frame header of JPEG (ISO/IEC 10918-1 B.2.2) or JPEG-LS: there stand height and width."""


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG, as its frame header says; None where it has none before its first scan."""
    for marker, at, _ in jpeg_segments(frame):
        if marker in _SOF:
            return int.from_bytes(frame[at + 7 : at + 9]), int.from_bytes(frame[at + 5 : at + 7])
        if marker == 0xDA:
            return None
    return None


def _check_codestreams(data: Any, limits: Limits) -> None:
    """Refuses compressed frames that would become larger than the header says: decoders believe the frames.

    Raises:
        InputError: see `dicom_frames`.
    """
    syntax = library().uid.UID(data.file_meta.TransferSyntaxUID)
    if "PixelData" not in data or not syntax.is_compressed or syntax == _DEFLATED:
        return
    try:
        count = int(data.get("NumberOfFrames") or 1)
        frames = importlib.import_module("pydicom.encaps").generate_frames(
            data.PixelData, number_of_frames=count
        )
        sizes = [size for frame in frames for size in _sizes(frame)]
    except _BROKEN:
        raise InputError("pixel data must be whole, however: its frames are damaged") from None
    for size in sizes:
        if size is None:
            raise InputError("pixel data must be whole, however: a frame does not say its size")
        check_size(*size, limits)


def _sizes(frame: bytes) -> list[tuple[int, int] | None]:
    """Every size that a decoder may believe: JPEG has one, JPEG 2000 may lie in a box, others go by the header."""
    if frame.startswith(b"\xff\xd8"):
        return [_jpeg_size(frame)]
    return [(int.from_bytes(found[1]), int.from_bytes(found[2])) for found in _SIZ.finditer(frame)]


def _arrays(data: Any) -> Iterator[npt.NDArray[Any]]:
    """The frames as stored, one at a time: (rows, columns) or (rows, columns, 3), YBR turned to RGB."""
    pydicom = library()
    plugin = next((p for p in _PLUGINS if _decodes(data, p)), None)
    if plugin is None:
        syntax = pydicom.uid.UID(data.file_meta.TransferSyntaxUID)
        what = syntax.name if syntax.name != str(syntax) else "an unknown transfer syntax"
        raise InputError(f"pixel data must be decodable, however: it is not ({what})")
    frames = pydicom.pixels.iter_pixels(data, decoding_plugin=plugin)
    while True:
        with _quiet():
            try:
                frame = next(frames, None)
            except _BROKEN:
                raise InputError("pixel data must be whole, however: a frame cannot be decoded") from None
        if frame is None:
            return
        yield frame


def _decodes(data: Any, plugin: str) -> bool:
    """Whether a decoder gets the first frame out."""
    pydicom = library()
    with _quiet():
        try:
            next(pydicom.pixels.iter_pixels(data, decoding_plugin=plugin))
        except _BROKEN:
            return False
    return True


class _Show:
    """How the frames of one file are shown.

    Attributes:
        data: the data set.
        window: the recipe's window, or None.
        span: lowest and highest value of the file, where frames are shown by them.
    """

    def __init__(self, data: Any, window: Window | None) -> None:
        self.data, self.window = data, window
        self.photometric = str(data.PhotometricInterpretation)
        self.bits = int(data.get("BitsStored") or data.BitsAllocated)
        self.span: tuple[float, float] | None = None

    @classmethod
    def of(cls, data: Any, scans: Scans) -> "_Show":
        window = None if scans.window is None else Window(center=scans.window[0], width=scans.window[1])
        show = cls(data, window)
        if show._needs_span():
            show.span = show._found_span()
        return show

    def picture(self, frame: npt.NDArray[Any], number: int) -> npt.NDArray[np.uint8]:
        """A frame as uint8 (rows, columns) or (rows, columns, 3)."""
        if self.photometric == "PALETTE COLOR":
            return self._coloured(frame)
        if frame.ndim == 3:
            return (frame >> max(self.bits - 8, 0)).astype(np.uint8)
        shown = self._grey(frame, number)
        return 255 - shown if self.photometric == "MONOCHROME1" else shown

    def _coloured(self, frame: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        coloured = np.asarray(library().pixels.apply_color_lut(frame, self.data))[..., :3]
        # Tables of 16 bits are common even where the colours have 8, which then stand in the upper byte.
        upper = coloured >> 8 if coloured.dtype == np.uint16 else coloured
        return np.asarray(upper, np.uint8)

    def _grey(self, frame: npt.NDArray[Any], number: int) -> npt.NDArray[np.uint8]:
        if self.span is None and self.window is None and self._own(number) is None:
            return self._plain(frame)
        values = self._values(frame, number)
        if self.window is not None:
            shown = self.window.apply(values)
        elif (own := self._own(number)) is not None:
            shown = own.apply(values) if isinstance(own, Window) else self._looked_up(values, own)
        else:
            low, high = self.span or (0.0, 0.0)
            shown = grey(values, low, high)
        padding = self._padding(frame)
        return shown if padding is None else np.where(padding, 0, shown).astype(np.uint8)

    def _plain(self, frame: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        return (frame.astype(np.int64) * 255 // ((1 << self.bits) - 1)).astype(np.uint8)

    def _values(self, frame: npt.NDArray[Any], number: int) -> npt.NDArray[np.float64]:
        """What the stored values mean, e.g. Hounsfield units."""
        group = self._group("PixelValueTransformationSequence", number)
        return np.asarray(
            library().pixels.apply_modality_lut(frame, self.data if group is None else group), np.float64
        )

    def _own(self, number: int) -> Any:
        """What the file says of showing: a `Window`, a data set with a look-up table, or None."""
        group = self._group("FrameVOILUTSequence", number)
        data = self.data if group is None else group
        if data.get("VOILUTSequence"):
            return data
        center, width = _first(data.get("WindowCenter")), _first(data.get("WindowWidth"))
        function = str(data.get("VOILUTFunction") or "LINEAR")
        if center is None or width is None or not width >= (1 if function == "LINEAR" else 1e-9):
            return None
        return Window(center=center, width=width, function=function)

    def _looked_up(self, values: npt.NDArray[np.float64], data: Any) -> npt.NDArray[np.uint8]:
        shown = library().pixels.apply_voi(np.rint(values).astype(np.int64), data)
        bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
        return grey(np.asarray(shown, np.float64), 0.0, float((1 << bits) - 1))

    def _group(self, keyword: str, number: int) -> Any:
        """What an enhanced multi-frame file says of one frame, or of all."""
        frames = self.data.get("PerFrameFunctionalGroupsSequence") or []
        shared = self.data.get("SharedFunctionalGroupsSequence") or []
        for groups in (frames[number : number + 1], shared[:1]):
            if len(groups) and groups[0].get(keyword):
                return groups[0][keyword].value[0]
        return None

    def _padding(self, frame: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        """Which pixels were never measured."""
        value = self.data.get("PixelPaddingValue")
        if not isinstance(value, int):
            return None
        limit = self.data.get("PixelPaddingRangeLimit")
        ends = (value, limit if isinstance(limit, int) else value)
        return (frame >= min(ends)) & (frame <= max(ends))

    def _needs_span(self) -> bool:
        if self.window is not None or self.photometric not in ("MONOCHROME1", "MONOCHROME2"):
            return False
        with _quiet():
            own = self._own(0)
        signed = int(self.data.get("PixelRepresentation") or 0)
        plain = self.bits <= 8 and not signed and "PixelData" in self.data
        return own is None and not plain

    def _found_span(self) -> tuple[float, float]:
        low, high = np.inf, -np.inf
        for number, frame in enumerate(_arrays(self.data)):
            with _quiet():
                try:
                    values, padding = self._values(frame, number), self._padding(frame)
                except _BROKEN:
                    raise InputError("a frame must be shown, however: its look-up table is damaged") from None
            present = values[np.isfinite(values) & (True if padding is None else ~padding)]
            low, high = min(low, present.min(initial=np.inf)), max(high, present.max(initial=-np.inf))
        return low, high


def _first(value: Any) -> float | None:
    """The first of one or several numbers."""
    try:
        return float(value[0] if hasattr(value, "__iter__") and not isinstance(value, str) else value)
    except (TypeError, ValueError, IndexError):
        return None
