"""Where a slice lies, in words."""

from typing import Final

import numpy as np

from anomalyd.pipeline.volume import Grid

TOWARDS: Final = (("R", "L"), ("A", "P"), ("I", "S"))
"""Letters for negative and positive x, y, z of LPS."""


def place_of(grid: Grid, index: int) -> str:
    """`slice 81/176  S 24.0 mm`: number along the stack and where the middle of the slice lies on its main axis."""
    normal = grid.index_to_lps[:3, 0]
    axis = int(np.argmax(np.abs(normal)))
    middle = grid.to_lps(np.array([index, (grid.shape[1] - 1) / 2, (grid.shape[2] - 1) / 2]))
    mm = round(float(middle[axis]), 1) + 0.0
    return f"slice {index + 1}/{grid.shape[0]}  {TOWARDS[axis][mm >= 0]} {abs(mm):.1f} mm"
