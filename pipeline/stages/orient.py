"""Resampling between grids: any orientation and voxel size in, patient axes and millimetres out.

Arrays are [slice, row, column]; on an upright grid a step of slice goes to the head (+z), of row to the back (+y),
of column to the patient's left (+x): DICOM LPS.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from anomalyd.pipeline.volume import Affine, FloatMap, Grid, Volume

UPRIGHT_MM = 1.5  # fine enough for brain extraction; its network sees about 0.7 mm voxels of nearest neighbours
PREFILTER = 0.42  # sigma, in units of sqrt(ratio^2 - 1) voxels: the Gaussian that stands for averaging over a voxel


def upright_grid(grid: Grid, spacing_mm: float = UPRIGHT_MM) -> Grid:
    """The axis-parallel isotropic grid that covers all of another grid's voxels."""
    size = np.array(grid.shape, dtype=np.float64)
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in size], indexing="ij")).reshape(3, -1).T
    points = grid.to_lps(corners)
    low, high = points.min(axis=0), points.max(axis=0)
    shape_xyz = np.maximum(1, np.ceil((high - low) / spacing_mm - 1e-6)).astype(int)
    first = (low + high) / 2 - (shape_xyz - 1) / 2 * spacing_mm
    return axis_grid((int(shape_xyz[2]), int(shape_xyz[1]), int(shape_xyz[0])), spacing_mm, first)


def axis_grid(shape: tuple[int, int, int], spacing_mm: float, first_lps_mm: Affine) -> Grid:
    """An axis-parallel grid; first_lps_mm: (3,) x, y, z of the centre of voxel (0, 0, 0)."""
    matrix = np.zeros((4, 4))
    matrix[2, 0] = matrix[1, 1] = matrix[0, 2] = spacing_mm
    matrix[:3, 3] = first_lps_mm
    matrix[3, 3] = 1.0
    return Grid(shape, matrix)


def orient(volume: Volume, spacing_mm: float = UPRIGHT_MM) -> Volume:
    """The volume on the upright grid that covers it, smoothed first where its voxels are finer; outside is 0."""
    grid = upright_grid(volume.grid, spacing_mm)
    return Volume(resample(smooth_for(volume, spacing_mm), grid), grid)


def smooth_for(volume: Volume, spacing_mm: float) -> Volume:
    """The volume without detail finer than a coming voxel size, along each of its axes alone."""
    ratio = spacing_mm / np.array(volume.grid.spacing_mm, dtype=np.float64)
    sigma = PREFILTER * np.sqrt(np.maximum(ratio**2 - 1.0, 0.0))
    if not sigma.any():
        return volume
    smooth = ndimage.gaussian_filter(volume.voxels, tuple(sigma), mode="nearest", truncate=3.0)
    return Volume(smooth, volume.grid)


def resample(volume: Volume, grid: Grid, to_source: Affine | None = None, *, order: Literal[0, 1] = 1) -> FloatMap:
    """float32 values of a volume at another grid's voxel centres; 0 beyond the volume's voxel edges.

    to_source: (4, 4) from the grid's LPS mm to the volume's LPS mm; None where both share one frame.
    order: 1 linear, 0 nearest voxel.
    """
    step = np.eye(4) if to_source is None else to_source
    index = np.linalg.inv(volume.grid.index_to_lps) @ step @ grid.index_to_lps
    # One voxel of edge padding: linear interpolation reaches the outer half of the border voxels too.
    padded = np.pad(volume.voxels, 1, mode="edge")
    out: NDArray[np.float32] = ndimage.affine_transform(
        padded, index[:3, :3], index[:3, 3] + 1.0, output_shape=grid.shape, order=order, mode="constant", cval=0.0
    )
    return np.asarray(out, dtype=np.float32)


def area_average(volume: Volume, grid: Grid, to_source: Affine | None = None) -> FloatMap:
    """Mean of a volume over each voxel of an isotropic grid: eight linear samples per voxel.

    Point sampling at 2 mm aliases and B-splines overshoot; means do neither (METHOD section 1).
    """
    fine_mm = float(grid.spacing_mm[0]) / 2
    shape = (2 * grid.shape[0], 2 * grid.shape[1], 2 * grid.shape[2])
    halve = np.diag([0.5, 0.5, 0.5, 1.0])
    halve[:3, 3] = -0.25
    fine = resample(smooth_for(volume, fine_mm), Grid(shape, grid.index_to_lps @ halve), to_source)
    blocks = fine.reshape(grid.shape[0], 2, grid.shape[1], 2, grid.shape[2], 2)
    return np.asarray(blocks.mean(axis=(1, 3, 5)), dtype=np.float32)
