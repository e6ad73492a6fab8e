"""Which volume of a series is analysed, or which criterion refuses it: physics and geometry, names only break ties.

Order of the questions: configured rules, objects, kind of image, extent, body part, geometry, completeness, contrast.
The first that fails is the reason; what else fails is named in its text. Every answer is kept, for `explain`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from anomalyd.errors import Ineligible
from anomalyd.ids import AETitle, Digest, InstanceUID, SeriesUID, StudyUID
from anomalyd.pipeline import anatomy, rules
from anomalyd.pipeline.candidates import Candidate, Plane, candidates_of, differences, planes_of, stacks_of
from anomalyd.pipeline.completeness import shortage_of, stack_of
from anomalyd.pipeline.contrast import Weighting, weighting_of
from anomalyd.pipeline.finding import Contrast, Reason
from anomalyd.pipeline.geometry import Stack, index_to_lps
from anomalyd.pipeline.kinds import KIND_RULES, WEAK_KIND_RULES, KindRule, Subject
from anomalyd.pipeline.series import SeriesHeader, counted
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.pipeline.volume import Grid, SliceSource


@dataclass(frozen=True, slots=True)
class Verdict:
    """One question that was asked of a series. ok: whether it passed."""

    criterion: str
    ok: bool
    value: Any
    limit: Any
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class VolumeChoice:
    """The planes to analyse, in geometric order: increasing position along row x column.

    slots: one entry per slice of the grid; None where a slice is missing (it will be interpolated, and never marked).
    """

    study_uid: StudyUID
    series_uid: SeriesUID
    grid: Grid
    slots: tuple[SliceSource | None, ...]

    @property
    def instances(self) -> tuple[tuple[InstanceUID, tuple[int, ...] | None], ...]:
        """Each object once, by UID: its frames that belong to the volume, or None for a classic object."""
        frames: dict[InstanceUID, list[int]] = {}
        for source in self.slots:
            if source is not None:
                frames.setdefault(source.instance_uid, []).extend([] if source.frame is None else [source.frame])
        return tuple((uid, tuple(sorted(frames[uid])) or None) for uid in sorted(frames))


@dataclass(frozen=True, slots=True, eq=False)
class Eligibility:
    """The answer: ok with contrast and volume, or the reason; either way what was left out and every verdict."""

    ok: bool
    contrast: Contrast | None
    reason: Reason | None
    volume: VolumeChoice | None
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()


def choose(
    header: SeriesHeader,
    settings: PipelineSettings,
    contrasts: AbstractSet[Contrast],
    sender: AETitle | None = None,
) -> Eligibility:
    """The volume of the series that is analysed, or why none is; never raises.

    contrasts: those that bundles exist for. sender: calling AE title, for rules that are for one sender.
    """
    return _Questions(header, settings, contrasts, sender).answer()


def instance_set(choice: VolumeChoice, sha256: Mapping[InstanceUID, str]) -> Digest:
    """Digest of the sorted (SOP Instance UID, data-set SHA-256, frames) of the volume (DESIGN 11)."""
    lines = ["\x1f".join([uid, sha256[uid], ",".join(map(str, frames or ()))]) for uid, frames in choice.instances]
    return Digest(hashlib.sha256("\n".join(sorted(lines)).encode("ascii")).hexdigest())


class _Questions:
    """Asks one series everything, in order, and remembers the answers."""

    def __init__(
        self, header: SeriesHeader, settings: PipelineSettings, contrasts: AbstractSet[Contrast], sender: AETitle | None
    ) -> None:
        self._header, self._settings, self._contrasts, self._sender = header, settings, contrasts, sender
        self._verdicts: list[Verdict] = []
        self._left_out: list[str] = []
        self._warnings: list[str] = []

    def answer(self) -> Eligibility:
        included = rules.matching(self._settings.include, self._header, self._sender)
        excluded = rules.matching(self._settings.exclude, self._header, self._sender)
        self._ask("exclude_rule", not excluded, excluded, None, f"excluded by the configured rule {excluded}")
        planes = self._objects()
        if not planes:
            return self._eligibility(None, None)
        stacks = stacks_of(planes)
        candidates = candidates_of(stacks[0])
        chosen = candidates[0]
        acquisition = chosen.first.instance.acquisition
        subject = Subject(chosen, candidates, acquisition)
        self._kinds(KIND_RULES, subject, is_included=bool(included))
        self._extent(chosen)
        part = anatomy.other_body_part(acquisition)
        self._ask("body_part", not part or bool(included), part, "head", f"another body part: {part}")
        self._ask(
            "phantom", not acquisition.is_quality_control or bool(included), "phantom", "a person",
            "no head: the object is registered as a phantom or quality control",
        )  # fmt: skip
        self._kinds(WEAK_KIND_RULES, subject, is_included=bool(included))
        self._one_stack(stacks)
        volume = self._volume(chosen, candidates)
        self._pixels(chosen)
        weighting = weighting_of(acquisition, chosen.first.frame.echo_time, chosen.first.frame.inversion_time)
        self._contrast(weighting)
        self._name_the_rest(chosen, candidates)
        if acquisition.has_contrast_agent:
            self._warnings.append("a contrast agent was given: enhancing tissue may be marked")
        return self._eligibility(weighting.contrast, volume)

    def _ask(self, criterion: str, ok: bool, value: Any, limit: Any, text: str) -> None:  # noqa: FBT001 - the answer
        self._verdicts.append(Verdict(criterion, ok, value, limit, text if not ok else ""))

    def _objects(self) -> tuple[Plane, ...]:
        """Planes with a place; what cannot be used is named, and refused when nothing is left."""
        others = [one for one in self._header.instances if not one.is_mr_image]
        broken = [one for one in self._header.instances if one.is_mr_image and one.faults]
        self._left_out += counted([f"object of SOP class {one.sop_class}, no MR image" for one in others])
        self._left_out += counted([f"unusable object: {one.faults[0]}" for one in broken])
        planes, placeless = planes_of(self._header)
        if placeless:
            self._left_out += counted(["image without position, orientation or pixel spacing" for _ in placeless])
        total = len(self._header.instances)
        images = total - len(others)
        self._ask(
            "sop_class", images > 0, self._header.instances[0].sop_class, "MR image", "no object of an MR image class"
        )
        if images:
            text = f"{total - len(others) - len(broken)} of {images} images are readable: {broken[0].faults[0] if broken else ''}"
            self._ask("readable", len(broken) < images, len(broken), 0, text)
            self._ask("modality", self._header.modality == "MR", self._header.modality, "MR", "the modality is not MR")
        if images and len(broken) < images:
            self._ask(
                "geometry", bool(planes), len(placeless), 0,
                "no image states ImagePositionPatient, ImageOrientationPatient and PixelSpacing",
            )  # fmt: skip
        return planes

    def _kinds(self, kinds: Sequence[KindRule], subject: Subject, *, is_included: bool) -> None:
        for kind in kinds:
            seen = kind.seen_in(subject)
            ok = seen is None or (is_included and kind.criterion != "mosaic")
            self._ask(kind.criterion, ok, seen, None, f"{kind.refuses}: {seen}")

    def _extent(self, chosen: Candidate) -> None:
        frame, pixels = chosen.first.frame, chosen.first.instance.pixels
        spacing = frame.pixel_spacing or (0.0, 0.0)
        places = chosen.places
        one = "one slice" if places == 1 else f"{places} slices"
        self._ask(
            "slices",
            places >= anatomy.MIN_SLICES,
            places,
            anatomy.MIN_SLICES,
            f"{one}, at least {anatomy.MIN_SLICES} are needed",
        )
        view = max(pixels.rows * spacing[0], pixels.columns * spacing[1])
        low, high = anatomy.FIELD_OF_VIEW_MM
        self._ask(
            "field_of_view", low <= view <= high, round(view, 1), [low, high],
            f"the field of view is {view:.0f} mm, {low:.0f} to {high:.0f} mm are taken for a head",
        )  # fmt: skip
        pixel = max(spacing)
        self._ask(
            "resolution", pixel <= anatomy.MAX_PIXEL_MM, round(pixel, 3), anatomy.MAX_PIXEL_MM,
            f"pixels of {pixel:.2f} mm, at most {anatomy.MAX_PIXEL_MM} mm are analysed",
        )  # fmt: skip

    def _one_stack(self, stacks: Sequence[Sequence[Plane]]) -> None:
        """Small groups of another orientation (a localizer) are split off; anything else that differs refuses."""
        main = stacks[0]
        for other in stacks[1:]:
            differing = differences(main[0], other[0])
            is_small = len(other) < anatomy.MIN_SLICES and len(other) * 4 <= len(main)
            words = " and ".join(differing).replace("_", " ")
            if is_small and "orientation" in differing:
                self._left_out.append(f"{len(other)} images of another {words} (a localizer)")
                continue
            self._ask(
                differing[0], False, f"{len(main)} and {len(other)} images", "one for all",
                f"the images differ in {words} ({len(main)} and {len(other)} images): no single volume",
            )  # fmt: skip
        frame_of_reference = main[0].instance.frame_of_reference
        self._ask(
            "frame_of_reference", bool(frame_of_reference), frame_of_reference, "one UID",
            "no FrameOfReferenceUID: a result could not be placed in the patient",
        )  # fmt: skip

    def _volume(self, chosen: Candidate, candidates: Sequence[Candidate]) -> VolumeChoice | None:
        try:
            stack = stack_of(chosen)
        except Ineligible as exc:
            self._ask(exc.criterion, False, exc.value, exc.limit, exc.text)
            return None
        doubles = len(chosen.planes) - (stack.count - len(stack.empty))
        self._ask(
            "duplicate_positions", not doubles, doubles, 0, f"{doubles} images lie at a position that another one has"
        )
        coverage = stack.count * stack.step_mm
        self._ask(
            "coverage", coverage >= anatomy.MIN_COVERAGE_MM, round(coverage, 1), anatomy.MIN_COVERAGE_MM,
            f"the slices cover {coverage:.0f} mm, at least {anatomy.MIN_COVERAGE_MM:.0f} mm are needed for a brain",
        )  # fmt: skip
        self._ask(
            "slice_step", stack.step_mm <= anatomy.MAX_STEP_MM, round(stack.step_mm, 3), anatomy.MAX_STEP_MM,
            f"slices every {stack.step_mm:.1f} mm, at most {anatomy.MAX_STEP_MM:.0f} mm are analysed",
        )  # fmt: skip
        self._missing(stack, chosen, candidates)
        return None if doubles or stack.count < 2 else _choice(self._header, chosen, stack)  # noqa: PLR2004 - a volume

    def _missing(self, stack: Stack, chosen: Candidate, candidates: Sequence[Candidate]) -> None:
        limit = self._settings.max_missing_slices
        inside = len(stack.empty)
        shortage = shortage_of(self._header, chosen, candidates)
        missing = max(inside, shortage.missing)
        expected = max(stack.count, shortage.expected or 0) if shortage.missing else stack.count
        told = f" ({shortage.source} states {shortage.expected})" if shortage.missing else ""
        text = f"{missing} of {expected} slices are missing{told}"
        self._ask("missing_slices", missing <= limit, missing, limit, f"{text}, at most {limit} are interpolated")
        if 0 < missing <= limit:
            end = f", {missing - inside} at an end" if missing > inside else ""
            self._warnings.append(f"{text}{end}: {inside} interpolated, never marked")

    def _pixels(self, chosen: Candidate) -> None:
        pixels = chosen.first.instance.pixels
        ok = pixels.samples == 1 and pixels.photometric in ("MONOCHROME2", "MONOCHROME1", "")
        self._ask("photometric", ok, pixels.photometric, "MONOCHROME2", f"no grey values: {pixels.photometric}")
        nucleus = chosen.first.instance.acquisition.nucleus
        self._ask("nucleus", nucleus in ("", "1H", "H", "H1"), nucleus, "1H", f"an image of {nucleus}, not of hydrogen")

    def _contrast(self, weighting: Weighting) -> None:
        served = ", ".join(sorted(self._contrasts)) or "none"
        if weighting.contrast is None:
            told = f"{weighting.name}: " if weighting.is_told else "the contrast cannot be told: "
            self._ask("contrast", False, weighting.name, served, told + weighting.text)
            return
        self._ask(
            "contrast", weighting.contrast in self._contrasts, weighting.contrast.value, served,
            f"no bundle for this contrast ({weighting.contrast})",
        )  # fmt: skip

    def _name_the_rest(self, chosen: Candidate, candidates: Sequence[Candidate]) -> None:
        for other in candidates:
            if other is not chosen:
                self._left_out.append(f"{len(other.planes)} images of another volume: {other.label}")

    def _eligibility(self, contrast: Contrast | None, volume: VolumeChoice | None) -> Eligibility:
        failed = [verdict for verdict in self._verdicts if not verdict.ok]
        reason = _reason(failed) if failed else None
        return Eligibility(
            ok=reason is None, contrast=contrast, reason=reason, volume=None if reason else volume,
            left_out=tuple(self._left_out), warnings=tuple(self._warnings), verdicts=tuple(self._verdicts),
        )  # fmt: skip


def _reason(failed: Sequence[Verdict]) -> Reason:
    first = failed[0]
    others = "; ".join(dict.fromkeys(verdict.text for verdict in failed[1:] if verdict.criterion != first.criterion))
    return Reason(first.criterion, first.value, first.limit, first.text + (f" (also: {others})" if others else ""))


def _choice(header: SeriesHeader, chosen: Candidate, stack: Stack) -> VolumeChoice:
    first = chosen.first
    slots: list[SliceSource | None] = [None] * stack.count
    for plane, slot in zip(chosen.planes, stack.slots, strict=True):
        slots[int(slot)] = SliceSource(plane.instance.instance_uid, plane.frame.number)
    affine = index_to_lps(
        first.frame.orientation or (), first.frame.pixel_spacing or (1.0, 1.0), chosen.positions_lps, stack
    )
    shape = (stack.count, first.instance.pixels.rows, first.instance.pixels.columns)
    return VolumeChoice(header.study_uid, header.series_uid, Grid(shape, affine), tuple(slots))
