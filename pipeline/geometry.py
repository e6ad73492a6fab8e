"""Where slices lie: pure functions on ImagePositionPatient and ImageOrientationPatient (PS3.3 C.7.6.2.1.1), LPS mm.

Order, spacing and gaps come from positions along the normal. Instance numbers, SliceLocation, SliceThickness and
SpacingBetweenSlices are never asked: vendors number against the normal, and the tags are absent, negative or the width
of a slice profile.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomalyd.errors import Ineligible
from anomalyd.ids import Millimetre
from anomalyd.pipeline.volume import Affine, PointsLPS

UnitLPS = NDArray[np.float64]

COSINE_TOLERANCE = 1e-3
"""Difference of a direction cosine within one stack, and of row and column from a right angle: vendors round."""
POSITION_TOLERANCE = 0.02
"""Distance of a slice from its place in the even stack, as a share of the slice step."""
POSITION_ROUNDING_MM = Millimetre(0.09)
"""The same, at least, up to a tenth of the step: positions with one decimal are off by 0.05 mm in each coordinate."""
SAME_PLACE_MM = Millimetre(0.01)
ROUGHLY_WHOLE = 0.1
"""Of the ratio of two gaps, before the step is fitted to the whole stack."""
LATERAL_TOLERANCE_MM = Millimetre(0.2)
"""Offset of a slice centre across the normal; more is a sheared stack (as of a tilted CT gantry)."""


class UnevenSpacing(Ineligible):
    """Slices are not equally far apart: they are of two stacks, or one was moved."""

    def __init__(self, gap: float, expected: float) -> None:
        super().__init__(
            "slice_spacing", round(gap, 4), round(expected, 4),
            f"slices are not evenly spaced: a step of {gap:.3f} mm in a stack of {expected:.3f} mm steps "
            f"(tolerance {POSITION_TOLERANCE:.0%}, or {POSITION_ROUNDING_MM} mm of rounding)",
        )  # fmt: skip


class Sheared(Ineligible):
    """Slices do not lie straight above each other."""

    def __init__(self, offset: float) -> None:
        super().__init__(
            "shear", round(offset, 3), LATERAL_TOLERANCE_MM,
            f"slices are shifted sideways by {offset:.2f} mm from the line along their normal "
            f"(at most {LATERAL_TOLERANCE_MM} mm): a tilted stack is not analysed",
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """An even stack of planes. slots[i]: 0-based place of plane i along the normal, some may be empty or shared."""

    slots: NDArray[np.int64]
    count: int
    step_mm: Millimetre
    first_mm: float
    """Distance of slot 0 along the normal from the origin of LPS."""

    @property
    def empty(self) -> tuple[int, ...]:
        """Slots that no plane lies in."""
        return tuple(sorted(set(range(self.count)) - {int(slot) for slot in self.slots}))


def directions(orientation: Sequence[float]) -> tuple[UnitLPS, UnitLPS, UnitLPS]:
    """Unit vectors along a row, along a column and along their normal (row x column), made exactly orthogonal.

    orientation: the six values of ImageOrientationPatient. Raises Ineligible when they are no two unit vectors at right
    angles within COSINE_TOLERANCE.
    """
    row, column = np.asarray(orientation[:3], dtype=np.float64), np.asarray(orientation[3:], dtype=np.float64)
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    worst = max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(row @ column)))
    if not worst <= COSINE_TOLERANCE:
        raise Ineligible(
            "orientation", [round(float(v), 6) for v in orientation], COSINE_TOLERANCE,
            "ImageOrientationPatient is no pair of unit vectors at right angles",
        )  # fmt: skip
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return row, column, np.cross(row, column)


def same_orientation(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether no direction cosine differs by more than COSINE_TOLERANCE."""
    return bool(np.max(np.abs(np.subtract(first, second))) <= COSINE_TOLERANCE)


def even_stack(positions_lps: PointsLPS, normal: UnitLPS) -> Stack:
    """The even stack that planes at these positions make up.

    positions_lps: (n, 3), n >= 1, in any order; places may be shared (echoes). Of a single place the step is 0.
    Raises UnevenSpacing and Sheared.
    """
    along = positions_lps @ normal
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    steps = gaps[gaps > SAME_PLACE_MM]
    if not len(steps):
        return Stack(np.zeros(len(along), dtype=np.int64), 1, Millimetre(0.0), float(along.min()))
    step = _step(steps)
    # Counted from neighbour to neighbour: a step that is rounded by 0.5 % would be a slice off after 200.
    slots = np.zeros(len(along), dtype=np.int64)
    slots[order] = np.concatenate([[0], np.cumsum(np.rint(gaps / step))])
    # The step fitted to the whole stack is exact where neighbours are rounded.
    step, first = (float(value) for value in np.polyfit(slots, along, 1))
    off = np.abs(along - (first + slots * step))
    tolerance = max(POSITION_TOLERANCE * step, min(POSITION_ROUNDING_MM, step / 10))
    if off.max() > tolerance:
        worst = int(np.argmax(np.abs(steps / step - np.rint(steps / step))))
        raise UnevenSpacing(float(steps[worst]), step)
    _check_straight(positions_lps, normal)
    return Stack(slots, int(slots.max()) + 1, Millimetre(step), first)


def _step(gaps: NDArray[np.float64]) -> float:
    """The gap that all others are multiples of: missing slices make some gaps longer, none shorter.

    The lower median first: the least gap may be that of a slice which was moved.
    """
    ordered = np.sort(gaps)
    median = float(ordered[(len(ordered) - 1) // 2])
    for step in (median, float(ordered[0])):
        if np.all(np.abs(gaps / step - np.rint(gaps / step)) < ROUGHLY_WHOLE):
            return step
    return median


def _check_straight(positions_lps: PointsLPS, normal: UnitLPS) -> None:
    lateral = positions_lps - np.outer(positions_lps @ normal, normal)
    offset = float(np.linalg.norm(lateral - np.median(lateral, axis=0), axis=1).max())
    if offset > LATERAL_TOLERANCE_MM:
        raise Sheared(offset)


def index_to_lps(
    orientation: Sequence[float], spacing_mm: tuple[float, float], positions_lps: PointsLPS, stack: Stack
) -> Affine:
    """(4, 4) affine of index (slice, row, column) -> LPS mm of voxel centres, slices along the normal.

    spacing_mm: PixelSpacing, between rows and between columns.
    """
    row, column, normal = directions(orientation)
    # In-plane origin: mean over the slices, so that rounding of one does not move the volume.
    lateral = (positions_lps - np.outer(positions_lps @ normal, normal)).mean(axis=0)
    affine = np.eye(4)
    affine[:3, 0] = normal * (stack.step_mm or 1.0)
    affine[:3, 1] = column * spacing_mm[0]  # next row index: along a column
    affine[:3, 2] = row * spacing_mm[1]
    affine[:3, 3] = lateral + normal * stack.first_mm
    return affine
