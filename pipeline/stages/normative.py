"""What is compared with healthy people, voxel by voxel: z-scores of components against the bundle's statistics.

Components, each smoothed: `ssim` = 1 - SSIM-ens; `residual` = image - reconstruction; `intensity` = the image itself,
the detector without a network of METHOD section 9; `residual_asymmetry` and `intensity_asymmetry` = what the two have
more of than their mirror image in the symmetrical template. All but ssim are signed.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from anomalyd.pipeline.bundle import Normative, ScoreSettings
from anomalyd.pipeline.stages.score import erode, ssim_ensemble
from anomalyd.pipeline.volume import BoolMap, FloatMap

SIGNED = ("residual", "intensity", "residual_asymmetry", "intensity_asymmetry")
COMPONENTS = ("ssim", *SIGNED)
SPREAD_FLOOR = {
    "ssim": 0.03, "residual": 0.02, "intensity": 0.04, "residual_asymmetry": 0.02, "intensity_asymmetry": 0.03,
}  # fmt: skip
ASYMMETRY_SMOOTHING = 1.5  # times that of the others: gyri of two halves never lie on each other


def components(
    image: FloatMap, reconstruction: FloatMap, mask: BoolMap, names: tuple[str, ...], smooth_voxels: float
) -> dict[str, FloatMap]:
    """The named maps of one scan."""
    residual = ((image - reconstruction) * mask).astype(np.float32)
    made: dict[str, FloatMap] = {}
    for name in names:
        if name == "ssim":
            raw = ((1.0 - ssim_ensemble(image, reconstruction)) * mask).astype(np.float32)
            made[name] = smooth_inside(raw, mask, smooth_voxels)
        elif name in ("residual", "intensity"):
            made[name] = smooth_inside(residual if name == "residual" else image, mask, smooth_voxels)
        else:
            raw = residual if name == "residual_asymmetry" else image
            made[name] = asymmetry(raw, mask, ASYMMETRY_SMOOTHING * smooth_voxels)
    return made


def asymmetry(values: FloatMap, mask: BoolMap, sigma: float) -> FloatMap:
    """Values minus their mirror image, smoothed; 0 where either side is no brain.

    The box is symmetrical about the template's midsagittal plane, and the template is symmetrical (METHOD section 9).
    """
    both = mask & mask[:, :, ::-1]
    return smooth_inside(np.where(both, values - values[:, :, ::-1], 0.0).astype(np.float32), both, sigma)


def smooth_inside(values: FloatMap, mask: BoolMap, sigma: float) -> FloatMap:
    """Gaussian mean over the voxels of the mask alone; 0 outside."""
    if sigma <= 0:
        return np.where(mask, values, np.float32(0.0)).astype(np.float32)
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=3.0)
    total = ndimage.gaussian_filter(np.where(mask, values, np.float32(0.0)).astype(np.float32), sigma, truncate=3.0)
    return np.where(mask, total / np.maximum(weight, 1e-3), 0.0).astype(np.float32)


def normative_score(
    found: dict[str, FloatMap], normative: Normative, mask: BoolMap, settings: ScoreSettings
) -> FloatMap:
    """Weighted sum of z-scores, >= 0, 0 outside the eroded mask.

    A signed component counts with settings.darker below the healthy mean and with settings.brighter above it: on T1w
    most lesions are dark, on T2w and FLAIR bright (METHOD section 9: signed maps nearly always beat absolute ones).
    """
    total = np.zeros(mask.shape, dtype=np.float32)
    for name, weight in settings.weights.items():
        z = (found[name] - normative.mean[name]) / normative.spread[name]
        if name in SIGNED:
            z = np.where(z < 0, np.float32(-settings.darker) * z, np.float32(settings.brighter) * z)
        total += np.float32(weight) * z
    inside = erode(mask, settings.erode_voxels)
    total = smooth_inside(total, mask, settings.blur_voxels)
    return np.where(inside, np.maximum(total, 0.0), 0.0).astype(np.float32)


def statistics(
    scans: list[dict[str, FloatMap]],
    masks: list[BoolMap],
    smooth_voxels: float = 1.0,
    weights: Sequence[float] | None = None,
) -> Normative:
    """Mean and spread of each component over healthy scans, where a voxel is brain; smoothed, spread floored.

    weights: how much each scan counts, 1 for each where not given.
    """
    counts = np.ones(len(scans), np.float32) if weights is None else np.asarray(weights, np.float32)
    shares = [count * mask.astype(np.float32) for count, mask in zip(counts, masks, strict=True)]
    weight = np.sum(shares, axis=0)
    freedom = weight - np.sum([share**2 for share in shares], axis=0) / np.maximum(weight, 1e-6)
    least = float(counts.min())
    known = np.sum(masks, axis=0) >= 3  # noqa: PLR2004 - two values give no spread
    mean: dict[str, FloatMap] = {}
    spread: dict[str, FloatMap] = {}
    for name in scans[0]:
        total = np.sum([np.where(w, w * s[name], 0.0) for s, w in zip(scans, shares, strict=True)], axis=0)
        centre = total / np.maximum(weight, least)
        squares = np.sum(
            [np.where(w, w * (s[name] - centre) ** 2, 0.0) for s, w in zip(scans, shares, strict=True)], axis=0
        )
        variance = squares / np.maximum(freedom, 1.0)
        typical = float(np.median(variance[known])) if known.any() else 1.0
        variance = np.where(known, variance, 4.0 * typical)
        floor = SPREAD_FLOOR[name]
        mean[name] = smooth_inside(centre.astype(np.float32), weight > 0, smooth_voxels)
        smooth = ndimage.gaussian_filter(variance.astype(np.float32), smooth_voxels, truncate=3.0)
        spread[name] = np.maximum(np.sqrt(smooth), floor).astype(np.float32)
    return Normative(mean, spread)
