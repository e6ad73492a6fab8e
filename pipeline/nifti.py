"""NIfTI files in and out: the one place where RAS exists (NIfTI-1.1, nifti1.h).

Written by SimpleITK, read here: SimpleITK 2.5 fills a truncated file with zeros without a word, and prefers qform where
it differs from sform (both tried). The rule here is that of nibabel and FSL: sform if sform_code > 0, else qform if
qform_code > 0, else nibabel's centred default.
"""

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses
from numpy.typing import NDArray

from anomalyd.errors import Ineligible, Refused
from anomalyd.pipeline.volume import Affine, Grid, Volume

MAX_VOXELS = 1 << 29  # 2 GB of float32
SHEAR_TOLERANCE = 1e-3  # cosine between two axes; float32 headers of real scans stay below 1e-6
IMAGE_DIMENSIONS = 3
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NIFTI1, _NIFTI2 = 348, 540  # sizeof_hdr, which also tells the byte order
_FIELDS = {  # offset and type (nifti1.h, nifti2.h)
    _NIFTI1: {
        "dim": (40, "8h"), "datatype": (70, "h"), "pixdim": (76, "8f"), "vox_offset": (108, "f"),
        "scaling": (112, "2f"), "codes": (252, "2h"), "quatern": (256, "6f"), "srow": (280, "12f"),
    },
    _NIFTI2: {
        "dim": (16, "8q"), "datatype": (12, "h"), "pixdim": (104, "8d"), "vox_offset": (168, "q"),
        "scaling": (176, "2d"), "codes": (344, "2i"), "quatern": (352, "6d"), "srow": (400, "12d"),
    },
}  # fmt: skip
_MAGIC = {_NIFTI1: (344, b"n+1"), _NIFTI2: (4, b"n+2")}
_DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_WRITABLE = (np.float32, np.uint8, np.int8, np.int16, np.uint16)


@dataclass(frozen=True, slots=True, eq=False)
class _Header:
    """What is needed of it: shape in file order (x, y, z, ...), affine (i, j, k) -> RAS mm, the voxels' form."""

    shape: tuple[int, ...]
    index_to_ras: Affine
    is_placed: bool
    datatype: int
    byte_order: str
    vox_offset: int
    slope: float
    intercept: float


def read_nifti(path: Path) -> Volume:
    """The volume of one NIfTI file, on a Grid in LPS mm; array [k, j, i] = [slice, row, column]; no sources.

    Trailing dimensions of length 1 are dropped. Voxels that are not finite become 0, with a warning.
    Raises Refused when the file can't be read, Ineligible when it holds no single 3-D volume on a rectangular grid.
    """
    try:
        with _opened(path) as file:
            header = _header(path, file.read(_NIFTI2))
            shape = _single_volume(header.shape)
            _check_rectangular(header.index_to_ras)
            file.seek(header.vox_offset)
            voxels = _voxels(path, file, header, shape)
    except (OSError, EOFError, zlib.error) as exc:
        raise Refused(f"{path.name} cannot be read: {exc}") from exc
    warnings: tuple[str, ...] = ()
    if not header.is_placed:
        warnings += ("the file states no orientation (sform_code and qform_code are 0): left and right are a guess",)
    finite = np.isfinite(voxels)
    if not finite.all():
        warnings += (f"{int(voxels.size - np.count_nonzero(finite))} voxels are not finite and were set to 0",)
        voxels[~finite] = 0
    return Volume(voxels, Grid(voxels.shape, _slice_first(header.index_to_ras)), warnings=warnings)


def write_nifti(path: Path, array: NDArray[np.generic], grid: Grid) -> None:
    """Writes array [slice, row, column] on its grid; float32, uint8, int8, int16, uint16 or bool (as uint8).

    path ends in .nii or .nii.gz. The same array and grid give the same bytes.
    """
    if array.shape != grid.shape:
        raise ValueError(f"array {array.shape} does not lie on grid {grid.shape}")
    plain = array.astype(np.uint8) if array.dtype == np.bool_ else array
    if plain.dtype not in _WRITABLE:
        raise ValueError(f"{plain.dtype} is not written as NIfTI; one of {[t.__name__ for t in _WRITABLE]} is")
    # itk axes are x (column), y (row), z (slice).
    steps = grid.index_to_lps[:3, [2, 1, 0]]
    spacing = np.linalg.norm(steps, axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(plain))
    image.SetSpacing(spacing.tolist())
    image.SetDirection(_nearest_orthonormal(steps / spacing).ravel().tolist())
    image.SetOrigin(grid.index_to_lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=path.name.endswith(".gz"))


def _nearest_orthonormal(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The orthonormal (3, 3) matrix nearest to directions: itk refuses cosines that are off by rounding."""
    left, _, right = np.linalg.svd(directions)
    return np.asarray(left @ right)


def _opened(path: Path) -> BinaryIO:
    """The file, unpacked if it is gzip by content, whatever its name says."""
    with path.open("rb") as plain:
        is_gzip = plain.read(2) == b"\x1f\x8b"
    return cast("BinaryIO", gzip.open(path)) if is_gzip else path.open("rb")


def _header(path: Path, raw: bytes) -> _Header:
    for order in "<>":
        for size, fields in _FIELDS.items():
            if len(raw) >= size and struct.unpack_from(order + "i", raw)[0] == size:
                at, magic = _MAGIC[size]
                if raw[at : at + 3] != magic:
                    raise Refused(f"{path.name}: only single-file NIfTI ({magic.decode()}) is read, no .hdr/.img pair")
                values = {name: struct.unpack_from(order + form, raw, at) for name, (at, form) in fields.items()}
                return _interpreted(path, values, order)
    raise Refused(f"{path.name} is no NIfTI file: it does not start with the header size 348 or 540")


def _interpreted(path: Path, values: dict[str, tuple[float, ...]], byte_order: str) -> _Header:
    count = int(values["dim"][0])
    if not 1 <= count <= 7:  # noqa: PLR2004 - nifti1.h: dim[0] is 1..7
        raise Refused(f"{path.name}: dim[0] is {count}, 1 to 7 is allowed")
    shape = tuple(int(n) for n in values["dim"][1 : count + 1])
    affine = _affine(shape, values)
    slope, intercept = values["scaling"]
    offset = values["vox_offset"][0]
    if not (np.isfinite(affine).all() and np.isfinite(offset) and offset >= 0):
        raise Refused(f"{path.name}: affine or data offset are no usable numbers")
    is_scaled = bool(np.isfinite(slope) and slope != 0 and np.isfinite(intercept))  # nifti1.h: slope 0 means none
    return _Header(
        shape=shape, index_to_ras=affine, is_placed=any(code > 0 for code in values["codes"]),
        datatype=int(values["datatype"][0]), byte_order=byte_order, vox_offset=int(offset),
        slope=slope if is_scaled else 1.0, intercept=intercept if is_scaled else 0.0,
    )  # fmt: skip


def _affine(shape: tuple[int, ...], values: dict[str, tuple[float, ...]]) -> Affine:
    """(i, j, k) -> RAS mm by the rule at the top of this file."""
    qform_code, sform_code = values["codes"]
    affine = np.eye(4)
    if sform_code > 0:
        affine[:3] = np.reshape(values["srow"], (3, 4))
    elif qform_code > 0:
        affine = _from_quaternion(values["quatern"], values["pixdim"])
    else:  # nibabel's base affine: x runs to the left, the centre of the block is the origin
        scales = np.abs([value or 1.0 for value in values["pixdim"][1:4]]) * (-1.0, 1.0, 1.0)
        padded = np.array((*shape, 1, 1)[:3], dtype=np.float64)
        affine[:3, :3] = np.diag(scales)
        affine[:3, 3] = -scales * (padded - 1) / 2
    return affine


def _from_quaternion(quatern: tuple[float, ...], pixdim: tuple[float, ...]) -> Affine:
    """(i, j, k) -> RAS mm by method 2 of nifti1.h: quaternion b, c, d and offset; pixdim[0] is qfac."""
    b, c, d = (float(v) for v in quatern[:3])
    a = float(np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d))))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * b * c - 2 * a * d, 2 * b * d + 2 * a * c],
            [2 * b * c + 2 * a * d, a * a + c * c - b * b - d * d, 2 * c * d - 2 * a * b],
            [2 * b * d - 2 * a * c, 2 * c * d + 2 * a * b, a * a + d * d - c * c - b * b],
        ]
    )
    qfac = -1.0 if pixdim[0] < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = rotation * (np.abs(pixdim[1:4]) * (1.0, 1.0, qfac))
    affine[:3, 3] = quatern[3:]
    return affine


def _single_volume(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(x, y, z) when every dimension beyond the third has length 1; raises Ineligible."""
    if len(shape) < IMAGE_DIMENSIONS or any(n != 1 for n in shape[IMAGE_DIMENSIONS:]) or min(shape) < 1:
        raise Ineligible(
            "dimensions", list(shape), IMAGE_DIMENSIONS,
            f"the file holds {' x '.join(map(str, shape))} voxels: one 3-D volume is needed, write it to its own file",
        )  # fmt: skip
    x, y, z = shape[:IMAGE_DIMENSIONS]
    if x * y * z > MAX_VOXELS:
        raise Ineligible("voxels", x * y * z, MAX_VOXELS, f"{x * y * z} voxels, at most {MAX_VOXELS} are read")
    return x, y, z


def _check_rectangular(affine: Affine) -> None:
    """Raises Ineligible when two axes are not at right angles or an axis has no length."""
    steps = affine[:3, :3]
    lengths = np.linalg.norm(steps, axis=0)
    if not (lengths > 0).all():
        raise Ineligible("spacing", lengths.tolist(), "> 0 mm", "the affine gives a voxel side of 0 mm")
    cosines = (steps / lengths).T @ (steps / lengths) - np.eye(3)
    worst = float(np.abs(cosines).max())
    if worst > SHEAR_TOLERANCE:
        raise Ineligible(
            "shear", round(worst, 4), SHEAR_TOLERANCE,
            f"the voxel axes are not at right angles (cosine {worst:.4f}, limit {SHEAR_TOLERANCE}): resample it",
        )  # fmt: skip


def _slice_first(index_to_ras: Affine) -> Affine:
    """Affine (k, j, i) -> LPS of an affine (i, j, k) -> RAS."""
    return np.asarray((RAS_TO_LPS @ index_to_ras)[:, [2, 1, 0, 3]])


def _voxels(path: Path, file: BinaryIO, header: _Header, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """float32 [k, j, i], scaled; raises Ineligible for colours and complex numbers, Refused when bytes are missing."""
    if header.datatype not in _DTYPES:
        raise Ineligible(
            "datatype", header.datatype, sorted(_DTYPES),
            f"NIfTI data type {header.datatype} (colours, complex numbers or bits) is no image of real numbers",
        )  # fmt: skip
    dtype = np.dtype(header.byte_order + _DTYPES[header.datatype])
    wanted = shape[0] * shape[1] * shape[2] * dtype.itemsize
    raw = file.read(wanted)
    if len(raw) < wanted:
        raise Refused(f"{path.name} is truncated: {len(raw)} bytes of voxels, {wanted} are expected")
    stored = np.frombuffer(raw, dtype).reshape(shape[::-1])
    if (header.slope, header.intercept) == (1.0, 0.0):
        return stored.astype(np.float32)
    return (stored * np.float64(header.slope) + np.float64(header.intercept)).astype(np.float32)
