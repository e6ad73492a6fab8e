"""Connected regions above the threshold, numbered and measured on the source's grid."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from anomalyd.pipeline.finding import Lesion, PointLPS, Sign
from anomalyd.pipeline.stages.mapback import SourceMaps
from anomalyd.pipeline.volume import BoolMap, FloatMap, Grid

MIN_VOLUME_MM3 = 60.0  # more than seven voxels of 2 mm (METHOD section 3), whatever the source's voxels are
MAX_LESIONS = 200  # a map with more is flooded: the smallest peaks are left out, with a warning
TOUCHING = np.ones((3, 3, 3), dtype=np.bool_)  # 26 neighbours


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """labels: uint16, k for lesion k; lesions: by falling max_score; left_out: regions beyond MAX_LESIONS."""

    labels: NDArray[np.uint16]
    lesions: tuple[Lesion, ...]
    left_out: int


def regions(score: FloatMap, threshold: float, brain: BoolMap, unmarked_slices: tuple[int, ...]) -> NDArray[np.int32]:
    """Labels 1.. of 26-connected regions at or above the threshold, in the brain, off the unmarked slices."""
    above = (score >= threshold) & brain & (score > 0)
    if unmarked_slices:
        above[list(unmarked_slices)] = False
    labels = np.zeros(score.shape, dtype=np.int32)
    window = ndimage.find_objects(above.astype(np.uint8))
    if window:
        labels[window[0]] = ndimage.label(above[window[0]], structure=TOUCHING)[0]
    return labels


def large_regions(labels: NDArray[np.int32], grid: Grid) -> NDArray[np.int64]:
    """Labels of regions of at least MIN_VOLUME_MM3."""
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.flatnonzero(sizes * grid.voxel_volume_mm3 >= MIN_VOLUME_MM3)


def measure(maps: SourceMaps, grid: Grid, threshold: float, unmarked_slices: tuple[int, ...]) -> Measured:
    """The lesions of a score map."""
    score = maps.score
    found = regions(score, threshold, maps.brain, unmarked_slices)
    kept = large_regions(found, grid)
    peaks = np.asarray(ndimage.maximum(score, found, kept), dtype=np.float64).reshape(-1)
    # Equal peaks keep the order of their labels: the same input gives the same numbers.
    order = np.argsort(-peaks, kind="stable")
    chosen = kept[order][:MAX_LESIONS]
    labels = np.zeros(score.shape, dtype=np.uint16)
    windows = ndimage.find_objects(found)
    lesions = []
    for number, label in enumerate(chosen, start=1):
        window = windows[label - 1]
        inside = found[window] == label
        labels[window][inside] = number
        lesions.append(_lesion(number, inside, window, maps, grid))
    return Measured(labels, tuple(lesions), max(0, len(kept) - MAX_LESIONS))


def _lesion(number: int, inside: BoolMap, window: tuple[slice, slice, slice], maps: SourceMaps, grid: Grid) -> Lesion:
    """One region's numbers."""
    first = np.array([part.start for part in window])
    points = grid.to_lps(np.argwhere(inside) + first)
    half = np.abs(grid.index_to_lps[:3, :3]).sum(axis=1) / 2
    scores = maps.score[window][inside].astype(np.float64)
    brighter = float((maps.sign[window][inside] * scores).sum()) > 0
    return Lesion(
        number=number,
        volume_mm3=float(inside.sum()) * grid.voxel_volume_mm3,
        centroid_lps_mm=_point(points.mean(axis=0)),
        bounding_box_lps_mm=(_point(points.min(axis=0) - half), _point(points.max(axis=0) + half)),
        sign=Sign.HYPER if brighter else Sign.HYPO,
        mean_score=float(scores.mean()),
        max_score=float(scores.max()),
    )


def _point(values: NDArray[np.float64]) -> PointLPS:
    return float(values[0]), float(values[1]), float(values[2])
