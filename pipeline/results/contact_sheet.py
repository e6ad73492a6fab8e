"""contact-sheet.png: a finding at one glance; source, scores and healthy counterpart of a few slices side by side."""

from io import BytesIO
from typing import Final, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anomalyd.pipeline.finding import Finding
from anomalyd.pipeline.results.colour import RGB8, ScoreScale
from anomalyd.pipeline.results.legend import colour_bar
from anomalyd.pipeline.results.paint import Painter, choose_window
from anomalyd.pipeline.results.place import place_of
from anomalyd.pipeline.results.upright import View, view_of
from anomalyd.pipeline.results.version import RESEARCH_USE, version_line
from anomalyd.pipeline.volume import Volume

_SLICES = 6
_LESION_SLICES = 4
_TILE = 230  # pixels, the longer side of a slice
_FONT, _GAP, _TITLE_LINES = 15, 6, 3
_ROWS: Final = ("source", "score over source", "healthy reconstruction")


def contact_sheet(volume: Volume, finding: Finding, window: tuple[float, float] | None = None) -> bytes:
    """PNG of 6 slices: those through the middle of the first lesions, the others spread evenly over the brain.

    window: centre and width that the source states, if it does. No text of the patient; the same input, the same bytes.
    """
    font = cast("ImageFont.FreeTypeFont", ImageFont.load_default(_FONT))
    scale, view = ScoreScale(finding.threshold), view_of(volume.grid)
    shown = choose_window(window, volume.voxels, finding.brain_mask)
    painter = Painter(shown, scale)
    columns = []
    for k in _slices(finding):
        pictures = (
            painter.grey(volume.voxels[k]),
            painter.overlay(volume.voxels[k], finding.score_map[k], finding.labels[k] > 0),
            painter.grey(finding.reconstruction[k]),
        )
        columns.append((place_of(volume.grid, k), [view.tile(picture, _TILE) for picture in pictures]))
    sheet = _mounted(columns, view, font, _title(finding), colour_bar(scale, font, 3 * _TILE))
    with BytesIO() as file:
        sheet.save(file, format="PNG")
        return file.getvalue()


def _slices(finding: Finding) -> list[int]:
    count = finding.grid.shape[0]
    middles = [finding.grid.to_index(np.array(lesion.centroid_lps_mm))[0] for lesion in finding.lesions]
    chosen = dict.fromkeys(int(np.clip(round(float(middle)), 0, count - 1)) for middle in middles[:_LESION_SLICES])
    with_brain = np.flatnonzero(finding.brain_mask.any(axis=(1, 2)))
    spread = with_brain if with_brain.size else np.arange(count)
    for share in np.linspace(0.15, 0.85, _SLICES):
        if len(chosen) < _SLICES:
            chosen.setdefault(int(spread[int(share * (spread.size - 1))]))
    return sorted(chosen)


def _title(finding: Finding) -> list[str]:
    found = "nothing found above the threshold"
    if finding.lesions:
        found = f"{len(finding.lesions)} found, largest {max(one.volume_mm3 for one in finding.lesions) / 1000:.1f} ml"
    return [
        f"{RESEARCH_USE}   {version_line(finding.model)}",
        f"scan score {finding.score:.3g}, percentile {finding.score_percentile:.0f} of healthy scans; {found}",
        f"outlined above {finding.threshold:.3g}: {finding.threshold_text}",
    ]


def _mounted(
    columns: list[tuple[str, list[Image.Image]]],
    view: View,
    font: ImageFont.FreeTypeFont,
    title: list[str],
    bar: RGB8,
) -> Image.Image:
    line = sum(font.getmetrics())
    width, height = columns[0][1][0].size
    top = _GAP + _TITLE_LINES * line + _GAP
    row_height = height + line + _GAP
    size = (
        _GAP + len(columns) * (width + _GAP) + bar.shape[1] + _GAP,
        max(top + line + len(_ROWS) * row_height, top + bar.shape[0] + _GAP),
    )
    sheet = Image.new("RGB", size)
    pen = ImageDraw.Draw(sheet)
    for number, text in enumerate(title):
        pen.text((_GAP, _GAP + number * line), text, font=font, fill=(255, 190, 90) if number == 0 else "white")
    for number, (place, tiles) in enumerate(columns):
        left = _GAP + number * (width + _GAP)
        pen.text((left, top), place, font=font, fill="white")
        for row, tile in enumerate(tiles):
            y = top + line + row * row_height
            sheet.paste(tile, (left, y))
            if number == 0:
                pen.text((left, y + height), _ROWS[row], font=font, fill=(170, 170, 170))
                pen.text((left + 2, y + height // 2 - line // 2), view.letters[0], font=font, fill="white")
                pen.text((left + width // 2 - line // 3, y + 1), view.letters[1], font=font, fill="white")
    sheet.paste(Image.fromarray(bar), (size[0] - bar.shape[1] - _GAP, top + line))
    return sheet
