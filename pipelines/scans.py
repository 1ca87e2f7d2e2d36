"""Scans: what a recipe says of DICOM and NIfTI files, and what of them may go any further.

Nothing of a header does unless the recipe names it, and then only attributes of `HEADERS`. Those are the technical ones
that the basic profile of DICOM PS3.15 Annex E (2024b, table E.1-1) keeps, and the characteristics of patients that its
option 113108 retains. Names, dates, numbers, free text and private tags are none of them. Whose a scan is becomes a
pseudonym, since rows of one person must stay on one side of a split.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.pictures import grey
from privacy.errors import UsageError
from synth.schema import nearest

FILE_BYTES = 1 << 30
"""Bytes of a file at most, unpacked: it is held in memory while it is read."""

PATIENT = "patient"
"""The column of pseudonyms."""

FRAME = "frame"
"""The column that numbers the images of a file, from 0 on."""

CHARACTERISTICS = frozenset(
    {
        "EthnicGroup", "PatientAge", "PatientSex", "PatientSexNeutered", "PatientSize", "PatientWeight",
        "PregnancyStatus", "SmokingStatus",
    }
)  # fmt: skip
"""What PS3.15 Annex E's option `Retain Patient Characteristics` keeps and is no free text."""

HEADERS = CHARACTERISTICS | {
    "AcquisitionMatrix", "AcquisitionNumber", "AnodeTargetMaterial", "BitsAllocated",
    "BitsStored", "BodyPartExamined", "BodyPartThickness", "BreastImplantPresent", "Columns", "CompressionForce",
    "ConversionType", "ConvolutionKernel", "DataCollectionDiameter", "DetectorType", "DiffusionBValue",
    "DistanceSourceToDetector", "DistanceSourceToPatient", "EchoNumbers", "EchoTime", "EchoTrainLength",
    "Exposure", "ExposureTime", "FieldOfViewDimensions", "FieldOfViewShape", "FilterMaterial", "FilterType",
    "FlipAngle", "FocalSpots", "GantryDetectorTilt", "Grid", "ImageLaterality", "ImageType", "ImagedNucleus",
    "ImagesInAcquisition", "ImagingFrequency", "InstanceNumber", "InversionTime", "KVP", "Laterality",
    "LossyImageCompression", "MRAcquisitionType", "MagneticFieldStrength", "Manufacturer",
    "ManufacturerModelName", "Modality", "NumberOfAverages", "NumberOfFrames", "NumberOfPhaseEncodingSteps",
    "PartialView", "PatientOrientation", "PatientPosition", "PhotometricInterpretation", "PixelBandwidth",
    "PixelSpacing", "PositionerType", "PresentationIntentType", "ReconstructionDiameter", "RepetitionTime",
    "RevolutionTime", "Rows", "SAR", "SamplesPerPixel", "ScanOptions", "ScanningSequence", "SequenceVariant",
    "SeriesNumber", "SingleCollimationWidth", "SliceLocation", "SliceThickness", "SpacingBetweenSlices",
    "SpiralPitchFactor", "TableHeight", "TotalCollimationWidth", "ViewPosition", "XRayTubeCurrent",
}  # fmt: skip
"""Keywords of DICOM attributes that may become columns."""

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis of a volume in canonical orientation (right, anterior, superior) that slices are cut across."""


class Scans(BaseModel):
    """How DICOM and NIfTI files become images and columns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    headers: Annotated[
        tuple[str, ...],
        Field(
            description="attributes of DICOM headers that become columns, e.g. Modality; none: no header is read"
        ),
    ] = ()
    window: Annotated[
        tuple[float, float] | None,
        Field(
            description="centre and width of what is shown, e.g. [40, 400] Hounsfield units; none: the file's window, "
            "else from its lowest to its highest value"
        ),
    ] = None
    axis: Annotated[
        Literal["axial", "coronal", "sagittal"], Field(description="how volumes of NIfTI files are sliced")
    ] = "axial"

    @field_validator("headers")
    @classmethod
    def _may_go_further(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in HEADERS:
                raise ValueError(
                    f"headers must identify nobody, however: {name!r} is none of those that may become columns"
                    f"{nearest(name, HEADERS) or '; docs/sources.md lists them'}"
                )
        if len(set(value)) < len(value):
            raise ValueError("headers must differ, however: one stands twice")
        return value

    @classmethod
    def of(cls, headers: tuple[str, ...]) -> "Scans":
        """With these headers, as somebody asks for them.

        Raises:
            UsageError: one of them may not become a column.
        """
        try:
            return cls(headers=headers)
        except ValidationError as e:
            raise UsageError(e.errors()[0]["msg"].removeprefix("Value error, ")) from None

    @model_validator(mode="after")
    def _has_width(self) -> Self:
        if self.window is not None and not (np.isfinite(self.window).all() and self.window[1] >= 1):
            raise ValueError("a window must be a centre and a width from 1 on, however: it is none")
        return self


DEFAULT = Scans()
"""What holds where a recipe says nothing."""


def pseudonym(*parts: str) -> str:
    """Sixteen letters that stand for a person: the same for the same parts, the first half of a SHA-256.

    It is no secret, since whoever knows a number can compute it; it stays inside and spares a run the number itself.
    """
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Window:
    """What of a scan's values is shown, as DICOM PS3.3 C.11.2.1.2 has it.

    Attributes:
        center: value that is mid grey.
        width: from black to white.
        function: LINEAR, LINEAR_EXACT or SIGMOID.
    """

    center: float
    width: float
    function: str = "LINEAR"

    def apply(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
        """Values as greys: uint8, of the same shape."""
        if self.function == "SIGMOID":
            exponent = np.clip(-4 * (values - self.center) / self.width, -50, 50)
            return grey(1 / (1 + np.exp(exponent)), 0.0, 1.0)
        if self.function == "LINEAR_EXACT":
            return grey(values, self.center - self.width / 2, self.center + self.width / 2)
        half = max(self.width - 1, 1e-9) / 2
        return grey(values, self.center - 0.5 - half, self.center - 0.5 + half)
