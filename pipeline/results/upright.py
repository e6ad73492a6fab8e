"""Slices as radiologists look at them: back below or feet below, the patient's left or back at the right."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from anomalyd.pipeline.results.colour import RGB8
from anomalyd.pipeline.results.place import TOWARDS
from anomalyd.pipeline.volume import Grid

_X, _Z = 0, 2


@dataclass(frozen=True, slots=True)
class View:
    """How the slices of one grid are turned.

    letters: what lies at the left and at the top.
    """

    is_transposed: bool
    flips_rows: bool
    flips_columns: bool
    aspect: float
    """Height of a pixel over its width, after the turn."""
    letters: tuple[str, str]

    def turned(self, picture: RGB8) -> RGB8:
        """(rows, columns, 3), or columns and rows exchanged."""
        turned = picture.transpose(1, 0, 2) if self.is_transposed else picture
        turned = turned[::-1] if self.flips_rows else turned
        return turned[:, ::-1] if self.flips_columns else turned

    def tile(self, picture: RGB8, longer_side: int) -> Image.Image:
        """The picture turned, with square pixels, its longer side so many pixels long."""
        turned = self.turned(picture)
        height, width = turned.shape[0] * self.aspect, float(turned.shape[1])
        factor = longer_side / max(height, width)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        return Image.fromarray(np.ascontiguousarray(turned)).resize(size, Image.Resampling.BICUBIC)


def view_of(grid: Grid) -> View:
    """Nearest of the 8 turns and flips."""
    row, column = grid.index_to_lps[:3, 1], grid.index_to_lps[:3, 2]
    row_mm, column_mm = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    is_transposed = int(np.argmax(np.abs(row))) == _X or int(np.argmax(np.abs(column))) == _Z
    if is_transposed:
        row, column, row_mm, column_mm = column, row, column_mm, row_mm
    down, across = int(np.argmax(np.abs(row))), int(np.argmax(np.abs(column)))
    flips_rows = bool(row[down] > 0) if down == _Z else bool(row[down] < 0)
    flips_columns = bool(column[across] < 0)
    top = TOWARDS[down][1 if down == _Z else 0]
    return View(is_transposed, flips_rows, flips_columns, row_mm / column_mm, (TOWARDS[across][0], top))
