"""Secondary: synthetic images as DICOM files, Secondary Capture (PS3.3 A.8.1), of patients who do not exist.

Nothing stands in a file but pixels, numbers and constant texts of this module: no value of a header that was read, and
no column of the release, which `metadata.csv` has. Identifiers follow from the digest of the release, so that an export
made twice has the same bytes, and that two releases share none.
"""

import io
import uuid
from typing import Any

from pipelines.dicom import library
from synth.images import one_image
from synth.schema import Picture

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary Capture Image Storage."""

DESCRIPTION = "Synthetic images by Understudy, of no real person"
"""Of studies and series; 64 letters at most."""

DERIVATION = (
    "Drawn from a statistical model; it shows nothing that exists, and is no evidence for a diagnosis."
)

METHOD = ("Synthetic: drawn from a model, taken from no patient", "Understudy")
"""How identity was removed; 64 letters at most each."""


class Secondary:
    """The writer of one release's files.

    Args:
        digest: of the release (hex), which identifiers follow from.
        picture: size and mode of its images.
    """

    def __init__(self, *, digest: str, picture: Picture) -> None:
        self._digest, self._picture = digest, picture.model_copy(update={"resize": "refuse"})
        self._pydicom = library()

    def file(self, content: bytes, row: int, unit: object) -> bytes:
        """A DICOM file of one image.

        Args:
            content: the image, encoded.
            row: its number in the release.
            unit: the value of the release's unit, such as a made-up patient; None: each row is a patient's.

        Raises:
            InputError: the image cannot be decoded, or is of another size than the schema says.
        """
        pixels = one_image(content, self._picture)
        height, width, channels = pixels.shape
        # A patient of the release is one of the files as well, under another name: her images belong together.
        who = self._uuid("patient", f"row {row}" if unit is None else f"unit {unit}")
        data = self._pydicom.Dataset()
        data.file_meta = self._pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = self._pydicom.uid.ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SOP_CLASS
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = _uid(self._uuid("image", str(row)))
        data.file_meta.ImplementationClassUID = _uid(uuid.uuid5(uuid.NAMESPACE_URL, "urn:understudy"))
        data.file_meta.ImplementationVersionName = "UNDERSTUDY"
        self._say_who(data, who)
        data.InstanceNumber = row + 1
        data.ImageType = ["DERIVED", "SECONDARY"]
        data.PatientOrientation = ""
        data.DerivationDescription = DERIVATION
        data.BurnedInAnnotation = "NO"
        data.ContentQualification = "RESEARCH"
        data.SyntheticData = "YES"
        data.Rows, data.Columns, data.SamplesPerPixel = height, width, channels
        data.PhotometricInterpretation = "MONOCHROME2" if channels == 1 else "RGB"
        if channels == 3:
            data.PlanarConfiguration = 0
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.PixelRepresentation = 7, 0
        values = pixels.tobytes()
        data.PixelData = values + b"\0" * (len(values) % 2)
        stream = io.BytesIO()
        data.save_as(stream, enforce_file_format=True)
        return stream.getvalue()

    def _say_who(self, data: Any, who: uuid.UUID) -> None:
        """Patient, study and series; of what only a real patient has, the empty values that the standard asks for."""
        name = who.hex[:12].upper()
        data.PatientName = f"SYNTHETIC^{name}"
        data.PatientID = f"SYNTHETIC-{name}"
        data.PatientBirthDate = data.PatientSex = ""
        data.PatientIdentityRemoved = "YES"
        data.DeidentificationMethod = list(METHOD)
        data.StudyInstanceUID = _uid(self._uuid("study", who.hex))
        data.StudyDate = data.StudyTime = data.ReferringPhysicianName = data.AccessionNumber = ""
        data.StudyID = "SYNTHETIC"
        data.StudyDescription = data.SeriesDescription = DESCRIPTION
        data.SeriesInstanceUID = _uid(self._uuid("series", who.hex))
        data.SeriesNumber = 1
        data.Modality = "OT"
        data.ConversionType = "SYN"
        data.Manufacturer = "Understudy"

    def _uuid(self, what: str, which: str) -> uuid.UUID:
        """A name-based UUID (RFC 9562, version 5)."""
        return uuid.uuid5(uuid.NAMESPACE_URL, f"urn:understudy:{self._digest}:{what}:{which}")


def _uid(number: uuid.UUID) -> str:
    """A UID from a UUID, as DICOM PS3.5 B.2 has it."""
    return f"2.25.{number.int}"
