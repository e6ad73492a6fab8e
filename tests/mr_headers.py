"""Headers of MR series made in memory: what a scanner would send, without pixels, one field changed at a time.

series = series_of(slices(24))                              # a complete T1w MPRAGE
series = series_of(slices(24, echo_time=5.0, scanning_sequence=frozenset({"GR", "EP"})))
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from anomalyd.ids import AETitle, InstanceUID, SeriesUID, StudyUID
from anomalyd.pipeline.acquisition import Acquisition
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.functional_groups import FrameHeader
from anomalyd.pipeline.selection import Eligibility, choose
from anomalyd.pipeline.series import InstanceHeader, PixelFormat, SeriesHeader, assemble
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.pipeline.vendor import ExpectedCount

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)

MPRAGE = Acquisition(
    repetition_time=2300.0, echo_time=2.98, inversion_time=900.0, flip_angle=9.0, echo_train_length=1, dimensions="3D",
    scanning_sequence=frozenset({"GR", "IR"}), sequence_variant=frozenset({"SK", "SP", "MP"}), scan_options=frozenset(),
    sequence_name="", echo_pulse_sequence="", flags=frozenset(), steady_state="", acquisition_contrast="", nucleus="1H",
    field_strength=3.0, epi_factor=None, temporal_positions=None, echoes=None, has_contrast_agent=False,
    body_part="BRAIN", anatomic_region="", series_description="", protocol_name="", coil="", patient_position="HFS",
    mosaic_tiles=None, no_person="",
)  # fmt: skip
FRAME = FrameHeader(
    number=None, position=(0.0, 0.0, 0.0), orientation=AXIAL, pixel_spacing=(1.0, 1.0),
    image_type=("ORIGINAL", "PRIMARY", "M", "ND"), component="MAGNITUDE", echo_time=None, echo_number=1,
    temporal_index=None, stack_id="", b_value=None, has_diffusion_direction=False, inversion_time=None,
    is_negative=False,
)  # fmt: skip
GRE: dict[str, Any] = {
    "scanning_sequence": frozenset({"GR"}), "sequence_variant": frozenset({"SP"}), "inversion_time": None,
    "repetition_time": 25.0, "flip_angle": 25.0, "echo_time": 4.6,
}  # fmt: skip
TSE: dict[str, Any] = {
    "scanning_sequence": frozenset({"SE"}), "sequence_variant": frozenset({"SK"}), "inversion_time": None,
    "repetition_time": 4000.0, "flip_angle": 150.0, "dimensions": "2D",
}  # fmt: skip
T1_ONLY = frozenset({Contrast.T1W})
_FRAME_FIELDS = {field.name for field in dataclasses.fields(FrameHeader)}
_ACQUISITION_FIELDS = {field.name for field in dataclasses.fields(Acquisition)}


def instance(number: int, **changes: Any) -> InstanceHeader:
    """One classic image. changes: of the frame, the acquisition or the instance, by the names of their fields."""
    frame = {key: changes[key] for key in changes if key in _FRAME_FIELDS}
    acquired = {key: changes[key] for key in changes if key in _ACQUISITION_FIELDS}
    own = {key: changes[key] for key in changes if key not in _FRAME_FIELDS | _ACQUISITION_FIELDS}
    base = InstanceHeader(
        study_uid=StudyUID("1.2.3"), series_uid=SeriesUID("1.2.3.4"), instance_uid=InstanceUID(f"1.2.3.4.{number}"),
        sop_class="1.2.840.10008.5.1.4.1.1.4", transfer_syntax="1.2.840.10008.1.2.1", modality="MR", manufacturer="",
        model="", frame_of_reference="1.2.3.9",
        pixels=PixelFormat(240, 240, 1, "MONOCHROME2", 16, 12, is_signed=False),
        acquisition=dataclasses.replace(MPRAGE, **acquired), frames=(dataclasses.replace(FRAME, **frame),),
        expected=(), series_number=3, instance_number=number, acquisition_number=1,
    )  # fmt: skip
    return dataclasses.replace(base, **own)


def slices(
    count: int,
    *,
    step_mm: float = 6.0,
    start: int = 1,
    skip: Iterable[int] = (),
    origin: Sequence[float] = (0, 0, 0),
    **changes: Any,
) -> list[InstanceHeader]:
    """A stack along the normal of its orientation; skip: 0-based slices that are not there."""
    orientation = np.array(changes.get("orientation", AXIAL))
    normal = np.cross(orientation[:3], orientation[3:])
    skipped = set(skip)
    return [
        instance(start + k, position=_triple(np.array(origin) + normal * step_mm * k), **changes)
        for k in range(count)
        if k not in skipped
    ]


def series_of(*parts: Iterable[InstanceHeader]) -> SeriesHeader:
    """One series of all the parts."""
    return assemble([one for part in parts for one in part])


def stating(count: int, unit: Any = "slices", source: str = "the scanner") -> tuple[ExpectedCount, ...]:
    """What `expected` of an instance is set to."""
    return (ExpectedCount(source, count, unit),)


def answer(header: SeriesHeader, contrasts: frozenset[Contrast] = T1_ONLY, **more: Any) -> Eligibility:
    """What selection says of the series, sent by SCANNER; more: fields of the settings."""
    return choose(header, PipelineSettings(**more), contrasts, AETitle("SCANNER"))


def criterion(header: SeriesHeader, **more: Any) -> str | None:
    """The criterion that refuses the series; None when it is analysed."""
    found = answer(header, **more)
    assert found.ok == (found.reason is None) == (found.volume is not None)
    return found.reason.criterion if found.reason else None


def _triple(values: Any) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))
