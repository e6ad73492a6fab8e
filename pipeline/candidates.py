"""The volumes that one series holds: planes sorted into stacks of one geometry, and these into echoes, phases, repeats.

One volume is chosen by a written order (DESIGN 11): magnitude before phase, combined or first echo before single
echoes, original before derived. What is not chosen is named.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from anomalyd.errors import Ineligible
from anomalyd.pipeline.functional_groups import FrameHeader
from anomalyd.pipeline.geometry import SAME_PLACE_MM, directions, same_orientation
from anomalyd.pipeline.series import InstanceHeader, SeriesHeader
from anomalyd.pipeline.shown import COMPLEX_COMPONENTS, IMAGE_TYPE_WORDS, NOT_STATED, shown_number, shown_words
from anomalyd.pipeline.volume import PointsLPS

SPACING_TOLERANCE = 1e-3
"""Relative difference of PixelSpacing within one stack."""
_COMBINED = frozenset({"MEAN", "RMS", "SOS", "COMBINED", "COMB", "SUM", "AVERAGE", "ADDITION", "MSUM"})
_DIXON = {
    "IN_PHASE": 0, "IP": 0, "INPHASE": 0, "IN": 0, "WATER": 1, "W": 1, "OUT_PHASE": 2, "OP": 2, "OPP_PHASE": 2,
    "OUTPHASE": 2, "OUT": 2, "OPPOSED": 2, "FAT": 3, "F": 3, "FAT_FRACTION": 4, "WATER_FRACTION": 4,
}  # fmt: skip
_COMPONENT_RANK = {"MAGNITUDE": 0, "": 0, "MIXED": 1, "REAL": 2, "IMAGINARY": 3, "PHASE": 4}
_COMPONENT_WORDS = frozenset({"M", "P", "R", "I", "MAGNITUDE", "PHASE", "PHASE MAP", "REAL", "IMAGINARY"})


@dataclass(frozen=True, slots=True)
class Plane:
    """One image with its place: a classic object, or a frame of an Enhanced one."""

    instance: InstanceHeader
    frame: FrameHeader

    @property
    def reconstruction(self) -> tuple[str, ...]:
        """ImageType without the words that name the complex part."""
        return tuple(word for word in self.frame.image_type if word not in _COMPONENT_WORDS)


@dataclass(frozen=True)
class Candidate:
    """Planes of one geometry and one kind; label: what sets it apart from its siblings, in words that may be logged.

    received: the same with the values as they came, for the order alone.
    """

    planes: tuple[Plane, ...]
    label: str
    received: str = ""

    @cached_property
    def first(self) -> Plane:
        """A plane that speaks for all: least position, then least UID."""
        return min(self.planes, key=lambda plane: (plane.frame.position or (), plane.instance.instance_uid))

    @cached_property
    def positions_lps(self) -> PointsLPS:
        """(n, 3) of the planes, in their order."""
        return np.array([plane.frame.position for plane in self.planes], dtype=np.float64).reshape(-1, 3)

    @cached_property
    def places(self) -> int:
        """Number of distinct positions along the normal."""
        return len(np.unique(_place_numbers(self.planes)))

    @property
    def has_shared_places(self) -> bool:
        """Whether two planes lie at one position."""
        return self.places < len(self.planes)


def planes_of(header: SeriesHeader) -> tuple[tuple[Plane, ...], tuple[Plane, ...]]:
    """(planes with a complete geometry, planes without) of the sound MR images."""
    planes = [Plane(one, frame) for one in header.images for frame in one.frames]
    placed = tuple(plane for plane in planes if _is_placed(plane))
    return placed, tuple(plane for plane in planes if not _is_placed(plane))


def stacks_of(planes: Sequence[Plane]) -> tuple[tuple[Plane, ...], ...]:
    """Planes grouped by orientation, matrix, pixel spacing and frame of reference; the largest group first."""
    groups: list[list[Plane]] = []
    for plane in planes:
        for group in groups:
            if not _differences(group[0], plane):
                group.append(plane)
                break
        else:
            groups.append([plane])
    return tuple(tuple(group) for group in sorted(groups, key=len, reverse=True))


def differences(first: Plane, second: Plane) -> tuple[str, ...]:
    """What keeps two planes out of one stack: orientation, matrix, pixel_spacing, frame_of_reference."""
    return _differences(first, second)


def candidates_of(stack: Sequence[Plane]) -> tuple[Candidate, ...]:
    """The volumes of one stack, the one to be analysed first."""
    found = _split(Candidate(tuple(stack), ""), list(_DISCRIMINATORS))
    most = max(candidate.places for candidate in found)
    return tuple(sorted(found, key=lambda candidate: _rank(candidate, most)))


def _is_placed(plane: Plane) -> bool:
    frame = plane.frame
    return frame.position is not None and frame.orientation is not None and frame.pixel_spacing is not None


def _differences(first: Plane, second: Plane) -> tuple[str, ...]:
    one, two = first.instance, second.instance
    found = []
    if one.frame_of_reference != two.frame_of_reference:
        found.append("frame_of_reference")
    if (one.pixels.rows, one.pixels.columns) != (two.pixels.rows, two.pixels.columns):
        found.append("matrix")
    a, b = first.frame, second.frame
    # Equality first: it is the rule, and thousand times as fast.
    if a.orientation != b.orientation and not same_orientation(a.orientation or (), b.orientation or ()):
        found.append("orientation")
    if a.pixel_spacing != b.pixel_spacing and not np.allclose(
        a.pixel_spacing or (), b.pixel_spacing or (), rtol=SPACING_TOLERANCE, atol=0
    ):
        found.append("pixel_spacing")
    return tuple(found)


def _place_numbers(planes: Sequence[Plane]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Number of the place along the normal that each plane lies at."""
    try:
        normal = directions(planes[0].frame.orientation or ())[2]
    except Ineligible:
        normal = np.array([0.0, 0.0, 1.0])
    along = np.array([plane.frame.position for plane in planes], dtype=np.float64).reshape(-1, 3) @ normal
    order = np.argsort(along, kind="stable")
    numbers = np.zeros(len(planes), dtype=np.int64)
    numbers[order] = np.concatenate([[0], np.cumsum(np.diff(along[order]) > SAME_PLACE_MM)])
    return numbers


# What tells volumes at the same positions apart, the most telling first: (name, value of a plane).
_DISCRIMINATORS: tuple[tuple[str, Callable[[Plane], Hashable]], ...] = (
    ("part", lambda plane: plane.frame.component),
    ("type", lambda plane: plane.reconstruction),
    ("b-value", lambda plane: plane.frame.b_value),
    ("TE", lambda plane: plane.frame.echo_time and round(plane.frame.echo_time, 2)),
    ("echo", lambda plane: plane.frame.echo_number),
    ("TI", lambda plane: plane.frame.inversion_time),
    ("time point", lambda plane: plane.frame.temporal_index),
    ("values below zero", lambda plane: plane.frame.is_negative),
    ("stack", lambda plane: plane.frame.stack_id),
    ("acquisition", lambda plane: plane.instance.acquisition_number),
)


def _split(candidate: Candidate, discriminators: list[tuple[str, Callable[[Plane], Hashable]]]) -> list[Candidate]:
    """The candidate itself when no place is shared, else its parts by the first discriminator that differs."""
    if not discriminators or not candidate.has_shared_places:
        return [candidate]
    name, value_of = discriminators[0]
    parts: dict[Hashable, list[Plane]] = {}
    for plane in candidate.planes:
        parts.setdefault(value_of(plane), []).append(plane)
    if len(parts) == 1:
        return _split(candidate, discriminators[1:])
    found = []
    for value, planes in parts.items():
        label = ", ".join(filter(None, [candidate.label, f"{name} {_in_words(value)}"]))
        received = ", ".join(filter(None, [candidate.received, f"{name} {_as_received(value)}"]))
        found += _split(Candidate(tuple(planes), label, received), discriminators[1:])
    return found


def _as_received(value: Hashable) -> str:
    if isinstance(value, tuple):
        return "\\".join(str(part) for part in value)
    return NOT_STATED if value in (None, "") else str(value)


def _in_words(value: Hashable) -> str:
    if isinstance(value, tuple):
        return shown_words(value, IMAGE_TYPE_WORDS)
    if isinstance(value, str):
        return value if value in COMPLEX_COMPONENTS else shown_number(value)
    return NOT_STATED if value is None else str(value)


def _rank(candidate: Candidate, most_places: int) -> tuple[Hashable, ...]:
    """Sort key of the written order; stray images (fewer than half as many as the fullest volume) come last."""
    frame, words = candidate.first.frame, candidate.first.reconstruction
    return (
        candidate.places * 2 < most_places,
        _COMPONENT_RANK.get(frame.component, 1),
        frame.is_negative,
        "DERIVED" in words[:1],
        not _COMBINED & set(words),
        min((_DIXON[word] for word in words if word in _DIXON), default=0),
        "NORM" not in words,
        frame.b_value or 0.0,
        frame.temporal_index or 0,
        frame.echo_time or 0.0,
        frame.echo_number or 0,
        frame.inversion_time or 0.0,
        candidate.first.instance.acquisition_number or 0,
        candidate.received,
    )
