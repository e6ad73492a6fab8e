"""Which volume of a series is analysed, or which criterion refuses it: physics and geometry, names only break ties.

Order of the questions: configured rules, objects, kind of image, extent, body part, one stack, geometry, completeness,
contrast. The first that fails is the reason; what else fails is named in its text. Every answer is kept, for `explain`.
Too few slices are named after what tore the images apart, if that is why they are few.

Configured rules override: `exclude` refuses, whatever the physics. `include` lifts what is told from types, names and
body part; extent, geometry, completeness and contrast must still be right, since no bundle could work without.
"""

import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from anomalyd.ids import AETitle, Digest, InstanceUID, SeriesUID, StudyUID
from anomalyd.pipeline import anatomy, criteria
from anomalyd.pipeline.candidates import Candidate, Plane, candidates_of, stacks_of
from anomalyd.pipeline.contrast import weighting_of
from anomalyd.pipeline.criteria import Asker, Verdict
from anomalyd.pipeline.finding import Contrast, Reason
from anomalyd.pipeline.geometry import Stack, index_to_lps
from anomalyd.pipeline.kinds import KIND_RULES, WEAK_KIND_RULES, Subject
from anomalyd.pipeline.results.version import PRODUCT
from anomalyd.pipeline.series import SeriesHeader
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.pipeline.volume import Grid, SliceSource

MAX_CANDIDATES = 8
Instances = tuple[tuple[InstanceUID, tuple[int, ...] | None], ...]
"""Objects by SOP Instance UID, each with its 1-based frames; None: a classic object, or all of it."""


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
    def instances(self) -> Instances:
        """Each object once, by UID: its frames that belong to the volume, or None for a classic object."""
        frames: dict[InstanceUID, list[int]] = {}
        for source in self.slots:
            if source is not None:
                frames.setdefault(source.instance_uid, []).extend([] if source.frame is None else [source.frame])
        return tuple((one, tuple(sorted(frames[one])) or None) for one in sorted(frames))


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
    ask = criteria.Asker(header, settings, contrasts, sender)
    planes = criteria.objects(ask)
    if not planes:
        return _eligibility(ask, None, None)
    stacks = stacks_of(planes)
    candidates = candidates_of(stacks[0])
    first = _judge(ask, candidates[0], candidates, stacks)
    if first.ok:
        return first
    # The written order decides among volumes that can be analysed: of a dual echo the second may be the T2w one.
    for candidate in candidates[1:MAX_CANDIDATES]:
        other = _judge(ask, candidate, candidates, stacks)
        if other.ok:
            return other
    return first


def explain(
    header: SeriesHeader,
    settings: PipelineSettings,
    contrasts: AbstractSet[Contrast],
    sender: AETitle | None = None,
) -> tuple[Verdict, ...]:
    """Every question that was asked of the series, in order, with its answer: what `choose` decided from."""
    return choose(header, settings, contrasts, sender).verdicts


def nameable(answer: Eligibility, header: SeriesHeader) -> Instances:
    """The MR images of a refused series that a notice may name: none where a notice is nobody's wish.

    That is: of a series that is no MR, that a configured rule excludes, or that has an object made here: told of what
    came back from a PACS, the PACS would get one notice after the other.
    """
    is_excluded = any(verdict.criterion == criteria.EXCLUDE_RULE and not verdict.ok for verdict in answer.verdicts)
    is_ours = any(one.manufacturer == PRODUCT for one in header.instances)
    if is_excluded or is_ours or header.modality != "MR":
        return ()
    return tuple((one.instance_uid, None) for one in header.instances if one.is_mr_image)


def instance_set(choice: VolumeChoice, sha256: Mapping[InstanceUID, str]) -> Digest:
    """Digest of the sorted (SOP Instance UID, data-set SHA-256, frames) of the volume (DESIGN 11)."""
    return digest_of(choice.instances, sha256)


def digest_of(instances: Instances, sha256: Mapping[InstanceUID, str]) -> Digest:
    """The same of any set of objects, or of frames of them."""
    lines = ["\x1f".join([uid, sha256[uid], ",".join(map(str, frames or ()))]) for uid, frames in instances]
    return Digest(hashlib.sha256("\n".join(sorted(lines)).encode("ascii")).hexdigest())


def _judge(
    asker: Asker, chosen: Candidate, candidates: Sequence[Candidate], stacks: Sequence[Sequence[Plane]]
) -> Eligibility:
    """All questions about one candidate volume."""
    ask = asker.branch()
    acquisition = chosen.first.instance.acquisition
    subject = Subject(chosen, tuple(candidates), acquisition, criteria.orientations(stacks))
    criteria.kinds(ask, KIND_RULES, subject)
    criteria.extent(ask, chosen)
    part = anatomy.other_body_part(acquisition)
    ask.passed("body_part", not part or ask.is_included, part, "head", f"another body part: {part}")
    nobody = acquisition.no_person
    ask.passed("phantom", not nobody or ask.is_included, nobody, "a person", f"no head of a person: {nobody}")
    criteria.kinds(ask, WEAK_KIND_RULES, subject)
    criteria.one_stack(ask, stacks)
    stack = criteria.even(ask, chosen, candidates)
    criteria.cause_first(ask, chosen, stacks)
    criteria.pixels(ask, chosen)
    weighting = weighting_of(acquisition, chosen.first.frame.echo_time, chosen.first.frame.inversion_time)
    criteria.contrast(ask, weighting)
    ask.left_out += [
        f"{len(other.planes)} images of another volume: {other.label}" for other in candidates if other is not chosen
    ]
    if acquisition.has_contrast_agent:
        ask.warnings.append("a contrast agent was given: enhancing tissue may be marked")
    return _eligibility(
        ask, weighting.contrast, _choice(ask.header, chosen, stack) if stack and not ask.reason else None
    )


def _eligibility(ask: Asker, contrast: Contrast | None, volume: VolumeChoice | None) -> Eligibility:
    return Eligibility(
        ok=ask.reason is None, contrast=contrast, reason=ask.reason, volume=volume,
        left_out=tuple(ask.left_out), warnings=tuple(ask.warnings), verdicts=tuple(ask.verdicts),
    )  # fmt: skip


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
