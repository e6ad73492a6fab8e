"""What is written into a heatmap: scale, threshold, score, place, version, research use; never text of the patient."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from anomalyd.pipeline.results.colour import CONTOUR_RGB, LEVELS, RGB8, ScoreScale, colour_table
from anomalyd.pipeline.results.version import RESEARCH_USE
from anomalyd.pipeline.volume import BoolMap

_WHITE = (255, 255, 255)
_WARM = (255, 190, 90)
_MARGIN = 2
_SMALLEST_FONT, _LINES_PER_IMAGE = 8, 25  # 10 px in a 256 image, 20 px in a 512 one
_PLATE = 90  # of 256: how much of the picture shines through behind text


@dataclass(frozen=True, slots=True)
class _Place:
    row: int
    column: int
    rows: int
    columns: int

    @property
    def window(self) -> tuple[slice, slice]:
        return slice(self.row, self.row + self.rows), slice(self.column, self.column + self.columns)

    def meets(self, other: "_Place") -> bool:
        return (
            self.row < other.row + other.rows
            and other.row < self.row + self.rows
            and self.column < other.column + other.columns
            and other.column < self.column + self.columns
        )


class Legend:
    """Drawn once for a series; only the line with the slice's place is drawn for each.

    Blocks stand in corners and at edges, where they hide least brain over all slices.
    """

    def __init__(self, shape: tuple[int, int], lines: Sequence[str], scale: ScoreScale, brain: BoolMap) -> None:
        """shape: rows, columns of the picture. lines: of the lower block. brain: [slice, row, column]."""
        rows, columns = shape
        size = max(_SMALLEST_FONT, min(rows, columns) // _LINES_PER_IMAGE)
        # The font that Pillow carries: no file of the system decides how a result looks.
        self._font = cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))
        self._gap = max(3, size * 3 // 10)  # the font's own blank is 2 pixels at 10, and words run together
        self._room = columns - 2 * _MARGIN
        brain_at = brain.sum(axis=0, dtype=np.int64)
        facts = self._text(wrapped(lines, self._width, self._room))
        bar = colour_bar(scale, self._font, rows)
        self._notice = wrapped([RESEARCH_USE], self._width, self._room)
        widest = max(map(self._width, self._notice))  # it is whole, or not there at all
        told = max(self._width(_WIDEST_PLACE), self._width(_WIDEST_PEAK))
        width = max(widest, min(self._room, told)) + 2 * _MARGIN
        self._notice_shape = (_NOTICE_LINES * self._line_height() + _MARGIN, width)
        places = _least_hiding(brain_at, (facts.shape[:2], self._notice_shape, bar.shape[:2]))
        facts_place, self._notice_place, bar_place = places
        self._fixed = tuple((place, block) for place, block in ((facts_place, facts), (bar_place, bar)) if place)

    def draw(self, picture: RGB8, place_text: str, peak: float) -> None:
        """Writes into a picture (rows, columns, 3). place_text: where its slice lies; peak: its top score."""
        for place, block in self._fixed:
            _put(picture, place, block)
        if self._notice_place is not None:
            rows, columns = self._notice_shape
            told = [self._fitting(place_text), self._fitting(f"highest score {peak:.3g}")]
            lines = [*self._notice, *told][:_NOTICE_LINES]
            _put(picture, self._notice_place, self._text(lines, rows, columns, warm=len(self._notice)))

    def _fitting(self, text: str) -> str:
        """The text, else its part before a double space, else none: nothing is cut in the middle of a number."""
        parts = (text, text.partition("  ")[0], "")
        return next(part for part in parts if self._width(part) <= self._room)

    def _text(self, lines: Sequence[str], rows: int = 0, columns: int = 0, *, warm: int = 0) -> RGB8:
        """White text on black; warm: so many lines, from the first, are in the colour of a warning."""
        height = self._line_height()
        rows = rows or height * len(lines) + _MARGIN
        columns = columns or max(self._width(line) for line in lines) + 2 * _MARGIN
        image = Image.new("RGB", (columns, rows))
        pen = ImageDraw.Draw(image)
        for number, line in enumerate(lines):
            colour = _WARM if number < warm else _WHITE
            left = _MARGIN
            for word in line.split(" "):
                pen.text((left, number * height), word, font=self._font, fill=colour)
                left += self._width(word) + self._gap
        return np.asarray(image)

    def _line_height(self) -> int:
        ascent, descent = self._font.getmetrics()
        return ascent + descent

    def _width(self, text: str) -> int:
        words = text.split(" ")
        return round(sum(self._font.getlength(word) for word in words)) + self._gap * (len(words) - 1)


_FULL: Final = 256  # opacity
_UNDER_THE_BAR: Final = 70  # grey
_WIDEST_PLACE: Final = "slice 888/888  S -888.8 mm"
_WIDEST_PEAK: Final = "highest score 8.88e-08"
_NOTICE_LINES: Final = 3  # of a narrow picture the warning takes two, and the score is left out
_NOTICE: Final = 1  # among the blocks


def _put(picture: RGB8, place: _Place, block: RGB8) -> None:
    under = (picture[place.window].astype(np.uint16) * _PLATE) >> 8
    picture[place.window] = np.maximum(under.astype(np.uint8), block)


def wrapped(lines: Sequence[str], measure: Callable[[str], int], width: int) -> list[str]:
    """Lines broken at spaces so that each fits; a word that is too long by itself stays whole."""
    broken: list[str] = []
    for line in lines:
        current = ""
        for word in line.split(" "):
            longer = f"{current} {word}".strip()
            if current and measure(longer) > width:
                broken.append(current)
                current = word
            else:
                current = longer
        broken.append(current)
    return broken


def colour_bar(scale: ScoreScale, font: ImageFont.FreeTypeFont, picture_rows: int) -> RGB8:
    """The colours over middle grey, as they lie over the source, from 0 (below) to the top, the threshold marked."""
    text = sum(font.getmetrics())
    height, width = max(3 * text, picture_rows // 3), max(4, text * 2 // 3)
    labels = [
        (scale.top, f"{scale.top:.3g}+", _WHITE),
        (scale.threshold, f"> {scale.threshold:.3g}", CONTOUR_RGB),  # the colour of the outline that it stands for
        (0.0, "0", _WHITE),
    ]
    columns = width + 3 * _MARGIN + round(max(font.getlength(label) for _, label, _ in labels)) + _MARGIN
    image = Image.new("RGB", (columns, height + text + _MARGIN))
    pen = ImageDraw.Draw(image)
    table, opacity = colour_table()
    share = (opacity / _FULL)[:, None]
    seen = np.rint(table * share + _UNDER_THE_BAR * (1 - share)).astype(np.uint8)
    top = text // 2
    levels = np.linspace(LEVELS - 1, 0, height).astype(np.uint8)
    colours = np.repeat(seen[levels][:, None, :], width, axis=1)
    image.paste(Image.fromarray(colours), (_MARGIN, top))
    for value, label, colour in labels:
        row = top + round((1 - value / scale.top) * (height - 1))
        pen.line([(_MARGIN, row), (_MARGIN + width + _MARGIN, row)], fill=colour)
        pen.text((width + 3 * _MARGIN, row - text // 2), label, font=font, fill=colour)
    return np.asarray(image)


def _least_hiding(brain_at: NDArray[np.int64], shapes: Sequence[tuple[int, int]]) -> tuple[_Place | None, ...]:
    """A place for each block (facts, notice, bar), together hiding least brain; None for one that finds no room.

    The notice, which says what the picture is not for, is the last to go.
    """
    rows, columns = brain_at.shape
    integral = np.zeros((rows + 1, columns + 1), dtype=np.int64)
    integral[1:, 1:] = brain_at.cumsum(axis=0).cumsum(axis=1)
    candidates = [
        _candidates(shape, (rows, columns), is_bar=number == len(shapes) - 1) for number, shape in enumerate(shapes)
    ]
    best = min(
        (choice for choice in product(*candidates) if _are_apart(choice)),
        key=lambda choice: (
            choice[_NOTICE] is None,
            choice.count(None),
            sum(_hidden(integral, place) for place in choice if place is not None),
        ),
    )
    return tuple(best)


def _are_apart(places: Sequence[_Place | None]) -> bool:
    taken = [place for place in places if place is not None]
    return not any(place.meets(other) for number, place in enumerate(taken) for other in taken[number + 1 :])


def _candidates(block: tuple[int, int], picture: tuple[int, int], *, is_bar: bool) -> list[_Place | None]:
    """Best liked first: text below or above, the bar in the middle of the right edge; None is no place at all."""
    rows, columns = block
    if rows > picture[0] or columns > picture[1]:
        return [None]
    low, right = picture[0] - rows, picture[1] - columns
    at_rows = (low // 2, low // 4, 3 * low // 4, 0, low) if is_bar else (low, 0)
    at_columns = (right, 0) if is_bar else (0, right)
    return [*(_Place(row, column, rows, columns) for row in at_rows for column in at_columns), None]


def _hidden(integral: NDArray[np.int64], place: _Place) -> int:
    """Brain voxels under a block, over all slices."""
    bottom, right = place.row + place.rows, place.column + place.columns
    inside = integral[bottom, right] - integral[place.row, right] - integral[bottom, place.column]
    return int(inside + integral[place.row, place.column])
