"""What an evaluation looks like: a page with one row per scan, and the precision-recall curves of all maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from anomalyd.pipeline.results.colour import RGB8, ScoreScale
from anomalyd.pipeline.results.paint import Painter, choose_window, outline
from anomalyd.pipeline.stages.mapback import SourceMaps
from anomalyd.pipeline.stages.orient import axis_grid, resample
from anomalyd.pipeline.train.agreement import RECALLS, Ranking
from anomalyd.pipeline.train.baselines import (
    ASYMMETRY,
    INTENSITY,
    OTHER_MODE,
    RESIDUAL,
    SHIPPED_NAME,
    SSIM_ENS,
    TEMPLATE_Z_SIGNED,
    MapName,
)
from anomalyd.pipeline.volume import BoolMap, FloatMap, Volume

EXPERT_RGB: Final = (90, 255, 140)
DRAWN: Final = (  # the curves; those of all maps would hide each other
    SHIPPED_NAME,
    MapName(OTHER_MODE, "own"),
    MapName(SSIM_ENS, "published"),
    MapName(RESIDUAL, "published"),
    MapName(RESIDUAL, "smoothed"),
    MapName(INTENSITY, "smoothed"),
    MapName(TEMPLATE_Z_SIGNED, "smoothed"),
    MapName(ASYMMETRY, "smoothed"),
)
_MARGIN_MM, _PIXEL_MM = 6.0, 1.0
_TILE, _GAP, _FONT = (200, 230), 6, 13  # pixels: width and height of a slice's place
_COLUMNS: Final = ("image", "expert", "score and what is marked")


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """One axial slice of one scan, 1 mm pixels [row to the back, column to the patient's left]."""

    title: str
    image: FloatMap
    brain: BoolMap
    score: FloatMap
    marked: BoolMap
    lesion: BoolMap


def overlay_of(title: str, volume: Volume, maps: SourceMaps, marked: BoolMap, lesion: BoolMap) -> Overlay:
    """The axial slice with the largest area of lesion; in a healthy scan the one with the highest score."""
    points = volume.grid.to_lps(np.argwhere(maps.brain))
    low, high = points.min(axis=0) - _MARGIN_MM, points.max(axis=0) + _MARGIN_MM
    if lesion.any():
        heights = np.rint(volume.grid.to_lps(np.argwhere(lesion))[:, 2]).astype(np.int64)
        z = float(heights.min() + np.argmax(np.bincount(heights - heights.min())))
    else:
        peak = np.unravel_index(int(np.argmax(maps.score)), maps.score.shape)
        z = float(volume.grid.to_lps(np.array(peak, dtype=np.int64))[2])
    columns, rows = np.ceil((high - low)[:2] / _PIXEL_MM).astype(int) + 1
    plane = axis_grid((1, int(rows), int(columns)), _PIXEL_MM, np.array([low[0], low[1], z]))

    def slice_of(values: FloatMap | BoolMap) -> FloatMap:
        return np.asarray(resample(Volume(values.astype(np.float32), volume.grid), plane)[0])

    half = 0.5
    return Overlay(
        title,
        slice_of(volume.voxels),
        slice_of(maps.brain) >= half,
        slice_of(maps.score),
        slice_of(marked) >= half,
        slice_of(lesion) >= half,
    )


def write_overlays(path: Path, overlays: Sequence[Overlay], threshold: float) -> None:
    """The page (PNG): image, the expert's outline, score in the colours of the heatmap with the marked outline."""
    font = cast("ImageFont.FreeTypeFont", ImageFont.load_default(_FONT))
    line = sum(font.getmetrics())
    width, height = _TILE
    row_height = height + line + _GAP
    page = Image.new("RGB", (_GAP + len(_COLUMNS) * (width + _GAP), _GAP + line + len(overlays) * row_height))
    pen = ImageDraw.Draw(page)
    for column, text in enumerate(_COLUMNS):
        pen.text((_GAP + column * (width + _GAP), _GAP), text, font=font, fill="white")
    for row, overlay in enumerate(overlays):
        top = _GAP + line + row * row_height
        pen.text((_GAP, top), overlay.title, font=font, fill=(170, 170, 170))
        for column, picture in enumerate(_pictures(overlay, ScoreScale(threshold))):
            tile = ImageOps.contain(Image.fromarray(picture), _TILE, Image.Resampling.BICUBIC)
            page.paste(tile, (_GAP + column * (width + _GAP), top + line))
    page.save(path, format="PNG")


def _pictures(overlay: Overlay, scale: ScoreScale) -> tuple[RGB8, RGB8, RGB8]:
    painter = Painter(choose_window(None, overlay.image, overlay.brain), scale)
    plain = painter.grey(overlay.image)
    expert = plain.copy()
    expert[outline(overlay.lesion)] = EXPERT_RGB
    return plain, expert, painter.overlay(overlay.image, overlay.score, overlay.marked)


def write_curves(path: Path, rankings: Sequence[dict[MapName, Ranking]]) -> None:
    """Precision over recall (PNG), the mean over scans with a lesion; empty axes where there is none."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - a second to load, used here alone
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = Figure(figsize=(8.0, 6.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in DRAWN:
        curves = [scan[name].precisions for scan in rankings if name in scan]
        if curves:
            is_shipped = name == SHIPPED_NAME
            label = name.map if name.processing == "own" else f"{name.map} ({name.processing})"
            axes.plot(RECALLS, np.mean(curves, axis=0), label=label, linewidth=2.6 if is_shipped else 1.3)
    axes.set(xlabel="recall (voxels)", ylabel="precision (voxels)", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"mean over {len(rankings)} scans with a lesion")
    if axes.lines:
        axes.legend(fontsize="small")
    figure.savefig(path, format="png", metadata={"Software": None})  # no version in it: the same bytes
