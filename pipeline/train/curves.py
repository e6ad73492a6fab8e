"""What a training leaves to look at: loss.csv, loss.png, samples.png."""

import csv
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

RGB8 = NDArray[np.uint8]

_SIZE = (900, 520)
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 50
_FONT, _GAP = 14, 6
_TILE_HEIGHT = 192
_RESIDUAL = 0.4  # of the standard range is full colour
_TITLES = ("slice", "noised", "healthy", "difference")
_TRAIN_COLOUR, _HELD_OUT_COLOUR, _INK, _GRID_INK = (70, 130, 220), (220, 110, 40), (40, 40, 40), (225, 225, 225)


@dataclass(frozen=True, slots=True)
class LossPoint:
    """Where the loss stands. loss: mean l1 since the last point; held_out: of the average, None without such people."""

    step: int
    loss: float
    held_out: float | None
    seconds: float
    """Of this run, since it began or went on."""


def read_curve(path: Path, last_step: int) -> list[LossPoint]:
    """The points up to a step: what lies beyond was never saved. A line that a kill cut short is passed over."""
    if not path.exists():
        return []
    points = []
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            try:
                point = LossPoint(
                    int(row["step"]),
                    float(row["loss"]),
                    float(row["held_out"]) if row.get("held_out") else None,
                    float(row.get("seconds") or row.get("seconds_of_this_run") or 0.0),
                )
            except (TypeError, ValueError, KeyError):
                continue
            if point.step <= last_step:
                points.append(point)
    return points


def write_curve(path: Path, points: Sequence[LossPoint]) -> None:
    """All points, renamed into place."""
    fresh = path.with_suffix(".new")
    with fresh.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow([field.name for field in fields(LossPoint)])
        for point in points:
            step, loss, held_out, seconds = astuple(point)
            writer.writerow([step, f"{loss:.5f}", "" if held_out is None else f"{held_out:.5f}", f"{seconds:.0f}"])
    fresh.replace(path)


def draw_curve(points: Sequence[LossPoint]) -> Image.Image:
    """Both losses over the steps, on a logarithmic axis."""
    picture = Image.new("RGB", _SIZE, "white")
    pen, font = ImageDraw.Draw(picture), _font()
    shown = [point for point in points if math.isfinite(point.loss) and point.loss > 0]
    pen.text((_LEFT, _GAP), "training", font=font, fill=_TRAIN_COLOUR)
    pen.text((_LEFT + 100, _GAP), "held out (average, no lesions)", font=font, fill=_HELD_OUT_COLOUR)
    if not shown:
        return picture
    values = [p.loss for p in shown] + [p.held_out for p in shown if p.held_out]
    low, high = math.log(min(values) * 0.95), math.log(max(values) * 1.05)
    last = max(point.step for point in shown)

    def place(step: float, value: float) -> tuple[float, float]:
        across = _LEFT + (_SIZE[0] - _LEFT - _RIGHT) * step / last
        return across, _TOP + (_SIZE[1] - _TOP - _BOTTOM) * (high - math.log(value)) / (high - low)

    for value in _ticks(math.exp(low), math.exp(high)):
        y = place(0, value)[1]
        pen.line((_LEFT, y, _SIZE[0] - _RIGHT, y), fill=_GRID_INK)
        pen.text((_GAP, y - _FONT / 2), f"{value:.3g}", font=font, fill=_INK)
    for k in range(5):
        x = place(last * k / 4, math.exp(low))[0]
        pen.text(
            (x - 5 * (k > 0) * len(str(last)), _SIZE[1] - _BOTTOM + _GAP), f"{last * k // 4}", font=font, fill=_INK
        )
    held = [(p.step, p.held_out) for p in shown if p.held_out]
    for colour, line in ((_TRAIN_COLOUR, [(p.step, p.loss) for p in shown]), (_HELD_OUT_COLOUR, held)):
        dots = [place(step, value) for step, value in line]
        if len(dots) > 1:
            pen.line(dots, fill=colour, width=2)
        for x, y in dots[-1:]:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
    return picture


def draw_samples(samples: NDArray[np.float32]) -> Image.Image:
    """A row for each slice: as it is, noised, reconstructed, and what differs (brighter red, darker blue).

    samples: (n, 3, rows, columns) in [0, 1], as held_out.samples gives them.
    """
    rows = [[_grey(one) for one in sample] + [_signed(sample[0] - sample[2])] for sample in samples]
    height = _TILE_HEIGHT
    width = round(height * samples.shape[3] / samples.shape[2])
    sheet = Image.new("RGB", (len(_TITLES) * (width + _GAP), len(rows) * (height + _GAP) + 2 * _FONT))
    pen, font = ImageDraw.Draw(sheet), _font()
    for k, title in enumerate(_TITLES):
        pen.text((k * (width + _GAP) + _GAP, 0), title, font=font, fill="white")
    for r, tiles in enumerate(rows):
        for k, tile in enumerate(tiles):
            picture = Image.fromarray(tile).resize((width, height), Image.Resampling.BICUBIC)
            sheet.paste(picture, (k * (width + _GAP), 2 * _FONT + r * (height + _GAP)))
    return sheet


def save_picture(path: Path, picture: Image.Image) -> None:
    """A PNG, renamed into place: whoever looks sees a whole one."""
    fresh = path.with_suffix(".new")
    picture.save(fresh, format="PNG")
    fresh.replace(path)


def _grey(values: NDArray[np.float32]) -> RGB8:
    grey = np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _signed(difference: NDArray[np.float32]) -> RGB8:
    share = np.clip(difference / _RESIDUAL, -1.0, 1.0)
    brighter, darker = np.maximum(share, 0.0), np.maximum(-share, 0.0)
    colour = np.stack([brighter, 0.4 * np.abs(share), darker], axis=2)
    return np.rint(colour * 255.0).astype(np.uint8)


def _ticks(low: float, high: float) -> list[float]:
    """Values of the form 1, 1.5, 2, 3, 5, 7 times a power of ten between two."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 1.5, 2, 3, 5, 7)]
    return [value for value in values if low <= value <= high]


def _font() -> ImageFont.FreeTypeFont:
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(_FONT))
