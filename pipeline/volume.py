"""Arrays with their place in the patient: DICOM LPS, millimetres, voxel centres."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anomalyd.ids import InstanceUID, Millimetre

FloatMap = NDArray[np.float32]
BoolMap = NDArray[np.bool_]
Affine = NDArray[np.float64]
PointsLPS = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where voxel centres lie: index (slice, row, column) -> LPS mm (PS3.3 C.7.6.2.1.1).

    shape: (slices, rows, columns).
    index_to_lps: (4, 4) float64; columns 0, 1, 2 are the steps of one slice, one row, one column.
    """

    shape: tuple[int, int, int]
    index_to_lps: Affine

    @property
    def spacing_mm(self) -> tuple[Millimetre, Millimetre, Millimetre]:
        """Distance between neighbouring voxel centres along slice, row and column index."""
        lengths = np.linalg.norm(self.index_to_lps[:3, :3], axis=0)
        return Millimetre(float(lengths[0])), Millimetre(float(lengths[1])), Millimetre(float(lengths[2]))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel."""
        return float(abs(np.linalg.det(self.index_to_lps[:3, :3])))

    def to_lps(self, indices: NDArray[np.float64] | NDArray[np.int64]) -> PointsLPS:
        """(..., 3) LPS mm of (..., 3) indices (slice, row, column)."""
        return np.asarray(indices, dtype=np.float64) @ self.index_to_lps[:3, :3].T + self.index_to_lps[:3, 3]

    def to_index(self, points_lps: PointsLPS) -> NDArray[np.float64]:
        """(..., 3) fractional indices (slice, row, column) of (..., 3) LPS mm."""
        inverse = np.linalg.inv(self.index_to_lps[:3, :3])
        return (np.asarray(points_lps, dtype=np.float64) - self.index_to_lps[:3, 3]) @ inverse.T


@dataclass(frozen=True, slots=True)
class SliceSource:
    """The received image that a slice came from."""

    instance_uid: InstanceUID
    frame: int | None = None
    """1-based frame of an Enhanced object; None for a classic one."""


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """One image volume on its own grid.

    voxels: float32 [slice, row, column], rescaled to the modality's units, finite.
    sources: one entry per slice, None where the slice was missing and interpolated; empty for NIfTI.
    warnings: what the reader had to mend, in words.
    """

    voxels: FloatMap
    grid: Grid
    sources: tuple[SliceSource | None, ...] = field(default=())
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Arrays never travel without their own grid."""
        if self.voxels.shape != self.grid.shape:
            raise ValueError(f"voxels {self.voxels.shape} do not lie on grid {self.grid.shape}")
        if self.sources and len(self.sources) != self.grid.shape[0]:
            raise ValueError(f"{len(self.sources)} sources for {self.grid.shape[0]} slices")

    @property
    def interpolated_slices(self) -> tuple[int, ...]:
        """Indices of slices that no instance stands behind: never marked."""
        return tuple(k for k, source in enumerate(self.sources) if source is None)
