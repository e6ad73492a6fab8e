"""Whether a series is there as a whole, told by content (issue 9, point 4).

Provable only by an expected count that is reached. A stack without gaps proves nothing: the rest may be under way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from anomalyd.errors import Ineligible
from anomalyd.pipeline.candidates import Candidate, candidates_of, planes_of, stacks_of
from anomalyd.pipeline.functional_groups import Triple
from anomalyd.pipeline.geometry import Stack, directions, even_stack
from anomalyd.pipeline.series import SeriesHeader
from anomalyd.pipeline.vendor import ExpectedCount


@dataclass(frozen=True, slots=True)
class Completeness:
    """Of the volume that would be analysed. Counts are slice positions unless text says images.

    expected: None where nothing states it. missing: LPS mm of the first voxel of each slice that is not there, inside
    the stack (at its ends nobody knows where). duplicates: planes beyond the first at one position of that volume.
    """

    provable: bool
    gap_free: bool
    expected: int | None
    present: int
    missing: tuple[Triple, ...]
    duplicates: int
    text: str


@dataclass(frozen=True, slots=True)
class Shortage:
    """What stated counts say of one volume. missing: 0 where reached or not stated."""

    is_reached: bool
    expected: int | None
    missing: int
    source: str


def completeness(header: SeriesHeader) -> Completeness:
    """How complete the received part of a series is; never raises."""
    planes, _ = planes_of(header)
    if not planes:
        return Completeness(
            provable=False,
            gap_free=False,
            expected=None,
            present=0,
            missing=(),
            duplicates=0,
            text="no MR image with a position",
        )
    candidates = candidates_of(stacks_of(planes)[0])
    chosen = candidates[0]
    try:
        stack = stack_of(chosen)
    except Ineligible as exc:
        return Completeness(
            provable=False,
            gap_free=False,
            expected=None,
            present=chosen.places,
            missing=(),
            duplicates=0,
            text=str(exc),
        )
    shortage = shortage_of(header, chosen, candidates)
    is_gap_free = not stack.empty
    duplicates = len(chosen.planes) - (stack.count - len(stack.empty))
    return Completeness(
        provable=shortage.is_reached and is_gap_free and not duplicates,
        gap_free=is_gap_free,
        expected=shortage.expected,
        present=chosen.places,
        missing=tuple(_place(chosen, stack, slot) for slot in stack.empty),
        duplicates=duplicates,
        text=_in_words(chosen, stack, shortage),
    )


def stack_of(candidate: Candidate) -> Stack:
    """The even stack of a candidate; raises Ineligible."""
    return even_stack(candidate.positions_lps, directions(candidate.first.frame.orientation or ())[2])


def shortage_of(header: SeriesHeader, chosen: Candidate, candidates: Sequence[Candidate]) -> Shortage:
    """What the stated counts say; counts of reformatted images are those of their source and are not asked."""
    framed = _by_frames(chosen)
    if framed is not None:
        return framed
    first = chosen.first
    if "DERIVED" in first.reconstruction[:1] or "SECONDARY" in first.reconstruction[1:2]:
        return Shortage(is_reached=False, expected=None, missing=0, source="")
    echoes = first.instance.acquisition.echoes
    echoes_are_there = echoes is None or echoes <= 1 or len(candidates) >= echoes
    images = len(header.images)
    short: Shortage | None = None
    for expected in first.instance.expected:
        present = [images] if expected.unit == "images" else [candidate.places for candidate in candidates]
        if all(count == expected.count for count in present) and (echoes_are_there or expected.unit == "images"):
            return Shortage(is_reached=True, expected=expected.count, missing=0, source=expected.source)
        own = images if expected.unit == "images" else chosen.places
        if short is None and own < expected.count and expected.is_exact and not _is_of_several(expected, own):
            short = Shortage(
                is_reached=False, expected=expected.count, missing=expected.count - own, source=expected.source
            )
    return short or Shortage(is_reached=False, expected=None, missing=0, source="")


def _is_of_several(expected: ExpectedCount, present: int) -> bool:
    """Whether images of one acquisition seem to lie in several series: the count is of all that resulted from it."""
    return expected.unit == "images" and expected.count % present == 0


def _by_frames(chosen: Candidate) -> Shortage | None:
    """Reached when one multi-frame object holds the volume: parsing compared NumberOfFrames with its frames."""
    owners = {plane.instance.instance_uid for plane in chosen.planes}
    frames = len(chosen.first.instance.frames)
    if len(owners) == 1 and frames > 1:
        return Shortage(is_reached=True, expected=chosen.places, missing=0, source="NumberOfFrames")
    return None


def _place(chosen: Candidate, stack: Stack, slot: int) -> Triple:
    normal = directions(chosen.first.frame.orientation or ())[2]
    origin = chosen.positions_lps[0]
    point = origin + normal * (stack.first_mm + slot * stack.step_mm - float(origin @ normal))
    return (round(float(point[0]), 3), round(float(point[1]), 3), round(float(point[2]), 3))


def _in_words(chosen: Candidate, stack: Stack, shortage: Shortage) -> str:
    text = f"{chosen.places} slice positions"
    if shortage.is_reached:
        text += f", as {shortage.source} states"
    elif shortage.expected is not None:
        text += f"; {shortage.source} states {shortage.expected}"
    else:
        text += ", no expected count is stated"
    return text + (f"; {len(stack.empty)} missing inside the stack" if stack.empty else "")
