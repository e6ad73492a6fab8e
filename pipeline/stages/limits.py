"""Whether a scan lies within what the bundle was calibrated on: a few numbers of it, against those of healthy scans.

Each criterion has two limits, stated in calibration.json: beyond the first the reader is warned, beyond the second the
scan is withheld. What they catch, and how rarely a good scan: docs/decisions/0080-limits.md. Numbers are of the
normalised image in the box, and of its reconstruction. A large lesion must pass: hence medians, of voxels or of blocks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from anomalyd.errors import Withheld
from anomalyd.pipeline.bundle import Bundle, Limit
from anomalyd.pipeline.stages.normalise import Normalised
from anomalyd.pipeline.stages.normative import smooth_inside
from anomalyd.pipeline.stages.orient import resample
from anomalyd.pipeline.stages.prepare import Boxed
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.volume import BoolMap, FloatMap, Volume

BAND_MM = (3.0, 8.0)  # Gaussians between which cortex, ventricles and nuclei show, and neither noise nor shading
BLOCK_MM = 32.0  # a lesion fills less than half of such blocks
BLOCK_SHARE = 0.2  # of a block's voxels that must be brain
RIM_MM = 6.0  # of the brain, which is left out: masks differ there
FLAT_SHARE = 0.25  # of the template's inner brain, where it has the least edges: noise is seen there
MIN_VOXELS = 200
MARKED_RATE = 0.05  # the voxel rate by whose threshold a flooded map is told
MARKED = Limit(median=MARKED_RATE, spread=0.035, warn=(None, 0.20), withhold=(None, None))
"""Share of the brain above it; the same for every bundle, for that is what a voxel rate is. Nothing is withheld: a
lesion of 250 ml marks as much (0.3 to 0.6, with its surroundings and its mirror image) as another contrast."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """One number of a scan, and how far from the median of healthy scans it may lie, in their robust spreads.

    low, high: (warned about beyond, withheld beyond), None for no limit. A spread counts at least least_spread, or
    least_share of the median: a few scans of one scanner must not narrow it to themselves. And at most most_spread.
    """

    name: str
    low: tuple[float | None, float | None]
    high: tuple[float | None, float | None]
    low_text: str
    high_text: str
    least_spread: float = 0.0
    least_share: float = 0.0
    most_spread: float = math.inf


NONE = (None, None)
CRITERIA = (
    Criterion(
        "structure_agreement", (4.0, 12.0), NONE,
        "the brain's structure agrees less with the healthy template's than that of healthy scans: another contrast, "
        "motion, or a failed registration or brain mask", "",
        least_spread=0.03, most_spread=0.04,
    ),
    Criterion(
        "reconstruction_error", NONE, (4.0, 9.0), "",
        "the scan differs more from its healthy reconstruction than healthy scans: another contrast, an artefact",
        least_share=0.12,
    ),
    Criterion(
        "noise", (3.3, None), (4.0, 10.0),
        "the scan is smoother than healthy scans: small lesions may not show",
        "the scan is noisier than healthy scans",
        least_spread=0.033,  # of T1w scans of nine scanners; T2w calibrated on one protocol must not be stricter
    ),
    Criterion(
        "brightest_tissue", NONE, (4.0, None), "",
        "parts of the brain are brighter than any of a healthy one: contrast agent, blood, fat or a bright lesion",
        least_share=0.07,
    ),
    Criterion(
        "registration_scale", (2.5, None), (2.5, None),
        "the brain is smaller than those of healthy adults: a child, or a part of it is missing",
        "the brain is larger than those of healthy adults: or more than the brain was taken for it",
        least_spread=0.12,
    ),
    Criterion(
        "marked_share", NONE, NONE, "",
        f"much more of the brain is marked than the {MARKED_RATE:.0%} of a healthy one: the map is flooded",
    ),
)  # fmt: skip


def measure_scan(normalised: Normalised, box: Boxed, healthy: FloatMap, bundle: Bundle) -> dict[str, float]:
    """The criteria's numbers that the box shows; one that cannot be had is left out. healthy: the reconstruction."""
    mask = box.mask
    return {
        "structure_agreement": _structure(normalised.image, mask, bundle),
        "reconstruction_error": float(np.median(np.abs(normalised.image - healthy)[mask])),
        **_noise(normalised.image, mask, bundle),
        **_brightest(normalised, box, bundle),
    }


def marked_share(scores: NDArray[np.float32], threshold: float | None) -> dict[str, float]:
    """The number that tells a flooded map; empty where it cannot be had.

    scores: of the brain's voxels; threshold: what MARKED_RATE of healthy ones reach, None where it is not calibrated.
    """
    if threshold is None or not scores.size:
        return {}
    return {"marked_share": float((scores >= threshold).mean())}


def limits_of(scans: Sequence[Mapping[str, float]]) -> dict[str, Limit]:
    """The limits that healthy scans set, by criterion."""
    limits = {"marked_share": MARKED} if scans else {}
    for criterion in CRITERIA:
        values = np.array([scan[criterion.name] for scan in scans if criterion.name in scan])
        if criterion.name in limits or not len(values):
            continue
        median = float(np.median(values))
        spread = 1.4826 * float(np.median(np.abs(values - median)))  # the standard deviation, were they normal
        spread = max(min(spread, criterion.most_spread), criterion.least_spread, criterion.least_share * abs(median))
        (warn_low, withhold_low), (warn_high, withhold_high) = (
            [None if k is None else _short(median + side * k * spread) for k in away]
            for side, away in ((-1.0, criterion.low), (1.0, criterion.high))
        )
        limits[criterion.name] = Limit(
            median=_short(median),
            spread=_short(spread),
            warn=(warn_low, warn_high),
            withhold=(withhold_low, withhold_high),
        )
    return limits


def check_limits(measured: Mapping[str, float], limits: Mapping[str, Limit]) -> tuple[str, ...]:
    """Warnings, in order of the criteria; raises Withheld for a scan beyond a limit of the second kind."""
    warnings = []
    for criterion in CRITERIA:
        value, limit = measured.get(criterion.name), limits.get(criterion.name)
        if value is None or limit is None:
            continue
        for at, text, word in ((0, criterion.low_text, "at least"), (1, criterion.high_text, "at most")):
            side = -1.0 if at == 0 else 1.0
            for bound, is_last in ((limit.withhold[at], True), (limit.warn[at], False)):
                if bound is None or side * value <= side * bound:
                    continue
                told = f"{text} ({criterion.name.replace('_', ' ')} {value:.3f}, {word} {bound:.3f} is expected)"
                if is_last:
                    raise Withheld(criterion.name, _short(value), bound, told)
                warnings.append(told)
                break
    return tuple(warnings)


@dataclass(frozen=True, slots=True, eq=False)
class _Reference:
    """What a scan is held against, in the box: the template's structure, its inner brain, the flat part of that."""

    structure: FloatMap
    inside: BoolMap
    flat: BoolMap


@lru_cache(maxsize=4)
def _reference(bundle: Bundle) -> _Reference:
    template, spacing_mm = bundle.template, bundle.description.box.spacing_mm
    image = resample(template.brain, bundle.box)
    mask = resample(Volume(template.mask.astype(np.float32), template.brain.grid), bundle.box) > 0.5  # noqa: PLR2004 - half
    inside = _inner(mask, spacing_mm)
    gradient = ndimage.gaussian_gradient_magnitude(image, 2.0 / spacing_mm)
    flat = inside & (gradient <= np.quantile(gradient[inside], FLAT_SHARE)) if inside.any() else inside
    return _Reference(_band(image, mask, spacing_mm), inside, flat)


def _structure(image: FloatMap, mask: BoolMap, bundle: Bundle) -> float:
    """Median over blocks of the correlation between scan and template in BAND_MM; 0 without any block of brain."""
    reference, spacing_mm = _reference(bundle), bundle.description.box.spacing_mm
    where = _inner(mask, spacing_mm) & reference.inside
    found = _band(image, mask, spacing_mm)
    side = max(1, round(BLOCK_MM / spacing_mm))
    agreements = []
    for corner in np.ndindex(*(math.ceil(n / side) for n in image.shape)):
        block = tuple(slice(k * side, (k + 1) * side) for k in corner)
        inside = where[block]
        if inside.sum() < BLOCK_SHARE * side**3:
            continue
        ours, theirs = found[block][inside], reference.structure[block][inside]
        if ours.std() > 0 and theirs.std() > 0:
            agreements.append(float(np.corrcoef(ours, theirs)[0, 1]))
    return float(np.median(agreements)) if agreements else 0.0


def _noise(image: FloatMap, mask: BoolMap, bundle: Bundle) -> dict[str, float]:
    """Robust spread of the Laplacian where the template is flat."""
    where = _inner(mask, bundle.description.box.spacing_mm) & _reference(bundle).flat
    if where.sum() < MIN_VOXELS:
        return {}
    values = ndimage.laplace(image)[where]
    return {"noise": 1.4826 * float(np.median(np.abs(values - np.median(values))))}


def _brightest(normalised: Normalised, box: Boxed, bundle: Bundle) -> dict[str, float]:
    """How far the brightest thousandth lies above the median, where the brightest tenth begins at 1; before the
    histogram is standardised, which hides it. T1w alone: elsewhere fluid or lesions are the brightest by nature.
    """
    if bundle.model.contrast is not Contrast.T1W:
        return {}
    middle, upper, top = np.percentile((box.image / np.maximum(normalised.bias, 1e-6))[box.mask], [50.0, 90.0, 99.9])
    return {"brightest_tissue": float((top - middle) / max(upper - middle, 1e-6 * abs(top), 1e-12))}


def _band(image: FloatMap, mask: BoolMap, spacing_mm: float) -> FloatMap:
    """What lies between the two Gaussians, over the voxels of the mask alone."""
    fine, coarse = (smooth_inside(image, mask, mm / spacing_mm) for mm in BAND_MM)
    return np.asarray(fine - coarse)


def _inner(mask: BoolMap, spacing_mm: float) -> BoolMap:
    """The mask without its rim."""
    return np.asarray(ndimage.binary_erosion(mask, iterations=max(1, round(RIM_MM / spacing_mm))))


def _short(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
