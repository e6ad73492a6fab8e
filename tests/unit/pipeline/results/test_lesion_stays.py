"""The geometry property: however a head is scanned, the SEG marks the point where the lesion is, and no mirror of it.

The mask is found in the pixels that the product read (difference of two scans), so a turn in reading shows as well.
The SEG is read back from its frames' own attributes alone (PS3.3 C.7.6.2.1.1).
"""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from anomalyd.pipeline.results.header import read_source
from anomalyd.pipeline.results.objects import ResultObject
from anomalyd.pipeline.results.seg import build_segmentation
from findings import difference_context
from phantoms import LEFT_FRONTAL, ORDERS, PLANES, Flip, Order, PhantomWriter, Plane

RADIUS_MM = 9.0
COARSE = (4.0, 4.0, 4.0)
MIRRORS = [(-1, 1, 1), (1, -1, 1), (1, 1, -1)]


def marked_points(result: ResultObject) -> NDArray[np.float64]:
    """(n, 3) LPS mm of all voxels of a SEG."""
    dataset = pydicom.dcmread(io.BytesIO(result.data))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    rows_mm, columns_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, dtype=np.uint8), bitorder="little")
    frames = bits[: dataset.NumberOfFrames * dataset.Rows * dataset.Columns]
    points = []
    for frame, groups in zip(
        frames.reshape(-1, dataset.Rows, dataset.Columns), dataset.PerFrameFunctionalGroupsSequence, strict=True
    ):
        origin = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        row, column = np.nonzero(frame)
        points.append(origin + np.outer(column * columns_mm, cosines[:3]) + np.outer(row * rows_mm, cosines[3:]))
    return np.concatenate(points)


def assert_marks_the_lesion(writer: PhantomWriter, folder: Path) -> None:
    context = difference_context(writer, folder, LEFT_FRONTAL, RADIUS_MM)
    points = marked_points(build_segmentation(read_source(context.headers, context.volume), context))
    voxel_mm = max(writer.spacing_mm)
    assert len(points) == np.count_nonzero(context.finding.labels)
    assert points.mean(axis=0) == pytest.approx(LEFT_FRONTAL, abs=voxel_mm / 2)
    assert np.linalg.norm(points - np.array(LEFT_FRONTAL), axis=1).max() <= RADIUS_MM + 0.01
    for mirror in MIRRORS:
        away = np.linalg.norm(points - np.array(LEFT_FRONTAL) * np.array(mirror), axis=1)
        assert away.min() > RADIUS_MM


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("plane", PLANES)
def test_in_every_plane_and_order(plane: Plane, order: Order, tmp_path: Path) -> None:
    assert_marks_the_lesion(PhantomWriter(plane=plane, order=order, spacing_mm=COARSE), tmp_path)


@pytest.mark.parametrize("flips", [("rows",), ("columns",), ("rows", "columns")], ids="+".join)
@pytest.mark.parametrize("plane", PLANES)
def test_with_rows_or_columns_running_the_other_way(plane: Plane, flips: tuple[Flip, ...], tmp_path: Path) -> None:
    assert_marks_the_lesion(PhantomWriter(plane=plane, flips=flips, order="shuffled", spacing_mm=COARSE), tmp_path)


@pytest.mark.parametrize("plane", PLANES)
def test_with_thick_slices_and_pixels_that_are_not_square(plane: Plane, tmp_path: Path) -> None:
    assert_marks_the_lesion(PhantomWriter(plane=plane, spacing_mm=(6.0, 2.0, 3.0), order="reversed"), tmp_path)


@pytest.mark.parametrize("is_per_frame", [False, True], ids=["shared", "per_frame"])
@pytest.mark.parametrize("plane", PLANES)
def test_from_an_enhanced_object(plane: Plane, is_per_frame: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    writer = PhantomWriter(
        plane=plane, enhanced=True, groups_per_frame=is_per_frame, order="reversed", spacing_mm=COARSE
    )
    assert_marks_the_lesion(writer, tmp_path)


def test_with_a_slice_that_is_missing_elsewhere(tmp_path: Path) -> None:
    assert_marks_the_lesion(PhantomWriter(missing=(5,), order="shuffled", spacing_mm=(4.0, 3.0, 3.0)), tmp_path)


def test_far_from_the_centre_of_the_magnet(tmp_path: Path) -> None:
    assert_marks_the_lesion(PhantomWriter(plane="oblique", centre_lps=(4.0, -3.0, 5.0), spacing_mm=COARSE), tmp_path)
