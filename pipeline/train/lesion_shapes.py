"""Shapes of real lesions (masks in MNI space), and a place for each in somebody else's brain."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from anomalyd.errors import ConfigError
from anomalyd.pipeline.nifti import read_nifti
from anomalyd.pipeline.stages.orient import resample
from anomalyd.pipeline.train.cohort import NIFTI_SUFFIXES
from anomalyd.pipeline.volume import Affine, BoolMap, FloatMap, Grid, PointsLPS, Volume

Index = NDArray[np.int64]

VOLUME_RANGE_ML = (0.5, 60.0)  # drawn evenly on a logarithmic scale
JITTER_MM = 6.0  # standard deviation, along each axis
EDGE_MM = 0.8  # Gaussian of the border, in the scan
MIN_SMOOTH_VOXELS = 0.7  # of the shape: its own 2 mm blocks do not show
FINE_MM = 1.0  # a lesion's share of a thicker voxel is the mean of such samples
MIN_INSIDE = 0.97  # share of a lesion in the brain
TRIES = 60  # of each volume
# The MNI152 brain in LPS mm: width and length, and the point that is laid on the scan's (middle, middle, vertex).
_MNI_SIZE_MM = np.array([140.0, 178.0])
_MNI_ANCHOR_MM = np.array([0.0, 17.0, 78.0])


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """One lesion's mask (0 or 1) in MNI space, LPS mm."""

    name: str
    mask: Volume
    centre_lps_mm: PointsLPS
    volume_ml: float


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A shape's place in a scan: where its centre goes, how much it is scaled, whether left and right are swapped."""

    shape: Shape
    centre_lps_mm: PointsLPS
    scale: float
    is_mirrored: bool

    @property
    def scan_to_shape(self) -> Affine:
        """(4, 4) from the scan's LPS mm to the shape's."""
        matrix = np.diag([-1.0 if self.is_mirrored else 1.0, 1.0, 1.0, 1.0])
        matrix[:3] /= self.scale
        matrix[:3, 3] = self.shape.centre_lps_mm - matrix[:3, :3] @ self.centre_lps_mm
        return matrix


def read_shapes(folder: Path) -> tuple[Shape, ...]:
    """All masks of a folder, in order of file name; raises ConfigError where there is none."""
    shapes = []
    for path in sorted(path for path in folder.iterdir() if path.name.endswith(NIFTI_SUFFIXES)):
        drawn = read_nifti(path)
        mask = Volume((drawn.voxels > 0).astype(np.float32), drawn.grid)
        if mask.voxels.any():
            points = mask.grid.to_lps(np.argwhere(mask.voxels > 0))
            volume_ml = len(points) * mask.grid.voxel_volume_mm3 / 1000.0
            shapes.append(Shape(path.name.split(".nii")[0], mask, points.mean(axis=0), volume_ml))
    if not shapes:
        raise ConfigError(f"no lesion mask (NIfTI) in {folder}")
    return tuple(shapes)


def mni_to_scan(brain: BoolMap, grid: Grid) -> Affine:
    """(4, 4) LPS mm to LPS mm that lays the MNI brain's box on the scan's: enough to choose a place by.

    Anchored at the vertex, since scans end at very different heights of the neck.
    """
    points = grid.to_lps(np.argwhere(brain))
    low, high = np.percentile(points, [0.1, 99.9], axis=0)
    anchor = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, high[2]])
    scale = (high - low)[:2] / _MNI_SIZE_MM
    matrix = np.diag([scale[0], scale[1], scale.mean(), 1.0])
    matrix[:3, 3] = anchor - matrix[:3, :3] @ _MNI_ANCHOR_MM
    return matrix


def draw_volumes(count: int, rng: Generator) -> list[float]:
    """Volumes in ml from VOLUME_RANGE_ML, the largest first: it finds room while there is room."""
    low, high = np.log(VOLUME_RANGE_ML)
    return sorted((float(np.exp(rng.uniform(low, high))) for _ in range(count)), reverse=True)


def _draw_place(shapes: tuple[Shape, ...], volume_ml: float, to_scan: Affine, rng: Generator) -> Place:
    """A shape at random, either side, near where it was in its owner."""
    shape = shapes[int(rng.integers(len(shapes)))]
    is_mirrored = bool(rng.random() < 0.5)  # noqa: PLR2004 - a coin
    centre = shape.centre_lps_mm * [-1.0 if is_mirrored else 1.0, 1.0, 1.0]
    in_scan = to_scan[:3, :3] @ centre + to_scan[:3, 3] + rng.normal(0.0, JITTER_MM, 3)
    return Place(shape, in_scan, float((volume_ml / shape.volume_ml) ** (1 / 3)), is_mirrored)


def lesion_weight(place: Place, grid: Grid) -> FloatMap:
    """Share of lesion in each of the scan's voxels, 0..1, soft at the border; all 0 where it lies beside the grid."""
    mask = place.shape.mask
    sigma = np.maximum(EDGE_MM / place.scale / np.array(mask.grid.spacing_mm), MIN_SMOOTH_VOXELS)
    rim = int(np.ceil(3.0 * sigma.max())) + 1
    smooth = ndimage.gaussian_filter(np.pad(mask.voxels, rim), sigma, truncate=3.0)
    origin = mask.grid.index_to_lps.copy()
    origin[:3, 3] = mask.grid.to_lps(np.array([-rim, -rim, -rim]))
    soft = Volume(smooth, Grid(smooth.shape, origin))
    out = np.zeros(grid.shape, dtype=np.float32)
    low, high = _reach(soft.grid, place, grid)
    if (low < high).all():
        window = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        out[window] = _averaged(soft, place.scan_to_shape, grid, low, high)
    return np.where(out > 0.02, out, np.float32(0.0))  # noqa: PLR2004 - tails of the Gaussian


def _reach(soft: Grid, place: Place, grid: Grid) -> tuple[Index, Index]:
    """First and last + 1 index of the scan's voxels that the shape can reach."""
    sides = np.array(np.meshgrid(*[(0.0, n - 1.0) for n in soft.shape], indexing="ij")).reshape(3, -1).T
    to_scan = np.linalg.inv(place.scan_to_shape)
    index = grid.to_index(soft.to_lps(sides) @ to_scan[:3, :3].T + to_scan[:3, 3])
    low = np.clip(np.floor(index.min(axis=0)), 0, grid.shape).astype(np.int64)
    return low, np.clip(np.ceil(index.max(axis=0)) + 1, 0, grid.shape).astype(np.int64)


def _averaged(soft: Volume, scan_to_shape: Affine, grid: Grid, low: Index, high: Index) -> FloatMap:
    """Means of the soft shape over the scan's voxels from low to high."""
    steps = np.maximum(1, np.rint(np.array(grid.spacing_mm) / FINE_MM)).astype(int)
    size = high - low
    finer = np.diag([*(1.0 / steps), 1.0])
    finer[:3, 3] = low - 0.5 + 0.5 / steps
    a, b, c = (int(n) for n in size * steps)
    fine = resample(soft, Grid((a, b, c), grid.index_to_lps @ finer), scan_to_shape)
    blocks = fine.reshape(size[0], steps[0], size[1], steps[1], size[2], steps[2])
    return np.asarray(blocks.mean(axis=(1, 3, 5)), dtype=np.float32)


def find_place(
    shapes: tuple[Shape, ...], volume_ml: float, brain: BoolMap, taken: BoolMap, grid: Grid, *, rng: Generator
) -> tuple[Place, FloatMap]:
    """A place inside the brain and off what is taken, with its weights; raises ConfigError after TRIES shapes.

    What reaches out of the brain is moved towards its middle first, and left for another shape if that is not enough.
    """
    to_scan = mni_to_scan(brain, grid)
    centre = grid.to_lps(np.argwhere(brain)).mean(axis=0)
    for _ in range(TRIES):
        drawn = _draw_place(shapes, volume_ml, to_scan, rng)
        for inwards in (0.0, 0.15, 0.3):
            moved = drawn.centre_lps_mm + inwards * (centre - drawn.centre_lps_mm)
            place = replace(drawn, centre_lps_mm=moved)
            weight = lesion_weight(place, grid)
            total = float(weight.sum())
            if total > 0 and float(weight[brain].sum()) >= MIN_INSIDE * total and not (weight[taken] > 0).any():
                return place, weight
    raise ConfigError(f"no place for a lesion of {volume_ml:.1f} ml after {TRIES} tries: ask for fewer per scan")
