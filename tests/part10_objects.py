"""Small DICOM objects of any class, for tests of what carries them."""

from io import BytesIO

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage


def part10_object(uid: str, sop_class: str = SecondaryCaptureImageStorage, *, side: int = 16, value: int = 1) -> bytes:
    """A Part 10 file with so many pixels of one value."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    dataset.PatientID, dataset.PatientName, dataset.Modality = "MADE-1", "Made^Object", "OT"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.StudyID = "1.2.3", f"1.2.3.{UID(sop_class)[-1]}", "1"
    dataset.Rows = dataset.Columns = side
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 7, 0
    dataset.BitsAllocated = 8
    dataset.PixelData = np.full(side * side, value, np.uint8).tobytes()
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
