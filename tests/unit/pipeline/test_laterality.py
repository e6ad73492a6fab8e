"""Which side of the brain a region lies on: told in the template's space, not in the scanner's."""

from dataclasses import replace

import numpy as np
import pytest

from anomalyd.pipeline.finding import Laterality, Lesion, Sign
from anomalyd.pipeline.stages.laterality import lateralised
from anomalyd.pipeline.volume import Affine, Grid

POINT = (0.0, 0.0, 0.0)
LESION = Lesion(1, 1.0, POINT, (POINT, POINT), Sign.HYPER, 1.0, 1.0)


def grid_of(columns_to_left: float) -> Grid:
    """20 mm of voxels in each axis; columns go to the patient's left, or (negative) to the right."""
    matrix = np.diag([1.0, 1.0, 1.0, 1.0])[:, [2, 1, 0, 3]]
    matrix[0, 2] = columns_to_left
    matrix[:3, 3] = (-9.5 * columns_to_left, -9.5, -9.5)
    return Grid((20, 20, 20), matrix)


def side_of(first: int, last: int, grid: Grid, template_to_source: Affine) -> Laterality | None:
    """Of a region in columns first to last, both included."""
    labels = np.zeros(grid.shape, dtype=np.uint16)
    labels[5:9, 5:9, first : last + 1] = 1
    return lateralised([LESION], labels, grid, template_to_source)[0].laterality


@pytest.mark.parametrize("columns_to_left", [1.0, -1.0])
@pytest.mark.parametrize(
    ("first", "last", "as_left"),
    [(12, 15, Laterality.LEFT), (3, 7, Laterality.RIGHT), (6, 13, Laterality.BOTH), (9, 18, Laterality.LEFT)],
)
def test_the_side_is_the_patients_however_the_columns_run(
    first: int, last: int, as_left: Laterality, columns_to_left: float
) -> None:
    mirrored = {Laterality.LEFT: Laterality.RIGHT, Laterality.RIGHT: Laterality.LEFT}.get(as_left, as_left)
    expected = as_left if columns_to_left > 0 else mirrored
    assert side_of(first, last, grid_of(columns_to_left), np.eye(4)) is expected


def test_a_head_that_lies_off_the_middle_or_turned_is_judged_by_its_own_midline() -> None:
    shifted = np.eye(4)
    shifted[0, 3] = 6.0  # the head's midline is at x = 6
    assert side_of(12, 14, grid_of(1.0), shifted) is Laterality.RIGHT
    turned = np.diag([-1.0, -1.0, 1.0, 1.0])  # face down
    assert side_of(12, 15, grid_of(1.0), turned) is Laterality.RIGHT


def test_no_lesion_has_no_side_and_numbers_are_kept() -> None:
    grid = grid_of(1.0)
    assert lateralised([], np.zeros(grid.shape, dtype=np.uint16), grid, np.eye(4)) == ()
    labels = np.zeros(grid.shape, dtype=np.uint16)
    labels[5, 5, 2], labels[5, 5, 17] = 2, 1
    placed = lateralised([LESION, replace(LESION, number=2)], labels, grid, np.eye(4))
    assert [(one.number, one.laterality) for one in placed] == [(1, Laterality.LEFT), (2, Laterality.RIGHT)]
