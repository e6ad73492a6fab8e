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
from anomalyd.pipeline.results.secondary_capture import colour_picture, drawn_from, fill
from anomalyd.pipeline.results.stamp import key_of, part10
from anomalyd.pipeline.results.version import version_line


def build_heatmaps(source: Source, context: ResultContext) -> Iterator[ResultObject]:
    """In geometric order, InstanceNumber from 1; interpolated slices have no source, so no heatmap."""
    key = key_of(source, context)
    series_uid = key.series(ResultKind.HEATMAP)
    common = _common(source, context)
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
        legend.draw(picture, place_of(volume.grid, k), float(finding.score_map[k].max()))
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
    ds = colour_picture(source, context, ResultKind.HEATMAP, source.shape[1:])
    ds.FrameOfReferenceUID = source.elements.text("FrameOfReferenceUID")
    if "PositionReferenceIndicator" not in ds:
        ds.PositionReferenceIndicator = None
    ds.ImageOrientationPatient, ds.PixelSpacing = list(source.orientation), list(source.pixel_spacing)
    ds.SliceThickness, ds.SpacingBetweenSlices = source.thickness, source.between
    return ds


def _of_slice(common: Dataset, image: SourceSlice, picture: RGB8) -> Dataset:
    """The shared part is not copied: its elements are written as they are."""
    common.ImagePositionPatient = list(image.position)
    common.SourceImageSequence = [drawn_from(image, keeps_place=True)]
    fill(common, picture)
    return common
