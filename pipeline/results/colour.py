"""Colours of scores: warm, each brighter than the one before, transparent where nothing is to be said."""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anomalyd.pipeline.volume import FloatMap

RGB8 = NDArray[np.uint8]

TOP_IN_THRESHOLDS: Final = 2.0  # the scale runs from 0 to twice the threshold: one colour means one thing in all scans
CONTOUR_RGB: Final = (255, 255, 120)
LEVELS: Final = 256
_MAP: Final = "inferno"  # equal steps of score are equal steps of lightness, also for those who see no red
_FIRST, _LAST = 0.42, 0.90  # its warm part; what is below is violet, what is above nearly the white of bright tissue
_OPACITY = ((0.00, 0.0), (0.25, 0.0), (0.49, 0.34), (0.50, 0.55), (0.75, 0.68), (1.00, 0.78))
"""Part of the scale, opacity; the threshold is at 0.5, where it jumps: what is marked is seen at once."""


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """Scores to levels 0..255 of the colour table, for one threshold."""

    threshold: float

    @property
    def top(self) -> float:
        """The score at and above which the colour is the last one."""
        return TOP_IN_THRESHOLDS * self.threshold if self.threshold > 0 else 1.0

    def levels(self, scores: FloatMap) -> NDArray[np.uint8]:
        """Level of each score; same shape."""
        scaled = scores * np.float32((LEVELS - 1) / self.top)
        return np.asarray(np.clip(scaled, 0, LEVELS - 1), dtype=np.uint8)


@cache
def colour_table() -> tuple[RGB8, NDArray[np.uint16]]:
    """(256, 3) RGB and (256,) opacity in 0..256, both by level; not to be written to."""
    from matplotlib import colormaps  # noqa: PLC0415 - half a second, for processes that paint alone

    colours = colormaps[_MAP](np.linspace(_FIRST, _LAST, LEVELS))[:, :3]
    places, opacities = zip(*_OPACITY, strict=True)
    opacity = np.interp(np.linspace(0.0, 1.0, LEVELS), places, opacities)
    table = np.rint(colours * 255).astype(np.uint8), np.rint(opacity * 256).astype(np.uint16)
    for array in table:
        array.flags.writeable = False
    return table
