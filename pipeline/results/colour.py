"""Colours of scores: warm, transparent where nothing is to be said, one scale fixed to the threshold."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anomalyd.pipeline.volume import FloatMap

RGB8 = NDArray[np.uint8]

TOP_IN_THRESHOLDS: Final = 2.0  # the scale runs from 0 to twice the threshold: one colour means one thing in all scans
CONTOUR_RGB: Final = (255, 255, 120)
LEVELS: Final = 256
_STOPS = (  # part of the scale, RGB, opacity; the threshold is at 0.5
    (0.00, (60, 0, 0), 0.0),
    (0.20, (90, 0, 0), 0.0),
    (0.50, (200, 20, 0), 0.50),
    (0.75, (255, 110, 0), 0.62),
    (1.00, (255, 215, 40), 0.72),
)


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


def colour_table() -> tuple[RGB8, NDArray[np.uint16]]:
    """(256, 3) RGB and (256,) opacity in 0..256, both by level."""
    at = np.linspace(0.0, 1.0, LEVELS)
    places = [place for place, _, _ in _STOPS]
    channels = [np.interp(at, places, [rgb[channel] for _, rgb, _ in _STOPS]) for channel in range(3)]
    opacity = np.interp(at, places, [alpha for _, _, alpha in _STOPS])
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8), np.rint(opacity * 256).astype(np.uint16)
