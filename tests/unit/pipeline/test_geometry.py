"""Slices in space: order, spacing, gaps and the grid, over all axis orders and flips."""

from itertools import permutations, product
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from anomalyd.errors import Ineligible
from anomalyd.pipeline.geometry import (
    Sheared,
    UnevenSpacing,
    directions,
    even_stack,
    index_to_lps,
    same_orientation,
)

ORIENTATIONS = [
    (*np.eye(3)[list(order)][0] * flips[0], *np.eye(3)[list(order)][1] * flips[1])
    for order in permutations(range(3))
    for flips in product((1.0, -1.0), repeat=2)
]


def positions(
    orientation: tuple[float, ...], count: int, step_mm: float, origin: tuple[float, ...] = (-90.0, -120.0, -60.0)
) -> NDArray[np.float64]:
    normal = np.cross(orientation[:3], orientation[3:])
    return np.array(origin) + np.outer(np.arange(count) * step_mm, normal)


def turned(orientation: tuple[float, ...], degrees: float) -> tuple[float, ...]:
    """Turned about an axis that is none of the patient's."""
    axis, angle = np.array([1.0, 2.0, 3.0]) / np.sqrt(14), np.radians(degrees)
    cross = np.cross(np.eye(3), axis)
    turn = np.cos(angle) * np.eye(3) - np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)
    return (*(turn @ np.array(orientation[:3])), *(turn @ np.array(orientation[3:])))


@pytest.mark.parametrize("order", [1, -1], ids=["ascending", "descending"])
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_the_grid_gives_back_every_position_in_all_48_axis_orders(orientation: tuple[float, ...], order: int) -> None:
    given_lps = positions(orientation, 12, 2.5)[::order]
    stack = even_stack(given_lps, directions(orientation)[2])
    affine = index_to_lps(orientation, (0.9, 1.1), given_lps, stack)
    assert (stack.count, stack.empty) == (12, ())
    assert stack.step_mm == pytest.approx(2.5)
    for slot, position in zip(stack.slots, given_lps, strict=True):
        np.testing.assert_allclose(affine @ (slot, 0, 0, 1), (*position, 1), atol=1e-9)
        # PS3.3 C.7.6.2.1.1: the row index steps along the second vector by the first value of PixelSpacing.
        second_row = position + 0.9 * np.array(orientation[3:])
        second_column = position + 1.1 * np.array(orientation[:3])
        np.testing.assert_allclose(affine @ (slot, 1, 0, 1), (*second_row, 1), atol=1e-9)
        np.testing.assert_allclose(affine @ (slot, 0, 1, 1), (*second_column, 1), atol=1e-9)


@given(
    st.sampled_from(ORIENTATIONS),
    st.floats(-40, 40),
    st.floats(0.4, 9.0),
    st.integers(3, 200),
    st.tuples(*[st.floats(-300, 300)] * 3),
    st.randoms(use_true_random=False),
)
def test_any_oblique_stack_in_any_order_is_put_in_place(  # noqa: PLR0917 - hypothesis draws them in order
    orientation: tuple[float, ...],
    degrees: float,
    step_mm: float,
    count: int,
    origin: tuple[float, ...],
    random: Random,
) -> None:
    oblique = turned(orientation, degrees)
    given_lps = positions(oblique, count, step_mm, origin)
    order = list(range(count))
    random.shuffle(order)
    stack = even_stack(given_lps[order], directions(oblique)[2])
    assert stack.slots.tolist() == order
    assert stack.step_mm == pytest.approx(step_mm)
    affine = index_to_lps(oblique, (1.0, 1.0), given_lps, stack)
    np.testing.assert_allclose((affine @ (count - 1, 0, 0, 1))[:3], given_lps[-1], atol=1e-6)


@given(st.integers(6, 60), st.floats(0.5, 8.0), st.data())
def test_missing_slices_are_empty_slots(count: int, step_mm: float, data: st.DataObject) -> None:
    missing = data.draw(st.sets(st.integers(1, count - 2), max_size=2))
    kept = [k for k in range(count) if k not in missing]
    given_lps = positions(ORIENTATIONS[0], count, step_mm)[kept]
    stack = even_stack(given_lps, directions(ORIENTATIONS[0])[2])
    assert stack.empty == tuple(sorted(missing))
    assert stack.step_mm == pytest.approx(step_mm)


@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_rounded_positions_are_one_even_stack(decimals: int) -> None:
    orientation = turned(ORIENTATIONS[0], 11)
    given_lps = np.round(positions(orientation, 160, 1.2), decimals)
    stack = even_stack(given_lps, directions(orientation)[2])
    assert stack.count == 160
    assert stack.step_mm == pytest.approx(1.2, abs=1e-3)


def test_echoes_share_their_slots() -> None:
    one = positions(ORIENTATIONS[0], 8, 3.0)
    stack = even_stack(np.concatenate([one, one]), directions(ORIENTATIONS[0])[2])
    assert stack.slots.tolist() == [*range(8), *range(8)]


def test_a_moved_slice_is_named_with_its_step() -> None:
    given_lps = positions(ORIENTATIONS[0], 20, 3.0)
    given_lps[7, 2] += 0.6
    with pytest.raises(UnevenSpacing, match=r"a step of 3\.600 mm in a stack of (2\.99|3\.0)\d* mm steps") as refused:
        even_stack(given_lps, directions(ORIENTATIONS[0])[2])
    assert refused.value.criterion == "slice_spacing"


def test_two_interleaved_stacks_of_different_spacing_are_refused() -> None:
    given_lps = np.concatenate(
        [positions(ORIENTATIONS[0], 20, 3.0), positions(ORIENTATIONS[0], 7, 5.0, (-90, -120, 1.3))]
    )
    with pytest.raises(UnevenSpacing):
        even_stack(given_lps, directions(ORIENTATIONS[0])[2])


def test_a_tilted_stack_is_refused() -> None:
    given_lps = positions(ORIENTATIONS[0], 20, 3.0)
    given_lps[:, 1] += 0.2 * np.arange(20)
    with pytest.raises(Sheared) as refused:
        even_stack(given_lps, directions(ORIENTATIONS[0])[2])
    assert refused.value.criterion == "shear"


def test_one_slice_is_a_stack_of_one() -> None:
    stack = even_stack(np.zeros((3, 3)), directions(ORIENTATIONS[0])[2])
    assert (stack.count, stack.step_mm) == (1, 0.0)


@pytest.mark.parametrize(
    "broken", [(1, 0, 0, 1, 0, 0), (1, 0, 0, 0, 0.9, 0), (0, 0, 0, 0, 1, 0), (1, 0, 0, 0.01, 1, 0), (2, 0, 0, 0, 2, 0)]
)
def test_an_orientation_that_is_none_is_refused(broken: tuple[float, ...]) -> None:
    with pytest.raises(Ineligible, match="ImageOrientationPatient") as refused:
        directions(broken)
    assert refused.value.criterion == "orientation"


def test_an_orientation_rounded_to_few_digits_becomes_exactly_orthogonal() -> None:
    rounded = tuple(np.round(turned(ORIENTATIONS[0], 23), 4))
    axes = np.array(directions(rounded))
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)


def test_a_slight_difference_of_orientation_is_tolerated_and_a_larger_is_not() -> None:
    assert same_orientation((1, 0, 0, 0, 1, 0), (1, 0.0008, 0, -0.0008, 1, 0))
    assert not same_orientation((1, 0, 0, 0, 1, 0), (1, 0.002, 0, -0.002, 1, 0))
