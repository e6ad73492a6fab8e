"""Made-up lesions in healthy scans, on the scan's own grid: what tests and development are measured with."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.volume import BoolMap, FloatMap, Grid, Volume

BORDER_MM = 1.5  # a lesion's edge is this soft
STRENGTHS = {"subtle": 0.2, "medium": 0.4, "obvious": 0.7}
"""A lesion's change, as a share of the span between white matter and CSF (T1w, T2w), or of the tissue's level (FLAIR).

On T1w grey matter lies about 0.35 of that span below white: a subtle lesion of white matter stays brighter than cortex.
"""
KEPT_DETAIL = {"subtle": 0.7, "medium": 0.4, "obvious": 0.1}  # of the structure and the noise that lie under it
MOTTLE, MOTTLE_MM = 0.12, 4.0  # a lesion's slow unevenness: standard deviation as a share of its change, and width
GRAIN_MM = 0.8  # correlation of a lesion's own noise, which has the strength of the noise around
LOCAL_MM = 6.0  # what counts as around
FLUID_SHARE = 0.3  # of the span, from CSF on: nearer to CSF is fluid, which stays as it is and is no lesion,
FLUID_MM = 2.0  # unless it is thinner than this: sulci belong to a lesion, as experts draw them
PUSH_MM, PUSH_RIM_MM = 12.0, 10.0  # mass effect: falls to a third over the first, and to nothing at the brain's rim
LEAST_MOVE_MM = 1e-3
REACH_MM = 40.0  # around a lesion, beyond which nothing is looked at


@dataclass(frozen=True, slots=True, eq=False)
class Inserted:
    """A scan with a lesion, and the voxels that are more than half lesion."""

    volume: Volume
    mask: BoolMap


@dataclass(frozen=True, slots=True)
class Look:
    """How a lesion looks. sign: -1 dark, 1 bright; strength: a key of STRENGTHS; push_mm: mass effect at its rim."""

    sign: int
    strength: str
    push_mm: float = 0.0


@dataclass(frozen=True, slots=True)
class Levels:
    """Levels of a scan's tissues, in its own units. span: the change of a lesion of strength 1, above 0."""

    fluid: float
    white: float
    span: float


def insert_ellipsoid(
    volume: Volume, centre_lps_mm: tuple[float, float, float], semi_axes_mm: tuple[float, float, float], value: float
) -> Inserted:
    """The scan with an ellipsoid (axes along x, y, z) of one value and a soft border pasted in."""
    indices = np.indices(volume.grid.shape).reshape(3, -1).T
    offset = (volume.grid.to_lps(indices) - np.array(centre_lps_mm)) / np.array(semi_axes_mm)
    distance = np.linalg.norm(offset, axis=1).reshape(volume.grid.shape)
    softness = BORDER_MM / float(np.mean(semi_axes_mm))
    weight = np.clip((1.0 - distance) / softness + 0.5, 0.0, 1.0).astype(np.float32)
    voxels = volume.voxels + weight * (np.float32(value) - volume.voxels)
    return Inserted(Volume(voxels, volume.grid, volume.sources), np.asarray(weight > 0.5))  # noqa: PLR2004 - half


def tissue_levels(volume: Volume, brain: BoolMap, contrast: Contrast) -> Levels:
    """Levels by percentiles inside the brain, which is all that a lesion's strength needs."""
    low, quarter, middle, upper, high = (float(v) for v in np.percentile(volume.voxels[brain], [2, 25, 50, 85, 98]))
    least = 1e-3 * max(abs(high), 1e-6)
    if contrast is Contrast.T1W:
        return Levels(low, upper, max(upper - low, least))
    if contrast is Contrast.T2W:
        return Levels(high, quarter, max(high - quarter, least))
    return Levels(low, middle, max(middle, least))


def insert_lesion(
    volume: Volume, brain: BoolMap, weight: FloatMap, look: Look, *, levels: Levels, rng: Generator
) -> Inserted:
    """The scan with one lesion: shifted from the local tissue, textured, its surroundings pushed away if asked.

    weight: share of lesion in each voxel, 0..1, somewhere above 0 (partial volume). brain: on the scan's grid; nothing
    outside it changes. Fluid wider than FLUID_MM stays. The same for the same state of the generator.
    """
    window = _window(weight, volume.grid)
    spacing_mm = np.array(volume.grid.spacing_mm, dtype=np.float64)
    inside, share = brain[window], np.where(brain, weight, np.float32(0.0))[window]
    base = volume.voxels[window]
    if look.push_mm > 0:
        base = _pushed(base, share > 0.5, inside, look.push_mm, spacing_mm)  # noqa: PLR2004 - half
    fluid = _fluid(base, inside, levels, spacing_mm)
    share = np.where(fluid, np.float32(0.0), share)
    content = _content(base, inside & ~fluid, look, spacing_mm, levels=levels, rng=rng)
    voxels = volume.voxels.copy()
    voxels[window] = base + share * (content - base)
    mask = np.zeros(volume.grid.shape, dtype=np.bool_)
    mask[window] = share > 0.5  # noqa: PLR2004 - half
    return Inserted(replace(volume, voxels=voxels), mask)


def _window(weight: FloatMap, grid: Grid) -> tuple[slice, slice, slice]:
    """The part of the grid that a lesion can change, and what its surroundings are judged by."""
    where = np.argwhere(weight > 0)
    reach = np.ceil(REACH_MM / np.array(grid.spacing_mm, dtype=np.float64)).astype(np.int64)
    low = np.maximum(where.min(axis=0) - reach, 0)
    high = np.minimum(where.max(axis=0) + reach + 1, grid.shape)
    first, second, third = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return first, second, third


def _content(
    base: FloatMap, tissue: BoolMap, look: Look, spacing_mm: NDArray[np.float64], *, levels: Levels, rng: Generator
) -> FloatMap:
    """What stands in a voxel that is all lesion."""
    kept, change = KEPT_DETAIL[look.strength], look.sign * STRENGTHS[look.strength] * levels.span
    local = _mean_around(base, tissue, LOCAL_MM / spacing_mm)
    detail = base - local
    fine = detail - ndimage.gaussian_filter(detail, GRAIN_MM / spacing_mm)
    noise = 1.4826 * float(np.median(np.abs(fine[tissue]))) if tissue.any() else 0.0  # robust: edges are no noise
    mottle = 1.0 + MOTTLE * _texture(base.shape, MOTTLE_MM / spacing_mm, rng)
    grain = np.sqrt(1.0 - kept**2) * noise * _texture(base.shape, GRAIN_MM / spacing_mm, rng)
    shifted = local + kept * detail + change * mottle
    # No lesion is darker than fluid on T1w, nor brighter than fluid on T2w.
    bounded = np.maximum(shifted, levels.fluid) if look.sign < 0 else shifted
    if look.sign > 0 and levels.fluid > levels.white:
        bounded = np.minimum(bounded, levels.fluid)
    return np.asarray(np.maximum(bounded + grain, 0.5 * min(levels.fluid, levels.white)), dtype=np.float32)


def _mean_around(values: FloatMap, where: BoolMap, sigma: NDArray[np.float64]) -> FloatMap:
    """Gaussian mean over the voxels of `where` alone; sigma: (3,) voxels."""
    weight = ndimage.gaussian_filter(where.astype(np.float32), sigma, mode="constant")
    total = ndimage.gaussian_filter(np.where(where, values, np.float32(0.0)), sigma, mode="constant")
    return np.asarray(total / np.maximum(weight, 1e-3), dtype=np.float32)


def _texture(shape: tuple[int, ...], sigma: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
    """Correlated noise, mean 0 and standard deviation 1."""
    smooth = ndimage.gaussian_filter(rng.normal(0.0, 1.0, shape), sigma)
    return np.asarray((smooth - smooth.mean()) / max(float(smooth.std()), 1e-9))


def _fluid(base: FloatMap, inside: BoolMap, levels: Levels, spacing_mm: NDArray[np.float64]) -> BoolMap:
    """CSF that is wider than FLUID_MM: the ventricles and the large cisterns."""
    smooth = ndimage.gaussian_filter(base, 0.5 / spacing_mm)
    share = (smooth - levels.fluid) / (levels.white - levels.fluid) if levels.white != levels.fluid else smooth
    near = (share < FLUID_SHARE) & inside
    if not near.any():
        return np.asarray(near)
    core = ndimage.distance_transform_edt(near, sampling=spacing_mm) > FLUID_MM
    if not core.any():
        return np.zeros_like(near)
    return np.asarray(near & (ndimage.distance_transform_edt(~core, sampling=spacing_mm) <= FLUID_MM + 1.0))


def _pushed(
    base: FloatMap, core: BoolMap, inside: BoolMap, push_mm: float, spacing_mm: NDArray[np.float64]
) -> FloatMap:
    """The surroundings of the core moved away from it: most at its rim, not at all at the brain's."""
    if not core.any():
        return base
    distance_mm, nearest = ndimage.distance_transform_edt(~core, sampling=spacing_mm, return_indices=True)
    depth_mm = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
    away_mm = (np.indices(base.shape) - nearest) * spacing_mm[:, None, None, None]
    unit = away_mm / np.maximum(distance_mm, 1e-6)
    falls = np.exp(-distance_mm / PUSH_MM) * np.clip(1.0 - distance_mm / REACH_MM, 0.0, 1.0)
    amount_mm = push_mm * falls * np.clip(depth_mm / PUSH_RIM_MM, 0.0, 1.0)
    moves = [ndimage.gaussian_filter(along * amount_mm, 2.0 / spacing_mm) for along in unit]  # no folds, no seams
    source = [k - move / mm for k, move, mm in zip(np.indices(base.shape), moves, spacing_mm, strict=True)]
    moved = ndimage.map_coordinates(base, source, order=3, mode="nearest")
    kept = np.clip(moved, base[inside].min(), base[inside].max())  # splines overshoot at the brain's rim
    is_moved = inside & (np.linalg.norm(moves, axis=0) > LEAST_MOVE_MM)
    return np.where(is_moved, kept, base).astype(np.float32)
