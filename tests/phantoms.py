"""A head-like phantom written as MR series: asymmetric in all three axes, with a lesion at a known LPS point.

    series = PhantomWriter(plane="sagittal", order="shuffled").write(tmp_path, lesion_at=(31.0, -12.0, 24.0))
    series = PhantomWriter(plane="axial", spacing_mm=(1, 1, 1)).write_volume(volume, tmp_path)  # "scan" any head

The phantom is a function of the point, not an image: every plane, flip and spacing samples it exactly.
"""

import dataclasses
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    generate_uid,
)
from scipy import ndimage

from anomalyd.ids import SeriesUID, StudyUID
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.volume import FloatMap, Grid, PointsLPS, Volume
from phantom_headers import Acquisition, classic_dataset, enhanced_dataset, study_attributes

PointLPS = tuple[float, float, float]
Plane = Literal["axial", "sagittal", "coronal", "oblique"]
Order = Literal["forward", "reversed", "shuffled"]
Flip = Literal["rows", "columns"]

PLANES: tuple[Plane, ...] = ("axial", "sagittal", "coronal", "oblique")
ORDERS: tuple[Order, ...] = ("forward", "reversed", "shuffled")

HEAD_EXTENT_MM = (186.0, 234.0, 201.0)
"""x, y, z that the whole phantom (nose, capsule) fits into, centred on (0, 0, 0)."""

LEFT_FRONTAL: PointLPS = (31.0, -27.0, 24.0)
"""A point of the left hemisphere, in front, above: no mirror image of the phantom has it at the same place."""

PATIENT_MARKERS: Mapping[str, str] = {
    "PatientName": "Zzmarkername^Qqfirst",
    "PatientID": "ZZMARKERID7731",
    "PatientBirthDate": "19010203",
    "AccessionNumber": "ZZMARKERACC991",
}
"""Values to plant and to search for in logs, names of files and messages."""

# Row cosine (increasing column index) and column cosine (increasing row index), PS3.3 C.7.6.2.1.1.
_COSINES: dict[Plane, tuple[PointLPS, PointLPS]] = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "oblique": ((1, 0, 0), (0, 1, 0)),
}
_OBLIQUE_DEG = (17.0, -9.0, 12.0)  # turns about x, y, z


@dataclass(frozen=True, slots=True)
class WrittenSeries:
    """What lies in the folder: files by InstanceNumber, and the grid in geometric order (along the normal)."""

    folder: Path
    files: tuple[Path, ...]
    study_uid: StudyUID
    series_uid: SeriesUID
    grid: Grid
    lesion_at: PointLPS | None
    missing: tuple[int, ...]

    @property
    def voxel_mm(self) -> float:
        """The longest edge of a voxel: what a position can be known to."""
        return max(self.grid.spacing_mm)


@dataclass(frozen=True, slots=True)
class PhantomWriter:
    """How the series is acquired and written; every field has a default that makes a small, clean T1w series."""

    plane: Plane = "axial"
    cosines: tuple[PointLPS, PointLPS] | None = None
    """Of a row and of a column, instead of those of the plane: any of the 24 orientations along the axes."""
    order: Order = "forward"
    """Along the slice normal, as InstanceNumber counts; shuffled: in no order."""
    flips: tuple[Flip, ...] = ()
    """Directions of increasing row or column index that are turned round (another orientation, not a mirror)."""
    spacing_mm: tuple[float, float, float] = (3.0, 3.0, 3.0)
    """Between slices, rows, columns."""
    shape: tuple[int, int, int] | None = None
    """Slices, rows, columns; by default as many as the head needs, columns odd."""
    centre_lps: PointLPS = (0.0, 0.0, 0.0)
    contrast: Contrast = Contrast.T1W
    enhanced: bool = False
    groups_per_frame: bool = False
    """Enhanced: pixel measures and orientation in every frame, as Siemens XA and Philips write them."""
    transfer_syntax: str = ExplicitVRLittleEndian
    missing: tuple[int, ...] = ()
    """Geometric slice indices that are not written."""
    expected_count: Literal["all", "absent"] = "all"
    """ImagesInAcquisition: the full stack, or no such attribute."""
    character_set: tuple[str, ...] = ("ISO_IR 100",)
    """Empty: no SpecificCharacterSet."""
    attributes: Mapping[str, object] = field(default_factory=dict)
    """Replaces or adds top-level attributes of each file by keyword; None removes one (PATIENT_MARKERS, ...)."""
    seed: str = "phantom"
    """Every UID and the noise derive from it and from the other fields: another seed, another study."""
    study_seed: str | None = None
    """The same for several writers: one study."""

    def grid(self) -> Grid:
        """The grid of the full stack, slice index along the normal."""
        row_cosine, column_cosine = (np.array(v, dtype=np.float64) for v in self.cosines or _COSINES[self.plane])
        if self.plane == "oblique" and self.cosines is None:
            turn = _rotation(_OBLIQUE_DEG)
            row_cosine, column_cosine = turn @ row_cosine, turn @ column_cosine
        row_cosine = -row_cosine if "columns" in self.flips else row_cosine
        column_cosine = -column_cosine if "rows" in self.flips else column_cosine
        axes = np.stack([np.cross(row_cosine, column_cosine), column_cosine, row_cosine], axis=1)
        steps = axes * np.array(self.spacing_mm)
        shape = self.shape or _covering_shape(axes, self.spacing_mm)
        affine = np.eye(4)
        affine[:3, :3] = steps
        affine[:3, 3] = np.array(self.centre_lps) - steps @ ((np.array(shape) - 1) / 2)
        return Grid(shape, affine)

    def write(
        self, folder: Path, *, lesion_at: PointLPS | None = LEFT_FRONTAL, radius_mm: float = 9.0
    ) -> WrittenSeries:
        """The phantom, scanned; lesion: a dark ball (bright for T2w and FLAIR), None for a healthy one."""
        grid = self.grid()
        voxels = phantom(grid, contrast=self.contrast, lesion_at=lesion_at, radius_mm=radius_mm)
        noise = np.random.default_rng(_seed_number(self.seed)).normal(0.0, 8.0, voxels.shape)
        noisy = np.hypot(voxels + noise, noise[::-1, ::-1]).astype(np.float32)
        written = self.write_voxels(noisy, grid, folder)
        return dataclasses.replace(written, lesion_at=lesion_at)

    def write_volume(self, volume: Volume, folder: Path) -> WrittenSeries:
        """Any head, scanned: resampled (linear, 0 outside) onto this writer's grid, rescaled to 0..1000."""
        grid = self.grid()
        voxels = sample(volume, grid)
        top = float(np.percentile(voxels[voxels > 0], 99.5)) if (voxels > 0).any() else 1.0
        return self.write_voxels(np.clip(voxels * (1000.0 / top), 0, 4095).astype(np.float32), grid, folder)

    def write_voxels(self, voxels: FloatMap, grid: Grid, folder: Path) -> WrittenSeries:
        """An array that lies on `grid` already, values 0..65535."""
        folder.mkdir(parents=True, exist_ok=True)
        stored = np.clip(np.rint(voxels), 0, 65535).astype(np.uint16)
        slices = self._slice_order(grid.shape[0])
        base = study_attributes(
            study_uid=self._uid("study"), series_uid=self._uid("series"), character_set=self.character_set
        )
        acquisition = Acquisition.of(self.contrast, self.plane, len(slices) + len(self.missing))
        if self.expected_count == "absent":
            acquisition = dataclasses.replace(acquisition, images=None)
        if self.enhanced:
            frames = [(k, grid) for k in slices]
            dataset = enhanced_dataset(base, acquisition, frames, per_frame=self.groups_per_frame)
            files = [self._save(dataset, stored[slices], self._uid("instance"), 1, folder / "enhanced.dcm")]
        else:
            files = [
                self._save(
                    classic_dataset(base, acquisition, grid, k),
                    stored[k],
                    self._uid(f"instance {k}"),
                    number,
                    folder / f"image-{number:04d}.dcm",
                )
                for number, k in enumerate(slices, start=1)
            ]
        return WrittenSeries(
            folder,
            tuple(files),
            StudyUID(self._uid("study")),
            SeriesUID(self._uid("series")),
            grid,
            None,
            self.missing,
        )

    def _slice_order(self, count: int) -> list[int]:
        present = [k for k in range(count) if k not in self.missing]
        if self.order == "reversed":
            present.reverse()
        if self.order == "shuffled":
            np.random.default_rng(_seed_number(self.seed)).shuffle(present)
        return present

    def _uid(self, what: str) -> str:
        if what == "study" and self.study_seed is not None:
            return str(generate_uid(entropy_srcs=["anomalyd phantom study", self.study_seed]))
        fields = [repr(getattr(self, f.name)) for f in dataclasses.fields(self)]
        return str(generate_uid(entropy_srcs=["anomalyd phantom", what, *fields]))

    def _save(self, dataset: pydicom.Dataset, pixels: NDArray[np.uint16], uid: str, number: int, path: Path) -> Path:
        dataset.SOPInstanceUID, dataset.InstanceNumber = uid, number
        for keyword, value in self.attributes.items():
            if value is None:
                dataset.pop(keyword, None)
            else:
                setattr(dataset, keyword, value)
        save_with_pixels(dataset, pixels, self.transfer_syntax, path)
        return path


_BY_DCMTK = {JPEGLosslessSV1: "+e1", JPEGLossless: "+el"}


def save_with_pixels(dataset: pydicom.Dataset, pixels: NDArray[np.uint16], transfer_syntax: str, path: Path) -> None:
    """Writes a Part 10 file; JPEG lossless needs dcmtk's dcmcjpeg, the other syntaxes only Python."""
    syntax = pydicom.uid.UID(transfer_syntax)
    encoded_later = syntax.is_compressed and not syntax.is_deflated
    plain = ExplicitVRLittleEndian if encoded_later else syntax
    dataset.PixelData = pixels.astype(">u2" if plain == ExplicitVRBigEndian else "<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = plain
    if encoded_later and syntax not in _BY_DCMTK:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(
        path,
        implicit_vr=dataset.file_meta.TransferSyntaxUID.is_implicit_VR,
        little_endian=dataset.file_meta.TransferSyntaxUID.is_little_endian,
        enforce_file_format=True,
    )
    if syntax in _BY_DCMTK:
        subprocess.run(["dcmcjpeg", _BY_DCMTK[syntax], "+ud", str(path), str(path)], check=True, capture_output=True)


def phantom(grid: Grid, *, contrast: Contrast, lesion_at: PointLPS | None, radius_mm: float) -> FloatMap:
    """Noise-free intensities 0..1000 at the voxel centres of a grid."""
    voxels = np.empty(grid.shape, dtype=np.float32)
    in_plane = np.moveaxis(np.indices((1, *grid.shape[1:])), 0, -1)
    for k in range(grid.shape[0]):  # slice by slice: the points of a whole 1 mm head would be 300 MB
        points = grid.to_lps(in_plane + np.array((k, 0.0, 0.0)))[0]
        voxels[k] = _intensities_at(points, contrast)
        if lesion_at is not None:
            voxels[k][_inside(points, lesion_at, (radius_mm,) * 3)] = _LESION[contrast]
    return voxels


def _intensities_at(points: PointsLPS, contrast: Contrast) -> NDArray[np.float64]:
    scalp, csf, grey, white = _TISSUE[contrast]
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    values = np.zeros(points.shape[:-1])
    values[_inside(points, (0, 4, 0), (82, 103, 92))] = scalp
    values[_inside(points, (0, -103, -32), (10, 13, 18))] = scalp  # nose
    values[_inside(points, (80, 10, 5), (9, 9, 9))] = 950.0  # capsule of oil, taped to the left temple
    values[_inside(points, (0, 4, 2), (76, 95, 84))] = 60.0  # bone
    depth = _depth(points, (0, 4, 4), (69, 87, 72))
    brain = (depth <= 1.0) & ~((z < -22) & (y < -5) & (np.abs(x) > 30) & (y < z))
    folded = depth + 0.018 * np.cos(x / 5.5) * np.cos(y / 6.5) * np.cos(z / 6.0)
    values[brain] = csf
    values[brain & (folded < 0.95)] = grey
    values[brain & (folded < 0.82)] = white
    values[brain & (np.abs(x) < 1.6) & (depth > 0.6)] = csf  # falx
    values[_inside(points, (13, 0, 12), (6, 30, 9))] = csf  # left ventricle, larger
    values[_inside(points, (-12, -4, 12), (4, 22, 7))] = csf
    values[_inside(points, (-24, 4, 6), (8, 16, 9))] = grey  # deep grey matter, the right one further in front
    values[_inside(points, (24, 14, 4), (8, 13, 8))] = grey
    return values


_LESION: dict[Contrast, float] = {Contrast.T1W: 180.0, Contrast.T2W: 980.0, Contrast.FLAIR: 980.0}
# scalp, cerebrospinal fluid, grey, white
_TISSUE: dict[Contrast, tuple[float, float, float, float]] = {
    Contrast.T1W: (820.0, 150.0, 470.0, 700.0),
    Contrast.T2W: (600.0, 950.0, 520.0, 380.0),
    Contrast.FLAIR: (600.0, 90.0, 560.0, 450.0),
}


def sample(volume: Volume, grid: Grid) -> FloatMap:
    """Linear interpolation of a volume at the voxel centres of another grid, 0 outside."""
    relative = np.linalg.inv(volume.grid.index_to_lps) @ grid.index_to_lps
    sampled = ndimage.affine_transform(
        volume.voxels, relative[:3, :3], relative[:3, 3], output_shape=grid.shape, order=1, mode="constant"
    )
    return np.asarray(sampled, dtype=np.float32)


def insert_lesion(volume: Volume, lesion_at: PointLPS, radius_mm: float, intensity: float) -> Volume:
    """The volume with a soft-edged ball of one intensity (edge 2 mm wide)."""
    points = volume.grid.to_lps(np.moveaxis(np.indices(volume.grid.shape), 0, -1))
    distance = np.linalg.norm(points - np.array(lesion_at), axis=-1)
    weight = np.clip((radius_mm + 1.0 - distance) / 2.0, 0.0, 1.0)
    mixed = volume.voxels * (1.0 - weight) + intensity * weight
    return dataclasses.replace(volume, voxels=mixed.astype(np.float32))


def _depth(points: PointsLPS, centre: PointLPS, semi_axes: PointLPS) -> NDArray[np.float64]:
    """0 in the centre of an ellipsoid, 1 on its surface."""
    return np.asarray(np.linalg.norm((points - np.array(centre)) / np.array(semi_axes), axis=-1))


def _inside(points: PointsLPS, centre: PointLPS, semi_axes: PointLPS) -> NDArray[np.bool_]:
    return np.asarray(_depth(points, centre, semi_axes) <= 1.0)


def _rotation(degrees: PointLPS) -> NDArray[np.float64]:
    """Turns about x, then y, then z."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn


def _covering_shape(axes: NDArray[np.float64], spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    extents = np.abs(axes.T) @ np.array(HEAD_EXTENT_MM)
    slices, rows, columns = (int(np.ceil(e / s)) for e, s in zip(extents, spacing_mm, strict=True))
    return slices, rows + rows % 2, columns + 1 - columns % 2


def _seed_number(text: str) -> int:
    return int.from_bytes(text.encode()[:8].ljust(8, b"\0"), "little")
