"""Several volumes, stacks or kinds of object in one series: exactly one volume is chosen, the rest are named."""

import dataclasses
from typing import Any

import pytest

from anomalyd.ids import InstanceUID
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.series import PixelFormat, SeriesHeader
from anomalyd.pipeline.volume import SliceSource
from mr_headers import AXIAL, CORONAL, GRE, SAGITTAL, TSE, answer, criterion, instance, series_of, slices


def test_magnitude_is_taken_and_phase_is_named() -> None:
    magnitude = slices(24)
    phase = slices(24, start=101, component="PHASE", image_type=("ORIGINAL", "PRIMARY", "P", "ND"))
    found = answer(series_of(phase, magnitude))
    assert found.volume is not None
    assert found.volume.slots[0] == SliceSource(InstanceUID("1.2.3.4.1"))
    assert found.left_out == ("24 images of another volume: part PHASE",)


def test_the_combined_echo_is_taken_before_single_ones() -> None:
    echoes = [slices(24, start=100 * n, echo_time=te, echo_number=n) for n, te in enumerate((1.7, 3.5, 5.3), start=1)]
    assert _first_uid(series_of(*echoes)) == "1.2.3.4.100"
    combined = slices(24, start=900, echo_time=1.7, image_type=("ORIGINAL", "PRIMARY", "OTHER", "MEAN"), component="")
    found = answer(series_of(*echoes, combined))
    assert found.volume is not None
    assert found.volume.slots[0] == SliceSource(InstanceUID("1.2.3.4.900"))
    assert len(found.left_out) == 3


def test_original_comes_before_derived_and_in_phase_before_water_and_fat() -> None:
    derived = slices(24, start=101, image_type=("DERIVED", "PRIMARY", "M", "FILTERED"))
    assert _first_uid(series_of(derived, slices(24))) == "1.2.3.4.1"
    parts = [
        slices(24, start=100 * n, image_type=("DERIVED", "PRIMARY", "DIXON", kind), **GRE)
        for n, kind in enumerate(("FAT", "WATER", "OUT_PHASE", "IN_PHASE"), start=1)
    ]
    assert _first_uid(series_of(*parts)) == "1.2.3.4.400"


def test_of_a_dual_echo_the_t2w_one_is_taken() -> None:
    proton = slices(24, echo_number=1, **{**TSE, "echo_time": 12.0})
    t2w = slices(24, start=101, echo_number=2, **{**TSE, "echo_time": 98.0})
    found = answer(series_of(proton, t2w), frozenset({Contrast.T2W}))
    assert found.contrast is Contrast.T2W
    assert found.volume is not None
    assert found.volume.slots[0] == SliceSource(InstanceUID("1.2.3.4.101"))


def test_multi_echo_gradient_echoes_with_late_echoes_are_no_t1w_series() -> None:
    echoes = [
        slices(24, start=100 * n, **{**GRE, "echo_time": te}, echo_number=n)
        for n, te in enumerate((4.0, 12.0, 20.0), start=1)
    ]
    assert criterion(series_of(*echoes)) == "susceptibility"


def test_two_gradient_echoes_in_2d_are_a_field_map_whatever_it_is_called() -> None:
    echoes = [
        slices(
            24, start=100 * n, **{**GRE, "echo_time": te, "dimensions": "2D"}, echo_number=n, series_description="T1"
        )
        for n, te in enumerate((4.92, 7.38), start=1)
    ]
    assert criterion(series_of(*echoes)) == "field_map"


def test_gradient_echoes_with_their_phase_are_a_field_map_also_in_3d() -> None:
    parts = [
        slices(24, start=100 * n, **{**GRE, "echo_time": te}, echo_number=n, component=part, series_description="T1")
        for n, (te, part) in enumerate(
            ((2.3, "MAGNITUDE"), (4.6, "MAGNITUDE"), (2.3, "PHASE"), (4.6, "PHASE")), start=1
        )
    ]
    assert criterion(series_of(*parts)) == "field_map"
    one_echo = series_of(slices(24, **GRE), slices(24, start=101, **GRE, component="PHASE"))
    assert criterion(one_echo) is None


def test_a_b0_map_beside_its_magnitude_makes_both_a_field_map() -> None:
    magnitude = slices(24, **GRE, series_description="T1")
    b0 = slices(24, start=101, **GRE, image_type=("ORIGINAL", "PRIMARY", "B0", "B0", "FFE"), component="")
    assert criterion(series_of(magnitude, b0)) == "field_map"


def test_a_time_course_is_refused_and_a_few_repeats_are_not() -> None:
    def repeats(count: int) -> SeriesHeader:
        return series_of(*[slices(24, start=100 * n, temporal_index=n) for n in range(1, count + 1)])

    assert criterion(repeats(4)) is None
    assert criterion(repeats(20)) == "time_course"


def test_images_at_one_position_that_nothing_tells_apart_are_refused() -> None:
    found = answer(series_of(slices(24), slices(24, start=101)))
    assert found.reason is not None
    assert (found.reason.criterion, found.reason.value) == ("duplicate_positions", 24)


def test_a_localizer_inside_the_series_is_split_off() -> None:
    localizer = slices(3, start=101, orientation=SAGITTAL)
    found = answer(series_of(slices(24), localizer))
    assert found.ok
    assert found.left_out == ("3 images of another orientation (a localizer)",)


def test_three_planes_are_a_localizer() -> None:
    planes = [slices(5, start=100 * n, orientation=o) for n, o in enumerate((AXIAL, SAGITTAL, CORONAL), start=1)]
    assert criterion(series_of(*planes)) == "localizer"


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        ("orientation", {"orientation": CORONAL}),
        ("frame_of_reference", {"frame_of_reference": "1.2.3.10"}),
        ("matrix", {"pixels": PixelFormat(256, 256, 1, "MONOCHROME2", 16, 12, is_signed=False)}),
        ("pixel_spacing", {"pixel_spacing": (0.9, 0.9)}),
    ],
)
def test_halves_that_differ_are_no_volume(expected: str, changes: dict[str, Any]) -> None:
    other = slices(11, start=101, origin=(0, 0, 78.0), **changes)
    assert criterion(series_of(slices(13), other)) == expected


def test_an_orientation_that_differs_by_rounding_is_one_stack() -> None:
    images = slices(24)
    images[3] = _with_orientation(images[3], (0.9999998, 0.0006, 0.0, -0.0006, 0.9999998, 0.0))
    assert criterion(series_of(images)) is None


def test_an_object_that_is_no_image_is_left_out() -> None:
    raw = instance(99, sop_class="1.2.840.10008.5.1.4.1.1.66", frames=())
    found = answer(series_of(slices(24), [raw]))
    assert found.ok
    assert found.left_out == ("object of SOP class 1.2.840.10008.5.1.4.1.1.66, no MR image",)


def _first_uid(header: SeriesHeader) -> str:
    found = answer(header)
    assert found.volume is not None, found.reason
    source = found.volume.slots[0]
    assert source is not None
    return source.instance_uid


def _with_orientation(image: Any, orientation: tuple[float, ...]) -> Any:
    return dataclasses.replace(image, frames=(dataclasses.replace(image.frames[0], orientation=orientation),))
