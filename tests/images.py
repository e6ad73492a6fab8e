"""Small MR data sets for tests of receiving: right in every attribute that the door looks at, and wrong on demand."""

from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)
from pynetdicom.dsutils import encode

STUDY, SERIES = "1.2.826.0.1.3", "1.2.826.0.1.3.1"
MARKER = "MARKER"
"""In every text that belongs to the patient: must not be found in logs, audit rows, file names, error comments."""


def uid_of(number: int) -> str:
    """SOP Instance UID of the n-th image."""
    return f"{SERIES}.{number}"


def image(number: int = 1, *, syntax: str = ExplicitVRLittleEndian, pixels: bytes = b"\1\2", **changes: Any) -> bytes:
    """An encoded data set, without file meta information; changes: keyword=value, None removes."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, uid_of(number)
    ds.StudyDate, ds.Modality, ds.AccessionNumber = "20260131", "MR", f"{MARKER}-ACC"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"{MARKER}^Name", f"{MARKER}-ID", "19330303"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, SERIES
    ds.PixelData = pixels
    ds["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    raw = encode(
        ds,
        is_implicit_vr=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
        deflated=UID(syntax) == DeflatedExplicitVRLittleEndian,
    )
    if raw is None:
        raise ValueError("pynetdicom cannot encode the test's image")
    return raw
