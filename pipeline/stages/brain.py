"""Brain mask: taken from a volume that comes stripped, else by deepbet (whose weights ship inside its package)."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from anomalyd.pipeline.volume import BoolMap, FloatMap, Volume

STRIPPED_ZERO_SHARE = 0.2  # a stripped brain in its own bounding box still has this share of exact background
STRIPPED_MAX_ML = 2100.0  # more than any adult brain: then the non-zero region is a head
SHELL_MM = (2.0, 5.0)  # scalp in a head, cortex in a stripped brain
DEEP_MM = (8.0, 12.0)  # skull and below in a head, grey and white matter in a stripped brain
SHELL_RATIO = 1.15  # scalp fat is brighter than what lies below; cortex is not
BET_THRESHOLD = 0.5
FILL_MM = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class BrainMask:
    """Where the brain is, on the grid of the volume that was asked about, and who said so."""

    mask: BoolMap
    source: Literal["stripped", "deepbet"]


def brain_mask(upright: Volume) -> BrainMask:
    """The brain of an upright volume (see stages.orient); an empty mask where there is none."""
    tissue = _foreground(upright)
    if _is_stripped(upright, tissue):
        return BrainMask(tissue, "stripped")
    return BrainMask(_deepbet(upright.voxels), "deepbet")


def _foreground(upright: Volume) -> BoolMap:
    """Largest region above the background value, holes filled."""
    low = float(upright.voxels.min())
    high = float(np.percentile(upright.voxels, 99.9))
    return _largest_filled(upright.voxels > low + 1e-3 * (high - low), FILL_MM / float(upright.grid.spacing_mm[0]))


def _largest_filled(mask: BoolMap, close_voxels: float) -> BoolMap:
    """Largest 6-connected region, small gaps closed and holes filled (ventricles of a stripped brain may be 0)."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return np.zeros_like(mask)
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    rounds = max(1, round(close_voxels / 2))
    closed = ndimage.binary_closing(np.pad(largest, rounds), iterations=rounds)
    inner = closed[(slice(rounds, -rounds),) * 3]
    return np.asarray(ndimage.binary_fill_holes(inner | largest), dtype=np.bool_)


def _is_stripped(upright: Volume, tissue: BoolMap) -> bool:
    """True where the background is exact and what is left has the size of a brain and no bright shell."""
    low = float(upright.voxels.min())
    volume_ml = float(tissue.sum()) * upright.grid.voxel_volume_mm3 / 1000.0
    exact_share = float((upright.voxels == low).mean())
    if exact_share < STRIPPED_ZERO_SHARE or not 0.0 < volume_ml < STRIPPED_MAX_ML:
        return False
    spacing_mm = tuple(float(mm) for mm in upright.grid.spacing_mm)
    depth_mm = ndimage.distance_transform_edt(np.pad(tissue, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    shell = upright.voxels[(depth_mm >= SHELL_MM[0]) & (depth_mm < SHELL_MM[1])]
    deep = upright.voxels[(depth_mm >= DEEP_MM[0]) & (depth_mm < DEEP_MM[1])]
    if not shell.size or not deep.size:
        return False
    return float(np.median(shell) - low) < SHELL_RATIO * float(np.median(deep) - low)


def _deepbet(voxels: FloatMap) -> BoolMap:
    """The mask of deepbet's two networks, called on the array: no file is written, nothing is fetched.

    deepbet wants x to the right, y to the front, z up (RAS); ours is [z up, y to the back, x to the left].
    """
    if float(voxels.max()) <= float(voxels.min()):
        return np.zeros(voxels.shape, dtype=np.bool_)
    network = _network()
    ras = np.ascontiguousarray(voxels.transpose(2, 1, 0)[::-1, ::-1, :])
    try:
        probability = network.run_model(ras)
        mask = network.postprocess(probability > BET_THRESHOLD)
    except (AssertionError, ValueError):  # deepbet's way to say that it found no brain
        return np.zeros(voxels.shape, dtype=np.bool_)
    return np.ascontiguousarray((mask > 0)[::-1, ::-1, :].transpose(2, 1, 0))


@cache
def _network() -> Any:
    """deepbet's networks, loaded once per process."""
    from deepbet.bet import BrainExtraction  # noqa: PLC0415 - a second to load, not needed for stripped input

    return BrainExtraction(no_gpu=True)
