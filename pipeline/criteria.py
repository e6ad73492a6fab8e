"""The questions that a series is asked before it is analysed: each leaves a verdict with value and limit.

Asked by `selection`, in its order.
"""

import copy
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from pydicom import uid

from anomalyd.errors import Ineligible
from anomalyd.ids import AETitle
from anomalyd.pipeline import anatomy, rules
from anomalyd.pipeline.candidates import Candidate, Plane, differences, planes_of
from anomalyd.pipeline.completeness import shortage_of, stack_of
from anomalyd.pipeline.contrast import Weighting
from anomalyd.pipeline.finding import Contrast, Reason
from anomalyd.pipeline.geometry import Stack, same_orientation
from anomalyd.pipeline.kinds import KindRule, Subject
from anomalyd.pipeline.results.version import PRODUCT
from anomalyd.pipeline.series import SeriesHeader, counted
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.pipeline.shown import MODALITIES, NUCLEI, PHOTOMETRIC_INTERPRETATIONS, shown, shown_uid

MAX_ALSO = 3
EXCLUDE_RULE = "exclude_rule"
_APART = frozenset({"frame_of_reference", "matrix", "orientation", "pixel_spacing", "duplicate_positions"})
SUPPORTED_SYNTAXES = frozenset(
    str(syntax)
    for syntax in (
        uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless,
        uid.JPEG2000Lossless, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.RLELossless,
    )
)  # fmt: skip
LOSSY_SYNTAXES = frozenset(
    str(syntax)
    for syntax in (
        uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000, uid.HTJ2K,
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """One question that was asked of a series. ok: whether it passed."""

    criterion: str
    ok: bool
    value: Any
    limit: Any
    text: str


class Asker:
    """What is asked about, and the answers so far."""

    def __init__(
        self, header: SeriesHeader, settings: PipelineSettings, contrasts: AbstractSet[Contrast], sender: AETitle | None
    ) -> None:
        self.header, self.settings, self.contrasts = header, settings, contrasts
        self.verdicts: list[Verdict] = []
        self.left_out: list[str] = []
        self.warnings: list[str] = []
        self.is_included = rules.matching(settings.include, header, sender) is not None
        excluded = rules.matching(settings.exclude, header, sender)
        self.passed(EXCLUDE_RULE, excluded is None, excluded, None, f"excluded by the configured rule {excluded}")

    def branch(self) -> "Asker":
        """The same, to be asked about one candidate without touching the others' answers."""
        other = copy.copy(self)
        other.verdicts, other.left_out, other.warnings = [*self.verdicts], [*self.left_out], [*self.warnings]
        return other

    def passed(self, criterion: str, ok: bool, value: Any, limit: Any, text: str) -> None:  # noqa: FBT001 - the answer
        """Keeps the answer to one question; text is for the answer no."""
        self.verdicts.append(Verdict(criterion, ok, value, limit, "" if ok else text))

    def failed(self, criterion: str, value: Any, limit: Any, text: str) -> None:
        """Keeps the answer no."""
        self.verdicts.append(Verdict(criterion, ok=False, value=value, limit=limit, text=text))

    @property
    def reason(self) -> Reason | None:
        """The first question that was failed, the others named in its text."""
        failed = [verdict for verdict in self.verdicts if not verdict.ok]
        return _reason(failed) if failed else None


def objects(ask: Asker) -> tuple[Plane, ...]:
    """Planes with a place; what cannot be used is named, and refused when nothing is left."""
    header = ask.header
    others = [one for one in header.instances if not one.is_mr_image]
    images = [one for one in header.instances if one.is_mr_image]
    broken = [one.faults[0] for one in images if one.faults]
    planes, placeless = planes_of(header)
    ask.left_out += counted([f"object of SOP class {shown_uid(one.sop_class)}, no MR image" for one in others])
    ask.left_out += counted([f"unusable image: {fault}" for fault in broken])
    ask.left_out += counted(["image without position, orientation or pixel spacing"] * len(placeless))
    sop_class = shown_uid(header.instances[0].sop_class)
    ask.passed("sop_class", bool(images), sop_class, "MR image", "no object of an MR image class")
    if images:
        modality = shown(header.modality, MODALITIES)
        ask.passed("modality", modality == "MR", modality, "MR", f"the modality is {modality}, not MR")
    own = sum(one.manufacturer == PRODUCT for one in images)
    # No rule of the configuration lifts this: a score map that a PACS sends back would be analysed for ever.
    ask.passed("own_result", not own, own, 0, f"{own} images are results of {PRODUCT} itself")
    if broken:
        most = ask.settings.max_missing_slices if header.images else 0
        text = f"{len(header.images)} of {len(images)} images are readable: {broken[0]}"
        ask.passed("readable", len(broken) <= most, len(broken), most, text)
        ask.warnings.append(text)
    if header.images and not planes:
        ask.failed(
            "geometry", len(placeless), 0,
            "no image states usable ImagePositionPatient, ImageOrientationPatient and PixelSpacing",
        )  # fmt: skip
    return planes


def orientations(stacks: Sequence[Sequence[Plane]]) -> int:
    """How many orientations the stacks have."""
    seen: list[tuple[float, ...]] = []
    for stack in stacks:
        orientation = stack[0].frame.orientation or ()
        if not any(same_orientation(orientation, other) for other in seen):
            seen.append(orientation)
    return len(seen)


def kinds(ask: Asker, rules_of_kind: Sequence[KindRule], subject: Subject) -> None:
    """Is it something else than an anatomical image?"""
    for kind in rules_of_kind:
        seen = kind.seen_in(subject)
        # No rule of the configuration makes one picture of tiles a stack of slices.
        ok = seen is None or (ask.is_included and kind.criterion != "mosaic")
        ask.passed(kind.criterion, ok, seen, None, f"{kind.refuses}: {seen}")


def extent(ask: Asker, chosen: Candidate) -> None:
    """Enough slices, the field of view of a head, pixels of an anatomical image?"""
    frame, pixels, places = chosen.first.frame, chosen.first.instance.pixels, chosen.places
    spacing = frame.pixel_spacing or (0.0, 0.0)
    told = "one slice" if places == 1 else f"{places} slices"
    least = anatomy.MIN_SLICES
    ask.passed("slices", places >= least, places, least, f"{told}, at least {least} are needed")
    sides = sorted((pixels.rows * spacing[0], pixels.columns * spacing[1]))
    low, high = anatomy.FIELD_OF_VIEW_MM
    ask.passed(
        "field_of_view", low <= sides[0] and sides[1] <= high, [round(side, 1) for side in sides], [low, high],
        f"the field of view is {sides[0]:.0f} x {sides[1]:.0f} mm, {low:.0f} to {high:.0f} mm are taken for a head",
    )  # fmt: skip
    ask.passed(
        "resolution", max(spacing) <= anatomy.MAX_PIXEL_MM, round(max(spacing), 3), anatomy.MAX_PIXEL_MM,
        f"pixels of {max(spacing):.2f} mm, at most {anatomy.MAX_PIXEL_MM} mm are analysed",
    )  # fmt: skip


def one_stack(ask: Asker, stacks: Sequence[Sequence[Plane]]) -> None:
    """Small groups of another orientation (a localizer) are split off; anything else that differs refuses."""
    main = stacks[0]
    for other in stacks[1:]:
        differing = differences(main[0], other[0])
        words = " and ".join(differing).replace("_", " ")
        is_small = len(other) < anatomy.MIN_SLICES and len(other) * 4 <= len(main)
        if is_small and "orientation" in differing:
            ask.left_out.append(f"{len(other)} images of another {words} (a localizer)")
            ask.warnings.append(f"{len(other)} images of another {words} were split off")
            continue
        ask.failed(
            differing[0], [len(main), len(other)], "one for all images",
            f"the images differ in {words} ({len(main)} and {len(other)} images): no single volume",
        )  # fmt: skip
    stated = main[0].instance.frame_of_reference
    ask.passed(
        "frame_of_reference", bool(stated), shown_uid(stated), "one UID",
        "no FrameOfReferenceUID: a result could not be placed in the patient",
    )  # fmt: skip


def even(ask: Asker, chosen: Candidate, candidates: Sequence[Candidate]) -> Stack | None:
    """Evenly spaced, each position once, enough of the brain, no slices missing? The stack, where there is one."""
    try:
        stack = stack_of(chosen)
    except Ineligible as exc:
        ask.failed(exc.criterion, exc.value, exc.limit, exc.text)
        return None
    doubles = len(chosen.planes) - (stack.count - len(stack.empty))
    ask.passed(
        "duplicate_positions", not doubles, doubles, 0,
        f"{doubles} images lie at the position of another one, and nothing tells them apart",
    )  # fmt: skip
    coverage, least = stack.count * stack.step_mm, anatomy.MIN_COVERAGE_MM
    ask.passed(
        "coverage", coverage >= least, round(coverage, 1), least,
        f"the slices cover {coverage:.0f} mm, at least {least:.0f} mm are needed for a brain",
    )  # fmt: skip
    ask.passed(
        "slice_step", stack.step_mm <= anatomy.MAX_STEP_MM, round(stack.step_mm, 3), anatomy.MAX_STEP_MM,
        f"slices every {stack.step_mm:.1f} mm, at most {anatomy.MAX_STEP_MM:.0f} mm are analysed",
    )  # fmt: skip
    _missing(ask, stack, chosen, candidates)
    return stack


def _missing(ask: Asker, stack: Stack, chosen: Candidate, candidates: Sequence[Candidate]) -> None:
    limit = ask.settings.max_missing_slices
    inside = len(stack.empty)
    shortage = shortage_of(ask.header, chosen, candidates)
    missing = max(inside, shortage.missing)
    expected = max(stack.count, shortage.expected or 0) if shortage.missing else stack.count
    told = f" ({shortage.source} states {shortage.expected})" if shortage.missing else ""
    text = f"{missing} of {expected} slices {'is' if missing == 1 else 'are'} missing{told}"
    ask.passed("missing_slices", missing <= limit, missing, limit, f"{text}, at most {limit} are interpolated")
    if 0 < missing <= limit:
        at_end = f", {missing - inside} at an end" if missing > inside else ""
        ask.warnings.append(f"{text}{at_end}: {inside} interpolated, never marked")


def cause_first(ask: Asker, chosen: Candidate, stacks: Sequence[Sequence[Plane]]) -> None:
    """Names why the images are no volume before how few are left of it, where together they would be enough."""
    together = len(chosen.planes) + sum(map(len, stacks[1:]))
    has_cause = any(verdict.criterion in _APART and not verdict.ok for verdict in ask.verdicts)
    if has_cause and together >= anatomy.MIN_SLICES:
        ask.verdicts.sort(key=lambda verdict: verdict.criterion == "slices")


def pixels(ask: Asker, chosen: Candidate) -> None:
    """Grey values of hydrogen that can be decoded?"""
    form = chosen.first.instance.pixels
    is_grey = form.samples == 1 and form.photometric in ("MONOCHROME2", "MONOCHROME1", "")
    photometric = shown(form.photometric, PHOTOMETRIC_INTERPRETATIONS)
    ask.passed("photometric", is_grey, photometric, "MONOCHROME2", f"no grey values: {photometric}")
    stated = chosen.first.instance.acquisition.nucleus
    nucleus = shown(stated, NUCLEI)
    ask.passed("nucleus", stated in ("", "1H", "H", "H1"), nucleus, "1H", f"an image of {nucleus}, not of hydrogen")
    syntaxes = {plane.instance.transfer_syntax for plane in chosen.planes}
    unknown = sorted(map(shown_uid, syntaxes - SUPPORTED_SYNTAXES - LOSSY_SYNTAXES))
    ask.passed("transfer_syntax", not unknown, unknown, "lossless", f"transfer syntax {unknown} cannot be decoded")
    if syntaxes & LOSSY_SYNTAXES:
        ask.warnings.append("the images were compressed with loss")


def contrast(ask: Asker, weighting: Weighting) -> None:
    """A contrast that a bundle is there for?"""
    served = ", ".join(sorted(ask.contrasts)) or "none"
    if weighting.contrast is None:
        told = f"{weighting.name}: " if weighting.is_told else "the contrast cannot be told: "
        ask.failed("contrast", weighting.name, served, f"no bundle for this contrast: {told}{weighting.text}")
        return
    if not weighting.is_physics:
        ask.warnings.append(f"contrast {weighting.contrast}: {weighting.text}")
    ask.passed(
        "contrast", weighting.contrast in ask.contrasts, weighting.contrast.value, served,
        f"no bundle for this contrast ({weighting.contrast})",
    )  # fmt: skip


def _reason(failed: Sequence[Verdict]) -> Reason:
    first = failed[0]
    others = list(dict.fromkeys(verdict.text for verdict in failed[1:] if verdict.criterion != first.criterion))
    also = f" (also: {'; '.join(others[:MAX_ALSO])})" if others else ""
    return Reason(first.criterion, first.value, first.limit, first.text + also)
