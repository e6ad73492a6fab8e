"""The demonstration's head: made, never scanned, with a lesion whose place is known.

Anatomy: ICBM 152 averages as two installed wheels ship them (carriers of data, nothing of them is imported). The brain
is put together from the grey and white matter maps of nilearn (2009a, 1 mm), each voxel drawn towards its likeliest
tissue: an average image has shallow sulci and soft edges, and a detector that knows single people says so all over it.
Skull, scalp and face come from the sharpened whole-head average of VisualQC (sixth generation; requirements/demo.lock).
All of it is bent by a smooth random field before it is "scanned".
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
from phantoms import PhantomWriter, PointLPS, WrittenSeries

HEAD_FILE = ("visualqc", "visualqc/resources/atlases/mni_icbm152_nl_VI_nifti/icbm_avg_152_t1_tal_nlin_symmetric_VI.nii")
TISSUE_FILES = {
    name: ("nilearn", f"nilearn/datasets/data/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
    for name in ("t1", "gm", "wm")
}
SEED = 20260105
SHAPE, SPACING_MM = (176, 256, 256), (1.0, 1.0, 1.0)
CENTRE_LPS: PointLPS = (0.0, 17.0, 15.0)  # of the field of view: the middle of the atlas head
LESION_LPS: PointLPS = (26.0, -8.0, 36.0)  # left frontal white matter, beside the centrum semiovale
LESION_RADIUS_MM = 10.5
WHITE_MATTER = 600.0  # stored value of healthy white matter
LESION_DEPTH = 0.28  # share of the tissue's brightness that the lesion's core lacks: white matter as dark as cortex
FLUID, GREY, WHITE = 0.25, 0.68, 1.0  # brightness of each tissue, as in an MPRAGE
CRISPNESS = 2.0  # power of the tissue shares: 1 leaves the average's soft edges
FLUID_WEIGHT = 4.0  # averaging over people closes sulci: where fluid is possible it counts as more likely
RIM_MM = 3  # of fluid and membranes about the brain, where the two averages do not lie exactly on each other
NOISE = 11.0  # standard deviation, 1.8 % of white matter
BEND_MM = ((30.0, 4.5), (11.0, 1.6))  # (scale, largest displacement) of each part of the random field
ADULT_SIZE = 0.94  # the atlas is larger than nearly everybody (brain and fluid 1.9 l): all lengths shrink by this
BIAS = 0.04  # receive field after the scanner's own correction: up to 4 % brighter or darker, over BIAS_MM
BIAS_MM = 120.0
CENTRE_GAIN, CENTRE_GAIN_LPS, CENTRE_GAIN_MM = 0.12, (0.0, 15.0, -12.0), 38.0  # a 3 T transmit field is strongest there


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
    tissue = bent(grid, random)
    weight = lesion_weight(grid, random)
    signal = tissue * WHITE_MATTER * (1.0 - LESION_DEPTH * weight) * coil_fields(grid, random)
    real, imaginary = (random.normal(0.0, NOISE, grid.shape).astype(np.float32) for _ in range(2))
    core = np.argwhere(weight >= 0.5)
    x, y, z = grid.to_lps(core.astype(np.float64)).mean(axis=0)
    return MadeHead(
        volume=Volume(np.hypot(signal + real, imaginary).astype(np.float32), grid),
        lesion_lps=(float(x), float(y), float(z)),
        lesion_ml=len(core) * grid.voxel_volume_mm3 / 1000.0,
    )


def average_head() -> Volume:
    """The average head with the contrast of its edges raised (unsharp masking): background 0, white matter about 1."""
    volume = _installed(*HEAD_FILE)
    # The file holds a narrow band above an offset of 45; the 80th percentile of the head is near white matter.
    above = volume.voxels - float(volume.voxels.min())
    inside = above > 0.15 * float(np.percentile(above, 99.5))
    scaled = above / float(np.percentile(above[inside], 80.0))
    scaled[~ndimage.binary_fill_holes(ndimage.binary_opening(inside, iterations=2))] = 0.0
    scaled = np.clip(scaled, 0.0, 2.0)
    sharp = np.clip(scaled + 1.1 * (scaled - ndimage.gaussian_filter(scaled, 1.6)), 0.0, 2.0)
    return Volume(np.where(scaled > 0, sharp, 0.0).astype(np.float32), volume.grid)


def bent(grid: Grid, random: np.random.Generator) -> FloatMap:
    """Brightness of somebody else's head on a grid of 1 mm: everything is looked up at a smoothly displaced place."""
    index = np.indices(grid.shape, dtype=np.float32)
    for scale_mm, largest_mm in BEND_MM:
        for axis in range(3):
            index[axis] += largest_mm * smooth_field(grid.shape, scale_mm, random)
    maps = {name: _installed(*file) for name, file in TISSUE_FILES.items()}
    grey, white = (_looked_up(maps[name], grid, index) / np.float32(255.0) for name in ("gm", "wm"))
    brain = _looked_up(Volume((maps["t1"].voxels > 0).astype(np.float32), maps["t1"].grid), grid, index)
    inside = brain > 0.5
    around = ndimage.binary_dilation(inside, iterations=RIM_MM) & ~inside
    outer = _looked_up(average_head(), grid, index)
    outer[around] = np.minimum(outer[around], FLUID)
    return np.where(inside, tissue_brightness(brain, grey, white), outer).astype(np.float32)


def tissue_brightness(brain: FloatMap, grey: FloatMap, white: FloatMap) -> FloatMap:
    """Brightness for the shares of brain, grey and white matter of each voxel (0..1); the rest is fluid."""
    shares = np.stack([FLUID_WEIGHT * np.clip(brain - grey - white, 0.0, 1.0), grey, white]) ** np.float32(CRISPNESS)
    mixed = np.tensordot(np.array([FLUID, GREY, WHITE], dtype=np.float32), shares, axes=1)
    return np.asarray(mixed / np.maximum(shares.sum(axis=0), 1e-6), dtype=np.float32)


def coil_fields(grid: Grid, random: np.random.Generator) -> FloatMap:
    """Brightness factor of receive and transmit field around 1."""
    received = np.exp(BIAS * smooth_field(grid.shape, BIAS_MM, random))
    coarse = np.moveaxis(np.indices([-(-n // 4) for n in grid.shape], dtype=np.float64) * 4.0, 0, -1)
    away_mm = np.linalg.norm(grid.to_lps(coarse) - np.array(CENTRE_GAIN_LPS), axis=-1)
    sent = 1.0 + CENTRE_GAIN * _stretched(np.exp(-0.5 * (away_mm / CENTRE_GAIN_MM) ** 2), grid.shape, order=1)
    return np.asarray(received * sent, dtype=np.float32)


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


def _installed(package: str, file: str) -> Volume:
    """An image that a wheel carries, on a grid of ADULT_SIZE; raises NoAtlas."""
    try:
        path = Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError as exc:
        raise NoAtlas("the demo's head image is not installed: run `make setup`") from exc
    volume = read_nifti(path)
    return Volume(volume.voxels, Grid(volume.grid.shape, np.diag([ADULT_SIZE] * 3 + [1.0]) @ volume.grid.index_to_lps))


def _looked_up(volume: Volume, grid: Grid, index: FloatMap) -> FloatMap:
    """The volume at the (3, ...) voxel indices of the grid, linear, 0 outside."""
    matrix = (np.linalg.inv(volume.grid.index_to_lps) @ grid.index_to_lps).astype(np.float32)
    at = (matrix[:3, :3] @ index.reshape(3, -1) + matrix[:3, 3:]).reshape(index.shape)
    return np.asarray(ndimage.map_coordinates(volume.voxels, at, order=1, mode="constant"), dtype=np.float32)
