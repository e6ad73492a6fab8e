"""Affine registration of a stripped brain to the bundle's template.

Gauss-Newton on intensity differences with a linear intensity fit and Tukey's weights, so that a lesion does not pull:
three levels take less than a second and give the same bytes on any number of threads. Why not SimpleITK's framework:
docs/decisions/0070-registration.md.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from anomalyd.pipeline.bundle import Template
from anomalyd.pipeline.stages.orient import axis_grid, resample, smooth_for
from anomalyd.pipeline.volume import Affine, BoolMap, FloatMap, Grid, Volume

WORK_MM = 2.0
RIM_MM = 6.0  # background just outside the brain takes part: it fixes the size
TUKEY = 4.685  # 95 % efficiency for normal residuals
MIN_SCALE = 1e-3
CUT_MM2 = 600.0  # brain on a face of the field of view that means the face cuts it; brainstem and rim voxels are less
MIN_KNOWN = 0.2  # share of the template's points that must fall where the source is known


@dataclass(frozen=True, slots=True)
class _Level:
    sigma_mm: float
    step: int
    """Every step-th template voxel along each axis."""
    iterations: int
    freedom: Literal["similarity", "affine"]


LEVELS = (_Level(8.0, 4, 25, "similarity"), _Level(4.0, 3, 25, "affine"), _Level(2.0, 2, 25, "affine"))
SIMILARITY_LEVELS = (_Level(8.0, 4, 25, "similarity"), _Level(4.0, 3, 25, "similarity"))


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """template_to_source: (4, 4) template LPS mm -> source LPS mm. similarity: correlation in the template's brain."""

    template_to_source: Affine
    similarity: float

    @property
    def scale(self) -> float:
        """Volume of the source's brain over the template's."""
        return float(np.linalg.det(self.template_to_source[:3, :3]))


def register(brain: Volume, mask: BoolMap, template: Template, levels: tuple[_Level, ...] = LEVELS) -> Registration:
    """The affine that lays the template onto a stripped upright brain.

    brain: upright volume, 0 outside mask.
    """
    moving = _Moving(_scaled(_coarse(brain), None), *_known_extent(brain.grid, mask))
    fixed = _scaled(template.brain, template.mask)
    matrix = _from_centroids(brain.grid, mask, template)
    for level in levels:
        matrix = _descend(moving, fixed, template.mask, matrix, level)
    return Registration(matrix, _similarity(moving, fixed, template.mask, matrix))


@dataclass(frozen=True, slots=True, eq=False)
class _Moving:
    """The source's brain, and between which points (x, y, z, LPS mm) it is known.

    Beyond a face of the field of view that the brain does not touch lies background; beyond one that cuts the brain
    lies nobody knows what: those points take no part, else half a brain is squeezed into a whole one's shape.
    """

    brain: Volume
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def knows(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of (n, 3) points lie where the source is known."""
        return np.asarray(((points >= self.low) & (points <= self.high)).all(axis=1))


def _known_extent(grid: Grid, mask: BoolMap) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and greatest known x, y, z of an upright grid; infinite where the mask ends before the face."""
    low, high = np.full(3, -np.inf), np.full(3, np.inf)
    spacing_mm = float(grid.spacing_mm[0])
    first = grid.index_to_lps[:3, 3]
    last = first + (np.array(grid.shape[::-1]) - 1) * spacing_mm
    for axis in range(3):
        faces = np.take(mask, [0, -1], axis=2 - axis)
        area_mm2 = faces.sum(axis=tuple(k for k in range(3) if k != 2 - axis)) * spacing_mm**2
        if area_mm2[0] > CUT_MM2:
            low[axis] = first[axis]
        if area_mm2[1] > CUT_MM2:
            high[axis] = last[axis]
    return low, high


def _coarse(brain: Volume) -> Volume:
    """The brain at WORK_MM with an empty margin, so that no point of the template falls off it."""
    spacing_mm = float(brain.grid.spacing_mm[0])
    margin = 24.0
    size_mm = np.array(brain.grid.shape) * spacing_mm + 2 * margin
    shape = np.ceil(size_mm / WORK_MM).astype(int)
    first = brain.grid.index_to_lps[:3, 3] - margin
    grid = axis_grid((int(shape[0]), int(shape[1]), int(shape[2])), WORK_MM, first)
    return Volume(resample(smooth_for(brain, WORK_MM), grid), grid)


def _scaled(brain: Volume, mask: BoolMap | None) -> Volume:
    """The brain divided by its 95th percentile inside."""
    inside = brain.voxels[brain.voxels > 0] if mask is None else brain.voxels[mask]
    top = float(np.percentile(inside, 95)) if inside.size else 1.0
    return Volume(np.clip(brain.voxels / max(top, 1e-9), 0.0, 1.5).astype(np.float32), brain.grid)


def _from_centroids(grid: Grid, mask: BoolMap, template: Template) -> Affine:
    """Shift of centroid onto centroid, above the lowest 100 mm below the vertex only: necks are cut differently."""
    matrix = np.eye(4)
    source = _upper_points(grid, mask)
    target = _upper_points(template.brain.grid, template.mask)
    matrix[:3, 3] = source.mean(axis=0) - target.mean(axis=0)
    return matrix


def _upper_points(grid: Grid, mask: BoolMap) -> NDArray[np.float64]:
    points = grid.to_lps(np.argwhere(mask))
    return np.asarray(points[points[:, 2] > points[:, 2].max() - 100.0])


def _descend(moving: _Moving, fixed: Volume, mask: BoolMap, start: Affine, level: _Level) -> Affine:
    """Gauss-Newton iterations on one level of smoothing."""
    smooth_moving = _Moving(_smoothed(moving.brain, level.sigma_mm), moving.low, moving.high)
    smooth_fixed = _smoothed(fixed, level.sigma_mm)
    spacing_mm = float(fixed.grid.spacing_mm[0])
    near = ndimage.binary_dilation(mask, iterations=max(1, round(RIM_MM / spacing_mm)))
    sparse = np.zeros_like(near)
    sparse[:: level.step, :: level.step, :: level.step] = True
    indices = np.argwhere(near & sparse)
    points = fixed.grid.to_lps(indices)
    target = smooth_fixed.voxels[tuple(indices.T)].astype(np.float64)
    centre = points.mean(axis=0)
    gradient = _gradient(smooth_moving.brain)
    matrix, spread = start, np.inf
    for _ in range(level.iterations):
        step, spread_now = _newton_step(
            smooth_moving,
            gradient=gradient,
            points=points,
            centre=centre,
            target=target,
            matrix=matrix,
            level=level,
        )
        if spread_now > spread * (1.0 - 1e-5):
            break
        matrix, spread = step, spread_now
    return matrix


def _newton_step(
    moving: _Moving,
    *,
    gradient: tuple[FloatMap, FloatMap, FloatMap],
    points: NDArray[np.float64],
    centre: NDArray[np.float64],
    target: NDArray[np.float64],
    matrix: Affine,
    level: _Level,
) -> tuple[Affine, float]:
    """The next affine, and the robust mean residual of the present one.

    Unknowns: gain and offset of the intensities, and either 12 entries of the affine or 7 of a similarity.
    """
    moved = points @ matrix[:3, :3].T + matrix[:3, 3]
    known = moving.knows(moved)
    if known.mean() < MIN_KNOWN:
        return matrix, np.inf
    points, target, moved = points[known], target[known], moved[known]
    at = moving.brain.grid.to_index(moved).T
    value = ndimage.map_coordinates(moving.brain.voxels, at, order=1).astype(np.float64)
    slope = np.stack([ndimage.map_coordinates(g, at, order=1) for g in gradient], axis=1).astype(np.float64)
    gain, offset = _line(value, target)
    residual = gain * value + offset - target
    scale = max(1.4826 * float(np.median(np.abs(residual))), MIN_SCALE)
    weight = np.clip(1.0 - (residual / (TUKEY * scale)) ** 2, 0.0, None) ** 2
    local = points - centre
    shifts = gain * slope
    if level.freedom == "similarity":
        turned = local @ matrix[:3, :3].T
        columns = np.concatenate(
            [np.cross(turned, shifts), (turned * shifts).sum(axis=1, keepdims=True), shifts], axis=1
        )
    else:
        columns = np.concatenate([(shifts[:, :, None] * local[:, None, :]).reshape(-1, 9), shifts], axis=1)
    jacobian = np.concatenate([columns, value[:, None], np.ones((len(value), 1))], axis=1)
    weighted = jacobian * weight[:, None]
    normal = weighted.T @ jacobian
    normal += 1e-6 * np.diag(np.diag(normal)) + 1e-12 * np.eye(len(normal))
    change = -np.linalg.solve(normal, weighted.T @ residual)
    cost = float(np.minimum(np.abs(residual), 0.5).mean())
    return _moved(matrix, change, centre, level), cost


def _moved(matrix: Affine, change: NDArray[np.float64], centre: NDArray[np.float64], level: _Level) -> Affine:
    """The affine after a change about the centre of the points."""
    linear = matrix[:3, :3]
    at_centre = linear @ centre + matrix[:3, 3]
    if level.freedom == "similarity":
        wx, wy, wz = np.clip(change[:3], -0.2, 0.2)
        grow = float(np.clip(change[3], -0.1, 0.1))
        turn = np.array([[grow, -wz, wy], [wz, grow, -wx], [-wy, wx, grow]]) + np.eye(3)
        left, singular, right = np.linalg.svd(turn @ linear)
        linear, shift = left @ right * singular.mean(), change[4:7]
    else:
        linear, shift = linear + change[:9].reshape(3, 3), change[9:12]
    out = np.eye(4)
    out[:3, :3] = linear
    out[:3, 3] = at_centre + shift - linear @ centre
    return out


def _line(value: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[float, float]:
    """Gain and offset that fit value to target best."""
    spread = float(value.var())
    if spread < 1e-9:  # noqa: PLR2004 - nothing but background
        return 1.0, 0.0
    gain = float(((value - value.mean()) * (target - target.mean())).mean()) / spread
    gain = max(gain, 0.2)
    return gain, float(target.mean()) - gain * float(value.mean())


def _smoothed(volume: Volume, sigma_mm: float) -> Volume:
    sigma = sigma_mm / float(volume.grid.spacing_mm[0])
    return Volume(ndimage.gaussian_filter(volume.voxels, sigma, mode="constant", truncate=3.0), volume.grid)


def _gradient(volume: Volume) -> tuple[FloatMap, FloatMap, FloatMap]:
    """Derivatives per mm along x, y, z of an upright volume."""
    spacing_mm = float(volume.grid.spacing_mm[0])
    along_z, along_y, along_x = (np.asarray(g, dtype=np.float32) for g in np.gradient(volume.voxels, spacing_mm))
    return along_x, along_y, along_z


def _similarity(moving: _Moving, fixed: Volume, mask: BoolMap, matrix: Affine) -> float:
    """Pearson correlation of brain and template where the template is brain and the source known, at 2 mm sigma."""
    known = moving.knows(fixed.grid.to_lps(np.argwhere(mask)) @ matrix[:3, :3].T + matrix[:3, 3])
    moved = resample(_smoothed(moving.brain, 2.0), fixed.grid, matrix)[mask][known]
    still = _smoothed(fixed, 2.0).voxels[mask][known]
    if not len(moved):
        return 0.0
    if float(moved.std()) < 1e-6:  # noqa: PLR2004 - a constant image resembles nothing
        return 0.0
    return float(np.corrcoef(moved, still)[0, 1])
