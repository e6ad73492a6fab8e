"""Pictures of slices: the source as its window shows it, the score over it, the mask's outline."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomalyd.pipeline.results.colour import CONTOUR_RGB, RGB8, ScoreScale, colour_table
from anomalyd.pipeline.volume import BoolMap, FloatMap

GREY_LEVELS = 255
_LOW_PERCENTILE, _HIGH_PERCENTILE = 1.0, 99.5
_MOST_SATURATED = 0.5  # of the brain; a window that whitens or blackens more shows nothing


@dataclass(frozen=True, slots=True)
class Window:
    """Intensities shown as black and as white."""

    black: float
    white: float

    def grey(self, voxels: FloatMap) -> NDArray[np.uint8]:
        """0..255, same shape."""
        scaled = (voxels - np.float32(self.black)) * np.float32(GREY_LEVELS / (self.white - self.black))
        return np.asarray(np.clip(scaled, 0, GREY_LEVELS), dtype=np.uint8)


def choose_window(stated: tuple[float, float] | None, voxels: FloatMap, brain: BoolMap) -> Window:
    """The window that the source states (centre, width); percentiles of the brain where that is of no use."""
    inside = voxels[brain] if brain.any() else voxels[voxels > voxels.min()]
    if inside.size == 0:
        return Window(0.0, 1.0)
    sample = inside[:: max(1, inside.size // 100_000)]
    if stated is not None:
        window = Window(stated[0] - stated[1] / 2, stated[0] + stated[1] / 2)
        saturated = np.mean((sample <= window.black) | (sample >= window.white))
        if saturated <= _MOST_SATURATED:
            return window
    low, high = (float(value) for value in np.percentile(sample, [_LOW_PERCENTILE, _HIGH_PERCENTILE]))
    low = min(0.0, low) if low > 0 else low  # air stays black
    return Window(low, high if high > low else low + 1.0)


class Painter:
    """Colours slices of one finding; the tables are made once."""

    def __init__(self, window: Window, scale: ScoreScale) -> None:
        self._window, self._scale = window, scale
        table, opacity = colour_table()
        # Premultiplied: painted = (grey x (256 - opacity) + colour x opacity) >> 8, in 16 bits.
        self._opacity = opacity
        self._coloured = table.astype(np.uint16) * opacity[:, None]

    def grey(self, voxels: FloatMap) -> RGB8:
        """(rows, columns, 3) of a slice without any score."""
        return np.repeat(self._window.grey(voxels)[..., None], 3, axis=-1)

    def overlay(self, voxels: FloatMap, scores: FloatMap, mask: BoolMap) -> RGB8:
        """(rows, columns, 3) of a slice [row, column] with its scores and the outline of its mask."""
        picture = self.grey(voxels)
        levels = self._scale.levels(scores)
        seen = self._opacity[levels] > 0
        chosen = levels[seen]
        under = picture[seen].astype(np.uint16) * (256 - self._opacity[chosen])[:, None]
        picture[seen] = ((under + self._coloured[chosen]) >> 8).astype(np.uint8)
        if mask.any():
            picture[outline(mask)] = CONTOUR_RGB
        return picture


def outline(mask: BoolMap) -> BoolMap:
    """Pixels just outside a mask [row, column], by edges: what is inside stays visible."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown & ~mask
