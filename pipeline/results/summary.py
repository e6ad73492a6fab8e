"""The summary: one picture of the slices with the highest score, a series of its own that shows all at one glance."""

from typing import Final, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import SecondaryCaptureImageStorage

from anomalyd.pipeline.finding import Finding
from anomalyd.pipeline.results.colour import RGB8, ScoreScale
from anomalyd.pipeline.results.header import Source
from anomalyd.pipeline.results.legend import colour_bar
from anomalyd.pipeline.results.objects import ResultContext, ResultKind, ResultObject
from anomalyd.pipeline.results.paint import Painter, choose_window
from anomalyd.pipeline.results.place import place_of
from anomalyd.pipeline.results.secondary_capture import colour_picture, drawn_from, fill
from anomalyd.pipeline.results.stamp import key_of, part10
from anomalyd.pipeline.results.upright import View, view_of
from anomalyd.pipeline.results.version import RESEARCH_USE, version_line

COLUMNS: Final = 3
SLICES: Final = 2 * COLUMNS
APART_MM: Final = 8.0  # neighbours of a slice with a high score have one too, and show the same
_TILE = 330  # pixels, the longer side of a slice
_MARGIN_MM = 8.0  # around the brain
_FONT, _GAP = 17, 8
_WARM, _WHITE, _GREY = (255, 190, 90), (255, 255, 255), (170, 170, 170)


def build_summary(source: Source, context: ResultContext) -> ResultObject:
    """One Secondary Capture without geometry; it names the slices that it shows as its sources."""
    key, shown = key_of(source, context), slices_of(source, context.finding)
    picture = summary_picture(source, context)
    dataset = colour_picture(source, context, ResultKind.SUMMARY, (picture.shape[0], picture.shape[1]))
    dataset.pop("PositionReferenceIndicator", None)  # goes with a frame of reference, which a page has not
    by_index = {image.index: image for image in source.slices}
    dataset.SourceImageSequence = [drawn_from(by_index[k], keeps_place=False) for k in shown]
    uid = key.instance(ResultKind.SUMMARY, 1)
    dataset.SOPInstanceUID, dataset.InstanceNumber = uid, 1
    fill(dataset, picture)
    series = key.series(ResultKind.SUMMARY)
    return ResultObject(ResultKind.SUMMARY, SecondaryCaptureImageStorage, uid, series, 1, part10(dataset))


def slices_of(source: Source, finding: Finding) -> list[int]:
    """Up to SLICES source slices of the brain with the highest peaks, APART_MM from each other, in geometric order."""
    available = [image.index for image in source.slices]
    brain = np.asarray(finding.brain_mask.any(axis=(1, 2)))
    with_brain = [k for k in available if brain[k]] or available
    peaks = finding.score_map.max(axis=(1, 2))
    step = finding.grid.spacing_mm[0]
    chosen: list[int] = []
    for k in sorted(with_brain, key=lambda k: (-float(peaks[k]), k)):
        if len(chosen) < SLICES and all(abs(k - other) * step >= APART_MM for other in chosen):
            chosen.append(k)
    return sorted(chosen)


def summary_picture(source: Source, context: ResultContext) -> RGB8:
    """(rows, columns, 3); no text of the patient."""
    finding, volume = context.finding, context.volume
    font = cast("ImageFont.FreeTypeFont", ImageFont.load_default(_FONT))
    scale, view = ScoreScale(finding.threshold), view_of(volume.grid)
    painter = Painter(choose_window(source.window, volume.voxels, finding.brain_mask), scale)
    window = _around_the_brain(finding)
    tiles = []
    for k in slices_of(source, finding):
        whole = painter.overlay(volume.voxels[k], finding.score_map[k], finding.labels[k] > 0)
        caption = f"{place_of(volume.grid, k)}  highest {finding.score_map[k].max():.3g}"
        tiles.append((caption, view.tile(whole[window], _TILE)))
    return _page(tiles, view, font, _title(finding), colour_bar(scale, font, 2 * _TILE))


def _around_the_brain(finding: Finding) -> tuple[slice, slice]:
    """Rows and columns of the brain in all slices, with a margin."""
    seen = np.asarray(finding.brain_mask.any(axis=0))
    if not seen.any():
        return slice(None), slice(None)
    rows, columns = (
        slice(max(0, int(at[0]) - margin), int(at[-1]) + 1 + margin)
        for at, margin in zip(
            (np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))),
            (round(_MARGIN_MM / mm) for mm in finding.grid.spacing_mm[1:]),
            strict=True,
        )
    )
    return rows, columns


def _title(finding: Finding) -> list[tuple[str, tuple[int, int, int]]]:
    found = "nothing found above the threshold"
    if finding.lesions:
        found = f"{len(finding.lesions)} found, largest {max(one.volume_mm3 for one in finding.lesions) / 1000:.1f} ml"
    return [
        (f"{RESEARCH_USE}   not for diagnosis", _WARM),
        (
            f"scan score {finding.score:.3g}, percentile {finding.score_percentile:.0f} of healthy scans; {found}",
            _WHITE,
        ),
        (f"outlined above {finding.threshold:.3g}: {finding.threshold_text}", _WHITE),
        (f"slices with the highest score   {version_line(finding.model)}", _GREY),
    ]


def _page(
    tiles: list[tuple[str, Image.Image]],
    view: View,
    font: ImageFont.FreeTypeFont,
    title: list[tuple[str, tuple[int, int, int]]],
    bar: RGB8,
) -> RGB8:
    line = sum(font.getmetrics())
    width, height = tiles[0][1].size
    cell = max(width, round(max(font.getlength(caption) for caption, _ in tiles)))
    rows = -(-len(tiles) // COLUMNS)
    top = _GAP + len(title) * line + _GAP
    grid_width = COLUMNS * (cell + _GAP)
    text_width = round(max(font.getlength(text) for text, _ in title))
    size = (
        _GAP + max(grid_width + bar.shape[1], text_width) + _GAP,
        max(top + rows * (line + height + _GAP), top + line + bar.shape[0] + _GAP),
    )
    page = Image.new("RGB", size)
    pen = ImageDraw.Draw(page)
    for number, (text, colour) in enumerate(title):
        pen.text((_GAP, _GAP + number * line), text, font=font, fill=colour)
    for number, (caption, tile) in enumerate(tiles):
        left = _GAP + number % COLUMNS * (cell + _GAP)
        y = top + number // COLUMNS * (line + height + _GAP)
        pen.text((left, y), caption, font=font, fill=_WHITE)
        page.paste(tile, (left, y + line))
        pen.text((left + 2, y + line + (height - line) // 2), view.letters[0], font=font, fill=_GREY)
        pen.text((left + width // 2, y + line), view.letters[1], font=font, fill=_GREY)
    page.paste(Image.fromarray(bar), (_GAP + grid_width, top + line))
    return np.asarray(page)
