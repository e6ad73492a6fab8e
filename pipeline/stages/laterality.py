"""On which side of the brain each region lies, told by the template's plane of symmetry."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from anomalyd.pipeline.finding import Laterality, Lesion
from anomalyd.pipeline.volume import Affine, Grid

MIDSAGITTAL_X_MM: Final = 0.0
"""The template is the mean of brains and their mirror images, so x = 0 is its midsagittal plane (train/template.py)."""
ONE_SIDE: Final = 0.9
"""Share of a region on one side that names it; the affine leaves the falx within some millimetres of the plane."""


def lateralised(
    lesions: Sequence[Lesion], labels: NDArray[np.uint16], grid: Grid, template_to_source: Affine
) -> tuple[Lesion, ...]:
    """The lesions with the patient's side that each lies on (x of LPS grows to the left).

    labels: k for lesion k, on grid. template_to_source: (4, 4) template LPS mm -> source LPS mm.
    """
    to_template = np.linalg.inv(template_to_source)
    windows = ndimage.find_objects(labels.astype(np.int32, copy=False)) if lesions else []
    placed = []
    for lesion in lesions:
        window = windows[lesion.number - 1]
        first = np.array([part.start for part in window])
        points = grid.to_lps(np.argwhere(labels[window] == lesion.number) + first)
        x = points @ to_template[0, :3] + to_template[0, 3]
        placed.append(replace(lesion, laterality=_side(float(np.mean(x > MIDSAGITTAL_X_MM)))))
    return tuple(placed)


def _side(share_left: float) -> Laterality:
    if share_left >= ONE_SIDE:
        return Laterality.LEFT
    return Laterality.RIGHT if 1 - share_left >= ONE_SIDE else Laterality.BOTH
