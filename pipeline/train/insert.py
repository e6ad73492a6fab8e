"""Made-up lesions in healthy scans, on the scan's own grid: what tests and development are measured with."""

from dataclasses import dataclass

import numpy as np

from anomalyd.pipeline.volume import BoolMap, Volume

BORDER_MM = 1.5  # a lesion's edge is this soft


@dataclass(frozen=True, slots=True, eq=False)
class Inserted:
    """A scan with a lesion, and the voxels that are more than half lesion."""

    volume: Volume
    mask: BoolMap


def insert_ellipsoid(
    volume: Volume, centre_lps_mm: tuple[float, float, float], semi_axes_mm: tuple[float, float, float], value: float
) -> Inserted:
    """The scan with an ellipsoid (axes along x, y, z) of one value and a soft border pasted in."""
    indices = np.indices(volume.grid.shape).reshape(3, -1).T
    offset = (volume.grid.to_lps(indices) - np.array(centre_lps_mm)) / np.array(semi_axes_mm)
    distance = np.linalg.norm(offset, axis=1).reshape(volume.grid.shape)
    softness = BORDER_MM / float(np.mean(semi_axes_mm))
    weight = np.clip((1.0 - distance) / softness + 0.5, 0.0, 1.0).astype(np.float32)
    voxels = volume.voxels + weight * (np.float32(value) - volume.voxels)
    return Inserted(Volume(voxels, volume.grid, volume.sources), np.asarray(weight > 0.5))  # noqa: PLR2004 - half
