"""Complete by content: only an expected count that is reached proves anything."""

import dataclasses
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.pipeline.completeness import completeness
from mr_headers import instance, series_of, slices, stating

ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"


def test_a_gap_free_stack_alone_proves_nothing() -> None:
    verdict = completeness(series_of(slices(24)))
    assert verdict.gap_free
    assert not verdict.provable
    assert verdict.expected is None


@pytest.mark.parametrize("unit", ["slices", "images"])
def test_a_count_that_is_reached_proves_the_series_complete(unit: str) -> None:
    verdict = completeness(series_of(slices(24, expected=stating(24, unit))))
    assert verdict.provable
    assert (verdict.expected, verdict.present, verdict.missing, verdict.duplicates) == (24, 24, (), 0)


@given(st.integers(2, 23), st.randoms(use_true_random=False))
def test_no_part_of_a_series_is_provably_complete(present: int, random: Random) -> None:
    all_slices = slices(24, expected=stating(24))
    verdict = completeness(series_of(random.sample(all_slices, present)))
    assert not verdict.provable
    assert verdict.present == present


def test_missing_slices_are_named_by_their_place() -> None:
    verdict = completeness(series_of(slices(24, skip=[5, 11], expected=stating(24))))
    assert not verdict.provable
    assert not verdict.gap_free
    assert verdict.missing == ((0.0, 0.0, 30.0), (0.0, 0.0, 66.0))


def test_a_count_that_is_reached_by_duplicates_proves_nothing() -> None:
    doubled = slices(12, expected=stating(24, "images")) + slices(12, start=101, expected=stating(24, "images"))
    verdict = completeness(series_of(doubled))
    assert not verdict.provable
    assert verdict.duplicates == 12


def test_a_second_echo_that_is_still_coming_keeps_the_series_open() -> None:
    first = slices(24, echo_time=10.0, echo_number=1, echoes=2, expected=stating(24))
    second = slices(24, start=101, echo_time=90.0, echo_number=2, echoes=2, expected=stating(24))
    assert not completeness(series_of(first)).provable
    assert not completeness(series_of(first, second[:20])).provable
    assert completeness(series_of(first, second)).provable


def test_a_count_that_a_reformat_inherits_is_not_asked() -> None:
    reformat = slices(24, image_type=("DERIVED", "SECONDARY", "MPR"), expected=stating(176))
    assert completeness(series_of(reformat)).expected is None


def test_one_multi_frame_object_is_complete_by_its_frames() -> None:
    frames = tuple(
        dataclasses.replace(one.frames[0], number=k) for k, one in enumerate(slices(24, step_mm=2.0), start=1)
    )
    whole = instance(1, sop_class=ENHANCED, frames=frames)
    verdict = completeness(series_of([whole]))
    assert verdict.provable
    assert verdict.expected == 24


def test_one_frame_in_each_of_many_enhanced_objects_proves_nothing() -> None:
    assert not completeness(series_of(slices(24, sop_class=ENHANCED))).provable


def test_a_series_without_positions_is_judged_in_words() -> None:
    verdict = completeness(series_of([instance(1, position=None)]))
    assert not verdict.provable
    assert "no MR image" in verdict.text


def test_uneven_slices_are_judged_in_words() -> None:
    verdict = completeness(series_of(slices(10), slices(9, start=50, origin=(0, 0, 100.0))))
    assert not verdict.provable
    assert "evenly" in verdict.text
