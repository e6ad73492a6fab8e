"""The score map as a derived MR series: one grey image for each source slice, for viewers that know nothing else.

PS3.3 A.4. Stored values are the score times STEPS_PER_UNIT, without rescale: the MR Image IOD has none.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from anomalyd.pipeline.results.colour import ScoreScale
from anomalyd.pipeline.results.header import Source, SourceSlice
from anomalyd.pipeline.results.objects import ResultContext, ResultKind, ResultObject
from anomalyd.pipeline.results.stamp import ascii_text, code, copy_lossiness, item, key_of, part10, series_number, stamp
from anomalyd.pipeline.results.verbatim import copy_verbatim, tags_of
from anomalyd.pipeline.results.version import PRODUCT, RESEARCH_USE, version_line

STEPS_PER_UNIT: Final = 100
_LARGEST: Final = np.iinfo(np.uint16).max
_LONG_TEXT: Final = 10240  # PS3.5 table 6.2-1, VR LT
_ACQUISITION = (  # PS3.3 C.8.3.1, Type 1 to 2C: as the source was scanned, where it is a classic one
    "ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime",
    "EchoTrainLength", "InversionTime", "TriggerTime", "MagneticFieldStrength",
)  # fmt: skip
_TYPE_2 = ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength", "PatientPosition")


def build_score_maps(source: Source, context: ResultContext) -> Iterator[ResultObject]:
    """In geometric order, InstanceNumber from 1."""
    key, kind = key_of(source, context), ResultKind.SCORE_MAP
    common = _common(source, context)
    common.SeriesInstanceUID = key.series(kind)
    for number, image in enumerate(source.slices, start=1):
        uid = key.instance(kind, image.index)
        _place(common, image)
        common.SOPInstanceUID, common.InstanceNumber = uid, number
        steps = np.rint(context.finding.score_map[image.index] * STEPS_PER_UNIT).clip(0, _LARGEST)
        common.PixelData = steps.astype("<u2").tobytes()
        common["PixelData"].VR = "OW"
        yield ResultObject(kind, MRImageStorage, uid, key.series(kind), number, part10(common))


def _common(source: Source, context: ResultContext) -> Dataset:
    """All that the instances of the series share."""
    finding = context.finding
    ds = Dataset()
    ds.SOPClassUID, ds.Modality = MRImageStorage, "MR"
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.ScanningSequence, ds.SequenceVariant = "RM", "NONE"
    for keyword in _TYPE_2:
        setattr(ds, keyword, None)
    if source.slices[0].sop_class_uid == MRImageStorage:  # an Enhanced object has its own, under other conditions
        copy_verbatim(source.first, ds, tags_of(*_ACQUISITION))
    if position := source.elements.text("PatientPosition"):
        ds.PatientPosition = position
    ds.SeriesNumber = series_number(source, ResultKind.SCORE_MAP)
    ds.SeriesDescription = f"{PRODUCT} SCORE MAP (research)"
    ds.FrameOfReferenceUID = source.elements.text("FrameOfReferenceUID")
    ds.PositionReferenceIndicator = None
    ds.ImageOrientationPatient, ds.PixelSpacing = list(source.orientation), list(source.pixel_spacing)
    ds.SliceThickness, ds.SpacingBetweenSlices = source.thickness, source.between
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = source.shape[1:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    top = ScoreScale(finding.threshold).top * STEPS_PER_UNIT
    ds.WindowCenter, ds.WindowWidth = f"{top / 2:.6g}", f"{top:.6g}"
    ds.BurnedInAnnotation = "NO"
    copy_lossiness(ds, source)
    ds.DerivationDescription = f"{version_line(finding.model)}. Anomaly score x {STEPS_PER_UNIT}. {RESEARCH_USE}."
    ds.DerivationCodeSequence = [code("113085", "DCM", "Spatial resampling")]
    ds.ImageComments = _comments(context)
    stamp(ds, source, context)
    return ds


def _comments(context: ResultContext) -> str:
    finding = context.finding
    text = (
        f"{RESEARCH_USE}. Stored value = anomaly score x {STEPS_PER_UNIT}; threshold "
        f"{finding.threshold * STEPS_PER_UNIT:.4g} ({finding.threshold_text})."
    )
    return ascii_text(text + "".join(f" Warning: {warning}." for warning in context.all_warnings))[:_LONG_TEXT]


def _place(common: Dataset, image: SourceSlice) -> None:
    common.ImagePositionPatient = list(image.position)
    reference = item(ReferencedSOPClassUID=image.sop_class_uid, ReferencedSOPInstanceUID=image.instance_uid)
    if image.frame is not None:
        reference.ReferencedFrameNumber = image.frame
    reference.PurposeOfReferenceCodeSequence = [code("121322", "DCM", "Source image for image processing operation")]
    reference.SpatialLocationsPreserved = "YES"
    common.SourceImageSequence = [reference]
