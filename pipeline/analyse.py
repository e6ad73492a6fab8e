"""From a volume to a finding: the one door of the pipeline, the same for the worker and for `anomalyd analyse`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from anomalyd.errors import Broken, Withheld
from anomalyd.pipeline.bundle import NORMATIVE, Bundle, Normative
from anomalyd.pipeline.finding import Finding, Stage
from anomalyd.pipeline.settings import AnalysisSettings
from anomalyd.pipeline.stages import gates
from anomalyd.pipeline.stages.laterality import lateralised
from anomalyd.pipeline.stages.limits import MARKED_RATE, check_limits, marked_share, measure_scan
from anomalyd.pipeline.stages.mapback import BoxMaps, SourceMaps, map_back
from anomalyd.pipeline.stages.measure import measure
from anomalyd.pipeline.stages.normalise import Normalised
from anomalyd.pipeline.stages.normative import components, normative_score, smooth_inside
from anomalyd.pipeline.stages.prepare import Boxed, Upright, align, boxed, standardise, upright
from anomalyd.pipeline.stages.reconstruct import field_seeds, reconstruct
from anomalyd.pipeline.stages.register import Registration
from anomalyd.pipeline.stages.score import paper_score, volume_score
from anomalyd.pipeline.stages.threshold import choose_cut
from anomalyd.pipeline.terms import ScoreMode
from anomalyd.pipeline.volume import BoolMap, FloatMap, Volume

SIGN_SMOOTHING = 1.0  # voxels; single pixels of the residual flicker between darker and brighter

OnStage = Callable[[Stage], None]


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where it is computed. device: auto takes CUDA where there is one; threads: 0 leaves torch's number."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0

    @property
    def torch_device(self) -> str:
        """`cpu` or `cuda`."""
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A scan in the bundle's box, past the gates, before any network. facts: what the gates measured."""

    head: Upright
    registration: Registration
    box: Boxed
    normalised: Normalised
    facts: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A scan's score in the bundle's box, before any threshold. facts: the gates' and the reconstruction's numbers."""

    placed: Placed
    reconstruction: FloatMap
    score: FloatMap
    scan_score: float
    seeds: tuple[int, ...]
    device: str
    facts: dict[str, float]


def analyse(
    volume: Volume,
    bundle: Bundle,
    settings: AnalysisSettings,
    *,
    runtime: Runtime,
    seed_text: str,
    on_stage: OnStage = lambda _: None,
) -> Finding:
    """What the bundle finds in a volume; the same bytes for the same arguments.

    seed_text: names the input (series UID, or digest of the file); noise is drawn from it and the bundle's digest.
    on_stage is called as each stage begins. Raises Withheld for a scan that the bundle cannot judge, ConfigError for a
    score or a rate that it was not calibrated for.
    """
    cut = choose_cut(bundle, settings)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    placed = place(volume, bundle, on_stage)
    judged = judge(placed, bundle, mode=cut.mode, runtime=runtime, seed_text=seed_text, on_stage=on_stage)
    on_stage(Stage.MAPBACK)
    maps = onto_source(volume, judged, bundle)
    on_stage(Stage.THRESHOLD)
    warnings = check_within_limits(judged, maps, bundle, cut.mode)
    on_stage(Stage.MEASURE)
    measured = measure(maps, volume.grid, cut.threshold, volume.interpolated_slices)
    lesions = lateralised(measured.lesions, measured.labels, volume.grid, placed.registration.template_to_source)
    if measured.left_out:
        warnings += (f"{measured.left_out} more regions with lower peaks are left out: the map is flooded",)
    return Finding(
        grid=volume.grid,
        model=bundle.model,
        score_map=maps.score,
        sign_map=maps.sign,
        labels=measured.labels,
        brain_mask=maps.brain,
        reconstruction=maps.reconstruction,
        lesions=lesions,
        score=judged.scan_score,
        score_percentile=_percentile(judged.scan_score, bundle.calibration.of(cut.mode).scan_scores),
        threshold=cut.threshold,
        threshold_text=cut.text,
        score_mode=cut.mode,
        reference_ages=bundle.description.training.age_range,
        warnings=warnings,
        device=judged.device,
        seeds=judged.seeds,
        noise_levels=bundle.description.reconstruction.levels,
        facts=judged.facts,
    )


def check_calibrated(bundle: Bundle, settings: AnalysisSettings) -> None:
    """Raises ConfigError where the bundle is not calibrated for the score or the rate that is asked for."""
    choose_cut(bundle, settings)


def check_within_limits(judged: Judged, maps: SourceMaps, bundle: Bundle, mode: ScoreMode) -> tuple[str, ...]:
    """Warnings about a scan unlike those that the bundle was calibrated on; raises Withheld for one beyond a limit."""
    calibration = bundle.calibration
    usual = calibration.of(mode).threshold_at(MARKED_RATE)
    measured = {**judged.facts, **marked_share(maps.score[maps.brain], usual)}
    return (*gates.coverage_warning(judged.facts["brain_coverage"]), *check_limits(measured, calibration.limits))


def place(volume: Volume, bundle: Bundle, on_stage: OnStage = lambda _: None) -> Placed:
    """The scan in the bundle's box: all of the analysis that comes before the network. Raises Withheld."""
    limits = bundle.description.gates
    gates.check_volume(volume)
    head = upright(volume, on_stage)
    brain_ml = gates.check_brain(head, limits)
    registration = align(head, bundle.template, on_stage)
    gates.check_registration(registration, limits)
    coverage = gates.check_coverage(volume, registration, bundle.template, bundle.box, limits)
    box = boxed(volume, head, registration, bundle.box)
    if not box.mask.any():
        raise Withheld("brain_in_box", 0, "> 0 voxels", "no brain lies in the part of the head that is analysed")
    facts = {
        "brain_volume_ml": brain_ml,
        "registration_similarity": registration.similarity,
        "registration_scale": registration.scale,
        "brain_coverage": coverage,
    }
    percentiles = bundle.description.histogram.percentiles
    normalised = standardise(box, bundle.standard_knots, on_stage, percentiles=percentiles)
    return Placed(head, registration, box, normalised, facts)


def judge(
    placed: Placed,
    bundle: Bundle,
    *,
    runtime: Runtime,
    seed_text: str,
    mode: ScoreMode | None = None,
    on_stage: OnStage = lambda _: None,
) -> Judged:
    """The score of a placed scan: all of the analysis between the gates and the threshold.

    mode: None for the bundle's own.
    """
    on_stage(Stage.RECONSTRUCT)
    image, mask = placed.normalised.image, placed.box.mask
    seeds = field_seeds(seed_text, bundle.model.digest, len(bundle.description.reconstruction.levels))
    healthy = reconstruct(image, mask, bundle, seeds, runtime.torch_device)
    on_stage(Stage.SCORE)
    score = score_box(image, healthy, mask, bundle, mode)
    l1 = float(np.abs(image - healthy)[mask].mean(dtype=np.float64))
    facts = {**placed.facts, "reconstruction_l1": l1, **measure_scan(placed.normalised, placed.box, healthy, bundle)}
    return Judged(placed, healthy, score, volume_score(score, mask), seeds, runtime.torch_device, facts)


def rescore(judged: Judged, bundle: Bundle, mode: ScoreMode, normative: Normative | None = None) -> Judged:
    """The same scan and reconstruction, scored in another mode, or against other statistics than the bundle's."""
    mask = judged.placed.box.mask
    score = score_box(
        judged.placed.normalised.image, judged.reconstruction, mask, bundle, mode=mode, normative=normative
    )
    return replace(judged, score=score, scan_score=volume_score(score, mask))


def score_box(
    image: FloatMap,
    healthy: FloatMap,
    mask: BoolMap,
    bundle: Bundle,
    mode: ScoreMode | None = None,
    *,
    normative: Normative | None = None,
) -> FloatMap:
    """The score map in the box; mode and normative: None for the bundle's own."""
    settings = bundle.description.score
    if (mode or settings.mode) == "paper":
        return paper_score(image, healthy, mask)
    normative = normative or bundle.normative
    if normative is None:
        raise Broken(f"bundle {bundle.model.bundle_id} has no {NORMATIVE}: its score is the paper's alone")
    found = components(image, healthy, mask, tuple(settings.weights), settings.smooth_voxels)
    return normative_score(found, normative, mask, settings)


def onto_source(volume: Volume, judged: Judged, bundle: Bundle) -> SourceMaps:
    """The judged scan's maps on the source's grid; interpolated slices keep their score, and are never marked."""
    placed = judged.placed
    residual = smooth_inside(placed.normalised.image - judged.reconstruction, placed.box.mask, SIGN_SMOOTHING)
    in_source_units = placed.normalised.to_source(judged.reconstruction) + np.float32(placed.box.offset)
    maps = BoxMaps(judged.score, residual, in_source_units.astype(np.float32), placed.box.mask)
    brain = Volume(placed.head.brain.mask.astype(np.float32), placed.head.volume.grid)
    return map_back(maps, bundle.box, brain, placed.registration.template_to_source, volume.grid)


def _percentile(score: float, healthy: tuple[float, ...]) -> float:
    """Share of healthy scans with a lower score, in percent."""
    return 100.0 * float(np.searchsorted(np.sort(healthy), score)) / len(healthy) if healthy else 0.0
