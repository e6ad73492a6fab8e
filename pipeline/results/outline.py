"""The worst slice of each lesion, and the lesion's outline there."""

from dataclasses import dataclass

import numpy as np
from contourpy import contour_generator
from matplotlib.path import Path
from numpy.typing import NDArray
from scipy import ndimage

from anomalyd.pipeline.finding import Finding

PixelPoints = NDArray[np.float64]
"""(n, 2) column and row; 0.5, 0.5 is the middle of the first pixel (PS3.3 C.18.6.1.1)."""
_HALF = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class WorstSlice:
    """Where a lesion's score is highest. outline: closed (first point again at the end), around the part of the lesion
    in this slice that holds the peak; holes are not left out."""

    index: int
    """Slice of the volume."""
    outline: PixelPoints


def worst_slices(finding: Finding) -> tuple[WorstSlice, ...]:
    """One for each lesion, in their order; each lesion must have voxels in the labels."""
    windows = ndimage.find_objects(finding.labels.astype(np.int32))
    return tuple(_worst(finding, lesion.number, windows[lesion.number - 1]) for lesion in finding.lesions)


def _worst(finding: Finding, number: int, window: tuple[slice, ...]) -> WorstSlice:
    inside = finding.labels[window] == number
    scores = np.where(inside, finding.score_map[window], -np.inf)
    k, row, column = (int(i) for i in np.unravel_index(int(np.argmax(scores)), scores.shape))
    first = np.array([part.start for part in window])
    outline = _outline(inside[k], row, column)
    return WorstSlice(int(first[0]) + k, outline + np.array([first[2], first[1]]))


def _outline(inside: NDArray[np.bool_], row: int, column: int) -> PixelPoints:
    """Half-way between the pixels of the part that holds (row, column) and their neighbours."""
    parts, _ = ndimage.label(inside, structure=np.ones((3, 3), dtype=np.bool_))
    part = np.pad(parts == parts[row, column], 1).astype(np.float64)
    lines = contour_generator(z=part).lines(_HALF)
    points = max(
        (np.asarray(line) for line in lines),
        key=lambda line: Path(line).contains_point((column + 1, row + 1)) * len(line),
    )
    return np.asarray(points, dtype=np.float64) - 1.0 + _HALF
