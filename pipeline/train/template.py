"""The group template: mean of registered stripped brains and of their mirror images, so that left equals right."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from anomalyd.pipeline.bundle import Template
from anomalyd.pipeline.stages.orient import axis_grid, resample
from anomalyd.pipeline.stages.prepare import Upright
from anomalyd.pipeline.stages.register import LEVELS, SIMILARITY_LEVELS, register
from anomalyd.pipeline.volume import Affine, BoolMap, Grid, Volume

TEMPLATE_MM = 2.0
TEMPLATE_SHAPE = (92, 108, 88)  # 184 x 216 x 176 mm: any adult brain
FAST_LEVELS = (*SIMILARITY_LEVELS, LEVELS[1])
ROUNDS = (SIMILARITY_LEVELS, FAST_LEVELS, LEVELS)
BOX_TOP_MM = 4.0  # between the template's vertex and the box's upper face


def build_template(heads: Sequence[Upright]) -> Template:
    """Mean brain in patient axes around its own centroid, after one similarity and two affine rounds."""
    half = (np.array(TEMPLATE_SHAPE[::-1]) - 1) / 2 * TEMPLATE_MM
    grid = axis_grid(TEMPLATE_SHAPE, TEMPLATE_MM, -half)
    shifts = []
    for head in heads:
        points = head.volume.grid.to_lps(np.argwhere(head.brain.mask))
        shift = np.eye(4)
        shift[:3, 3] = points[points[:, 2] > points[:, 2].max() - 100.0].mean(axis=0) - [0.0, 0.0, 20.0]
        shifts.append(shift)
    template = mean_template(heads, shifts, grid)
    for levels in ROUNDS:
        maps = [register(head.stripped, head.brain.mask, template, levels).template_to_source for head in heads]
        template = mean_template(heads, _mean_sized(maps), grid)
    return template


def _mean_sized(maps: Sequence[Affine]) -> list[Affine]:
    """The maps with a common scale, so that the template has the mean size of the brains (else blur shrinks it)."""
    scale = float(np.mean([np.linalg.det(m[:3, :3]) for m in maps])) ** (1 / 3)
    return [m @ np.diag([1 / scale, 1 / scale, 1 / scale, 1.0]) for m in maps]


def mean_template(heads: Sequence[Upright], maps: Sequence[Affine], grid: Grid) -> Template:
    """Symmetrical mean of the brains, each pulled by its template_to_source."""
    total = np.zeros(grid.shape, dtype=np.float64)
    masks = np.zeros(grid.shape, dtype=np.float64)
    for head, template_to_source in zip(heads, maps, strict=True):
        brain = head.stripped
        top = float(np.percentile(brain.voxels[head.brain.mask], 95))
        total += np.clip(resample(brain, grid, template_to_source) / top, 0.0, 1.5)
        masks += resample(Volume(head.brain.mask.astype(np.float32), head.volume.grid), grid, template_to_source)
    mean = (total + total[:, :, ::-1]) / (2 * len(heads))
    mask = (masks + masks[:, :, ::-1]) / (2 * len(heads)) >= 0.5  # noqa: PLR2004 - brain in half of the people
    mask = np.asarray(ndimage.binary_fill_holes(mask), dtype=np.bool_)
    return Template(Volume(np.where(mask, mean, 0.0).astype(np.float32), grid), mask)


def box_of(mask: BoolMap, grid: Grid, shape: tuple[int, int, int]) -> Grid:
    """The analysed box: from just above the template's vertex downwards, centred front to back and left to right."""
    spacing_mm = float(grid.spacing_mm[0])
    where = np.argwhere(mask)
    low, high = grid.to_lps(where.min(axis=0)), grid.to_lps(where.max(axis=0))
    top = high[2] + BOX_TOP_MM
    size_mm = (np.array(shape[::-1]) - 1) * spacing_mm
    first = np.array([-size_mm[0] / 2, (low[1] + high[1]) / 2 - size_mm[1] / 2, top - size_mm[2]])
    return axis_grid(shape, spacing_mm, first)


def centred_box(mask: BoolMap, grid: Grid, shape: tuple[int, int, int], spacing_mm: float) -> Grid:
    """The published box: its centre is that of the brain's bounding box, on all three axes (METHOD section 1)."""
    where = np.argwhere(mask)
    middle = (grid.to_lps(where.min(axis=0)) + grid.to_lps(where.max(axis=0))) / 2
    return axis_grid(shape, spacing_mm, middle - (np.array(shape[::-1]) - 1) / 2 * spacing_mm)
