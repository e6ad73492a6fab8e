"""Maps of the box brought onto the source's own voxels, once, by linear interpolation."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from anomalyd.pipeline.stages.orient import resample
from anomalyd.pipeline.volume import Affine, BoolMap, FloatMap, Grid, Volume

MASK_SHARE = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class SourceMaps:
    """Everything on the source's grid [slice, row, column]; 0 or False outside the brain."""

    score: FloatMap
    sign: np.ndarray[tuple[int, ...], np.dtype[np.int8]]
    reconstruction: FloatMap
    brain: BoolMap


@dataclass(frozen=True, slots=True, eq=False)
class BoxMaps:
    """What the box knows: the score, the smoothed signed residual, and the reconstruction in source intensities."""

    score: FloatMap
    residual: FloatMap
    reconstruction: FloatMap
    mask: BoolMap


def map_back(maps: BoxMaps, box: Grid, brain: Volume, template_to_source: Affine, grid: Grid) -> SourceMaps:
    """Score, sign, reconstruction and brain on the source's grid.

    brain: the mask (0 or 1) on the upright grid. Work is done in the brain's bounding box alone.
    """
    low, part = _brain_part(brain, grid)
    to_template: Affine = np.linalg.inv(template_to_source).astype(np.float64)
    inside = resample(brain, part) >= MASK_SHARE
    score = np.where(inside, np.maximum(resample(Volume(maps.score, box), part, to_template), 0.0), 0.0)
    residual = np.where(inside, resample(Volume(maps.residual, box), part, to_template), 0.0)
    filled = _filled(maps.reconstruction, maps.mask)
    healthy = np.where(inside, resample(Volume(filled, box), part, to_template), 0.0)
    window = tuple(slice(int(a), int(a) + n) for a, n in zip(low, part.shape, strict=True))
    out = SourceMaps(
        np.zeros(grid.shape, dtype=np.float32),
        np.zeros(grid.shape, dtype=np.int8),
        np.zeros(grid.shape, dtype=np.float32),
        np.zeros(grid.shape, dtype=np.bool_),
    )
    out.score[window], out.reconstruction[window], out.brain[window] = score, healthy, inside
    out.sign[window] = np.sign(residual).astype(np.int8)
    return out


def _brain_part(brain: Volume, grid: Grid) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], Grid]:
    """First index and grid of the part of the source that holds the brain."""
    points = brain.grid.to_lps(np.argwhere(brain.voxels > 0))
    index = grid.to_index(points)
    margin = 1.0 + float(brain.grid.spacing_mm[0]) / np.array(grid.spacing_mm, dtype=np.float64)
    low = np.clip(np.floor(index.min(axis=0) - margin), 0, np.array(grid.shape) - 1).astype(np.int64)
    high = np.clip(np.ceil(index.max(axis=0) + margin), low, np.array(grid.shape) - 1).astype(np.int64)
    matrix = grid.index_to_lps.copy()
    matrix[:3, 3] = grid.to_lps(low)
    size = high - low + 1
    return low, Grid((int(size[0]), int(size[1]), int(size[2])), matrix)


def _filled(values: FloatMap, mask: BoolMap) -> FloatMap:
    """Values beyond the mask taken from the nearest brain voxel: interpolation at the rim does not fade to black."""
    if mask.all() or not mask.any():
        return values
    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return np.asarray(values[tuple(nearest)], dtype=np.float32)
