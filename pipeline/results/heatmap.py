"""Heatmaps: one RGB Secondary Capture for each source slice, in the source's geometry (PS3.3 A.8.1)."""

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from anomalyd.pipeline.results.colour import RGB8, ScoreScale
from anomalyd.pipeline.results.header import Source, SourceSlice
from anomalyd.pipeline.results.legend import Legend
from anomalyd.pipeline.results.objects import ResultContext, ResultKind, ResultObject
from anomalyd.pipeline.results.paint import Painter, choose_window
from anomalyd.pipeline.results.place import place_of
from anomalyd.pipeline.results.stamp import (
    ascii_text,
    code,
    copy_lossiness,
    item,
    key_of,
    part10,
    series_number,
    stamp,
)
from anomalyd.pipeline.results.version import PRODUCT, RESEARCH_USE, version_line

_SHORT_TEXT, _LONG_TEXT = 1024, 10240  # PS3.5 table 6.2-1, VR ST and LT


def build_heatmaps(source: Source, context: ResultContext) -> Iterator[ResultObject]:
    """In geometric order, InstanceNumber from 1; interpolated slices have no source, so no heatmap."""
    key = key_of(source, context)
    series_uid = key.series(ResultKind.HEATMAP)
    common = _common(source, context)
    common.SeriesInstanceUID = series_uid
    for number, (image, picture) in enumerate(zip(source.slices, pictures(source, context), strict=True), start=1):
        uid = key.instance(ResultKind.HEATMAP, image.index)
        dataset = _of_slice(common, image, picture)
        dataset.SOPInstanceUID, dataset.InstanceNumber = uid, number
        yield ResultObject(ResultKind.HEATMAP, SecondaryCaptureImageStorage, uid, series_uid, number, part10(dataset))


def pictures(source: Source, context: ResultContext) -> Iterator[RGB8]:
    """(rows, columns, 3) for each source slice, as they stand in the heatmaps."""
    finding, volume = context.finding, context.volume
    scale = ScoreScale(finding.threshold)
    painter = Painter(choose_window(source.window, volume.voxels, finding.brain_mask), scale)
    legend = Legend((volume.grid.shape[1], volume.grid.shape[2]), _facts(context), scale, finding.brain_mask)
    for image in source.slices:
        k = image.index
        picture = painter.overlay(volume.voxels[k], finding.score_map[k], finding.labels[k] > 0)
        legend.draw(picture, place_of(volume.grid, k))
        yield picture


def _facts(context: ResultContext) -> list[str]:
    finding = context.finding
    found = f"{len(finding.lesions)} found" if finding.lesions else "nothing found"
    return [
        f"scan score {finding.score:.3g}, percentile {finding.score_percentile:.0f}, {found}",
        version_line(finding.model),
    ]


def _common(source: Source, context: ResultContext) -> Dataset:
    """All that the instances of the series share."""
    finding = context.finding
    ds = Dataset()
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.ImageType, ds.ConversionType, ds.Modality = ["DERIVED", "SECONDARY", "OTHER"], "WSD", "OT"
    ds.SeriesNumber = series_number(source, ResultKind.HEATMAP)
    ds.SeriesDescription = f"{PRODUCT} HEATMAP (research)"
    ds.PatientOrientation = None
    ds.FrameOfReferenceUID = source.elements.text("FrameOfReferenceUID")
    ds.PositionReferenceIndicator = None
    ds.ImageOrientationPatient, ds.PixelSpacing = list(source.orientation), list(source.pixel_spacing)
    ds.SliceThickness, ds.SpacingBetweenSlices = source.thickness, source.between
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = source.shape[1:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.BurnedInAnnotation, ds.RecognizableVisualFeatures = "NO", "YES"
    copy_lossiness(ds, source)
    if position := source.elements.text("PatientPosition"):
        ds.PatientPosition = position
    line = version_line(finding.model)
    ds.DerivationDescription = f"{line}. Anomaly score over the source image. {RESEARCH_USE}."[:_SHORT_TEXT]
    ds.DerivationCodeSequence = [
        code("113076", "DCM", "Segmentation"),
        code("113085", "DCM", "Spatial resampling"),
    ]
    ds.ImageComments = _comments(context)
    stamp(ds, source, context)
    return ds


def _comments(context: ResultContext) -> str:
    finding, scale = context.finding, ScoreScale(context.finding.threshold)
    text = (
        f"{RESEARCH_USE}. Colour scale 0 to {scale.top:.4g}, outlined above {finding.threshold:.4g} "
        f"({finding.threshold_text}). Scan score {finding.score:.4g}, percentile {finding.score_percentile:.1f} of "
        f"healthy scans. {len(finding.lesions)} candidates."
    )
    warnings = "".join(f" Warning: {warning}." for warning in context.all_warnings)
    return ascii_text(text + warnings)[:_LONG_TEXT]


def _of_slice(common: Dataset, image: SourceSlice, picture: RGB8) -> Dataset:
    """The shared part is not copied: its elements are written as they are."""
    common.ImagePositionPatient = list(image.position)
    reference = item(ReferencedSOPClassUID=image.sop_class_uid, ReferencedSOPInstanceUID=image.instance_uid)
    if image.frame is not None:
        reference.ReferencedFrameNumber = image.frame
    reference.PurposeOfReferenceCodeSequence = [code("121322", "DCM", "Source image for image processing operation")]
    reference.SpatialLocationsPreserved = "YES"
    common.SourceImageSequence = [reference]
    common.PixelData = picture.tobytes()
    common["PixelData"].VR = "OB"
    return common
