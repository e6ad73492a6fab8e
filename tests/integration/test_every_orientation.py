"""All 48 ways to lay a box along the patient's axes: 24 pairs of row and column directions, slices up or down.

A head with a lesion at known LPS points is written as a series, read by the product, its lesion found in the pixels,
and the results read back by a reader of others (dcmqi) or from their own attributes alone. Every marked voxel must lie
where the lesion was put: one turn, flip or mirror on the way there or back moves it.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from anomalyd.ids import Digest
from anomalyd.pipeline.finding import Sign
from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.header import read_source
from anomalyd.pipeline.results.objects import ResultContext, ResultKind, ResultObject
from anomalyd.pipeline.results.seg import build_segmentation
from anomalyd.pipeline.volume import Grid
from dcmqi_reader import segment_points
from findings import JOB_TIME, distances, finding_from, read_series
from phantoms import Order, PhantomWriter, PointLPS, phantom

SPACING_MM = (8.0, 3.0, 4.0)  # three lengths: an exchange of two axes shows
LESION_VALUE, MARK_FROM = 4000.0, 3500.0
BALLS: tuple[tuple[PointLPS, float], ...] = (((31.0, -27.0, 24.0), 17.0), ((38.0, -54.0, 10.0), 9.0))
"""Not symmetrical about its own centre either."""


@dataclass(frozen=True)
class Laid:
    """Directions of increasing column index and of increasing row index, and how slices are numbered."""

    row_cosine: PointLPS
    column_cosine: PointLPS
    order: Order

    def __str__(self) -> str:
        return f"{_letter(self.row_cosine)}{_letter(self.column_cosine)} {self.order}"


def _letter(direction: PointLPS) -> str:
    axis = int(np.argmax(np.abs(direction)))
    return ("RL", "AP", "FH")[axis][direction[axis] > 0]


_DIRECTIONS: list[PointLPS] = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
_ORDERS: tuple[Order, Order] = ("forward", "reversed")
ALL_48 = [
    Laid(row, column, order)
    for row, column, order in product(_DIRECTIONS, _DIRECTIONS, _ORDERS)
    if not np.dot(row, column)
]


def in_lesion(grid: Grid) -> NDArray[np.bool_]:
    return np.asarray(np.any([distances(grid, centre) <= radius_mm for centre, radius_mm in BALLS], axis=0))


def context_with_lesion(writer: PhantomWriter, folder: Path) -> ResultContext:
    """Written, read by the product, and found again by its value: nothing else tells the mask where it lies."""
    grid = writer.grid()
    voxels = phantom(grid, contrast=writer.contrast, lesion_at=None, radius_mm=0.0)
    voxels[in_lesion(grid)] = LESION_VALUE
    writer.write_voxels(voxels, grid, folder)
    read = read_series(folder)
    labels = (read.volume.voxels > MARK_FROM).astype(np.uint16)
    finding = finding_from(read.volume, labels, labels.astype(np.float32) * 4, [Sign.HYPER])
    return ResultContext(read.headers, read.volume, finding, JOB_TIME, Digest("a" * 64), Digest("b" * 64))


def sorted_mm(points: NDArray[np.float64]) -> NDArray[np.float64]:
    rounded = np.round(points, 2) + 0.0
    return np.asarray(rounded[np.lexsort(rounded.T)])


def test_there_are_48() -> None:
    assert len({str(one) for one in ALL_48}) == 48


@pytest.mark.parametrize("is_enhanced", [False, True], ids=["classic", "enhanced"])
@pytest.mark.parametrize("laid", ALL_48, ids=str)
def test_the_lesion_comes_back_voxel_by_voxel(laid: Laid, is_enhanced: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    writer = PhantomWriter(
        cosines=(laid.row_cosine, laid.column_cosine),
        order=laid.order,
        enhanced=is_enhanced,
        groups_per_frame=is_enhanced and laid.order == "reversed",
        spacing_mm=SPACING_MM,
    )
    expected = writer.grid().to_lps(np.argwhere(in_lesion(writer.grid())))
    context = context_with_lesion(writer, tmp_path / "series")
    segmentation = build_segmentation(read_source(context.headers, context.volume), context)
    marked = segment_points(segmentation.data, [1], tmp_path / "dcmqi")[1]
    np.testing.assert_allclose(sorted_mm(marked), sorted_mm(expected), atol=0.02)


@pytest.mark.parametrize("laid", [one for one in ALL_48 if one.order == "forward"], ids=str)
def test_the_heatmaps_are_warm_where_the_lesion_is(laid: Laid, tmp_path: Path) -> None:
    writer = PhantomWriter(cosines=(laid.row_cosine, laid.column_cosine), spacing_mm=SPACING_MM)
    expected = writer.grid().to_lps(np.argwhere(in_lesion(writer.grid())))
    assert_painted(build_results(context_with_lesion(writer, tmp_path / "series")), expected)


def assert_painted(results: tuple[ResultObject, ...], expected: NDArray[np.float64]) -> None:
    """In the heatmaps the lesion's voxels are warm, by the place that each heatmap itself states, and no mirror is."""
    planes = [pydicom.dcmread(io.BytesIO(one.data)) for one in results if one.kind is ResultKind.HEATMAP]
    assert warm_share(planes, expected) > 0.75  # a legend may lie over a corner of so small a picture
    for mirror in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)):
        assert warm_share(planes, expected * np.array(mirror)) < 0.4


def warm_share(planes: Sequence[Dataset], points: NDArray[np.float64]) -> float:
    """Of the points in LPS mm, each at the nearest pixel: those that are warm."""
    nearest = np.full(len(points), np.inf)
    warm = np.zeros(len(points), dtype=bool)
    for ds in planes:
        cosines = np.array(ds.ImageOrientationPatient, dtype=float).reshape(2, 3)
        away = points - np.array(ds.ImagePositionPatient, dtype=float)
        off = np.abs(away @ np.cross(*cosines))
        rows_mm, columns_mm = map(float, ds.PixelSpacing)
        columns = np.rint(away @ cosines[0] / columns_mm).astype(int).clip(0, ds.Columns - 1)
        rows = np.rint(away @ cosines[1] / rows_mm).astype(int).clip(0, ds.Rows - 1)
        picture = ds.pixel_array.astype(int)[rows, columns]
        closer = off < nearest
        warm[closer] = (picture[:, 0] - picture[:, 2] > 25)[closer]
        nearest = np.minimum(nearest, off)
    return float(warm.mean())
