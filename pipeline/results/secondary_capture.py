"""What all colour pictures that are sent share: an RGB Secondary Capture (PS3.3 A.8.1), its maker and its warning."""

from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from anomalyd.pipeline.results.colour import RGB8, ScoreScale
from anomalyd.pipeline.results.header import Origin, Source, SourceSlice
from anomalyd.pipeline.results.objects import Made, ResultContext, ResultKind
from anomalyd.pipeline.results.stamp import (
    ascii_text,
    code,
    copy_lossiness,
    item,
    key_of,
    series_number,
    stamp,
)
from anomalyd.pipeline.results.version import PRODUCT, RESEARCH_USE, version_line

_SHORT_TEXT: Final = 1024  # PS3.5 table 6.2-1, VR ST
_LONG_TEXT: Final = 10240  # VR LT


def colour_picture(source: Source, context: ResultContext, kind: ResultKind, shape: tuple[int, int]) -> Dataset:
    """Of the source and its score, without geometry, pixels and UID of its own. shape: rows, columns."""
    ds = bare_picture(source, context, kind, shape)
    ds.RecognizableVisualFeatures = "YES"
    line = version_line(context.model)
    ds.DerivationDescription = f"{line}. Anomaly score over the source image. {RESEARCH_USE}."[:_SHORT_TEXT]
    ds.DerivationCodeSequence = [
        code("113076", "DCM", "Segmentation"),
        code("113085", "DCM", "Spatial resampling"),
    ]
    ds.ImageComments = comments(_of_the_finding(context))
    return ds


def bare_picture(source: Origin, made: Made, kind: ResultKind, shape: tuple[int, int]) -> Dataset:
    """What every Secondary Capture of ours has, whatever it shows, stamped. shape: rows, columns."""
    ds = Dataset()
    ds.SOPClassUID, ds.SeriesInstanceUID = SecondaryCaptureImageStorage, key_of(source, made).series(kind)
    ds.ImageType, ds.ConversionType, ds.Modality = ["DERIVED", "SECONDARY", "OTHER"], "WSD", "OT"
    ds.SeriesNumber = series_number(source, kind)
    ds.SeriesDescription = f"{PRODUCT} {kind.upper().replace('_', ' ')} (research)"
    ds.PatientOrientation = None
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.BurnedInAnnotation, ds.RecognizableVisualFeatures = "NO", "NO"
    copy_lossiness(ds, source)
    if position := source.elements.text("PatientPosition"):
        ds.PatientPosition = position
    stamp(ds, source, made)
    return ds


def fill(dataset: Dataset, picture: RGB8) -> None:
    """Its pixels: (rows, columns, 3)."""
    dataset.PixelData = picture.tobytes()
    dataset["PixelData"].VR = "OB"


def drawn_from(image: SourceSlice, *, keeps_place: bool) -> Dataset:
    """Item of the Source Image Sequence. keeps_place: a pixel lies where it lies in the source."""
    reference = item(ReferencedSOPClassUID=image.sop_class_uid, ReferencedSOPInstanceUID=image.instance_uid)
    if image.frame is not None:
        reference.ReferencedFrameNumber = image.frame
    reference.PurposeOfReferenceCodeSequence = [code("121322", "DCM", "Source image for image processing operation")]
    reference.SpatialLocationsPreserved = "YES" if keeps_place else "NO"
    return reference


def comments(text: str) -> str:
    """Image Comments that begin with the warning."""
    return ascii_text(f"{RESEARCH_USE}. {text}")[:_LONG_TEXT]


def _of_the_finding(context: ResultContext) -> str:
    finding, scale = context.finding, ScoreScale(context.finding.threshold)
    text = (
        f"Colour scale 0 to {scale.top:.4g}, outlined above {finding.threshold:.4g} "
        f"({finding.threshold_text}). Scan score {finding.score:.4g}, percentile {finding.score_percentile:.1f} of "
        f"healthy scans. {len(finding.lesions)} candidates."
    )
    warnings = "".join(f" Warning: {warning}." for warning in context.all_warnings)
    return text + warnings
