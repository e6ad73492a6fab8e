"""SSIM-ens, exactly as published (METHOD section 3), as three banded matrix products per scale.

x: original, y: reconstruction, s: scale; w_s = exp(-SSIM_s) / sum exp(-SSIM_s). All maps are float32
[slice, row, column] in the box; SSIM is three-dimensional, isotropic in voxels.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from anomalyd.pipeline.volume import BoolMap, FloatMap

SIGMAS = (0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7)
K1, K2 = 0.01, 0.03
EROSION_ROUNDS = 3  # width // 25 at 96 pixels
MEDIAN_SIZE = 5
SMALL_VOXELS = 7  # components of at most this many voxels are dropped


def paper_score(original: FloatMap, reconstruction: FloatMap, mask: BoolMap) -> FloatMap:
    """(1 - SSIM-ens) inside the eroded mask, median filtered: 0..2, 0 outside.

    What both volumes hold outside the mask has no part in it. The published code masks the original alone, and trusts
    the network with the background.
    """
    inside = [np.where(mask, values, np.float32(0.0)) for values in (original, reconstruction)]
    dissimilarity = (1.0 - ssim_ensemble(*inside)) * mask
    return median(dissimilarity * erode(mask, EROSION_ROUNDS))


def volume_score(score_map: FloatMap, mask: BoolMap) -> float:
    """Mean of a score map over the un-eroded mask."""
    return float(score_map[mask].mean(dtype=np.float64)) if mask.any() else 0.0


def ssim_ensemble(original: FloatMap, reconstruction: FloatMap) -> FloatMap:
    """Mean over scales, each voxel weighing the scale that disagrees most the highest."""
    total = weight_sum = None
    for ssim in ssim_maps(original, reconstruction):
        weight = torch.exp(-ssim)
        total = weight * ssim if total is None else total + weight * ssim
        weight_sum = weight if weight_sum is None else weight_sum + weight
    if total is None or weight_sum is None:
        raise ValueError("no scales")
    return np.asarray((total / weight_sum).numpy(), dtype=np.float32)


def ssim_maps(original: FloatMap, reconstruction: FloatMap) -> Iterator[Tensor]:
    """One SSIM map for each of SIGMAS; data range = the larger of both volumes' max - min."""
    data_range = max(float(np.ptp(original)), float(np.ptp(reconstruction)))
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    x = torch.from_numpy(np.ascontiguousarray(original, dtype=np.float32))
    y = torch.from_numpy(np.ascontiguousarray(reconstruction, dtype=np.float32))
    moments = torch.stack([x, y, x * x + y * y, x * y])  # SSIM needs no more than the sum of the variances
    for sigma in SIGMAS:
        mean_x, mean_y, mean_squares, mean_product = _blur(moments, sigma).unbind(0)
        product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
        covariance, variances = mean_product - product, mean_squares - squares
        yield (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


def _blur(stack: Tensor, sigma: float) -> Tensor:
    """Gaussian of a (n, slices, rows, columns) stack along its last three axes, mirrored edges."""
    count, slices, rows, columns = stack.shape
    along_columns = stack @ _band(columns, sigma).T
    along_rows = _band(rows, sigma) @ along_columns
    flat = along_rows.reshape(count, slices, rows * columns)
    return (_band(slices, sigma) @ flat).reshape(stack.shape)


@lru_cache(maxsize=64)
def _band(length: int, sigma: float) -> Tensor:
    """(length, length) float32: Gaussian of radius int(3.5 sigma + 0.5), sum 1, edges mirrored without repeating."""
    radius = int(3.5 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    matrix = np.zeros((length, length))
    for k in range(length):
        for offset, weight in zip(offsets, kernel, strict=True):
            matrix[k, _mirrored(k + int(offset), length)] += weight
    return torch.from_numpy(matrix.astype(np.float32))


def _mirrored(index: int, length: int) -> int:
    """numpy's 'reflect': -1 is 1, length is length - 2."""
    period = max(1, 2 * (length - 1))
    index %= period
    return index if index < length else period - index


def erode(mask: BoolMap, rounds: int) -> BoolMap:
    """Per axial slice: a voxel stays where its four neighbours are in the mask; outside the image counts as not."""
    if rounds == 0:
        return mask
    cross = np.zeros((3, 3, 3), dtype=np.bool_)
    cross[1, :, 1] = cross[1, 1, :] = True
    return np.asarray(ndimage.binary_erosion(mask, cross, iterations=rounds, border_value=0))


def median(score_map: FloatMap) -> FloatMap:
    """5 x 5 x 5 median, edge voxels repeated.

    Selected slice by slice, where not all is zero: the values of scipy's median_filter, in a fourth of its time.
    """
    reach = MEDIAN_SIZE // 2
    near = ndimage.maximum_filter(score_map != 0, size=MEDIAN_SIZE)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(score_map, reach, "symmetric"), (MEDIAN_SIZE,) * 3)
    middle = MEDIAN_SIZE**3 // 2
    out = np.zeros(score_map.shape, dtype=np.float32)
    for k, where in enumerate(near):
        values = windows[k][where].reshape(-1, MEDIAN_SIZE**3)
        out[k][where] = np.partition(values, middle, axis=1)[:, middle]
    return out


def without_small(binary: BoolMap, at_most: int = SMALL_VOXELS) -> BoolMap:
    """The 26-connected components of more than `at_most` voxels."""
    labels, _ = ndimage.label(binary, structure=np.ones((3, 3, 3)))
    sizes: NDArray[np.int64] = np.bincount(labels.ravel())
    keep = sizes > at_most
    keep[0] = False
    return np.asarray(keep[labels], dtype=np.bool_)
