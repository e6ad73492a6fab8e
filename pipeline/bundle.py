"""A bundle: the directory that holds everything a detector needs, and the digest that names it in every result.

Its files and their proof are in bundle_files.py (light: the dispatcher reads identities with it); here are its volumes.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomalyd.errors import Broken
from anomalyd.pipeline.bundle_files import (
    BRAIN_MASK,
    CALIBRATION,
    DESCRIPTION,
    MODEL_CARD,
    NORMATIVE,
    REQUIRED,
    SUMS,
    TEMPLATE,
    WEIGHTS,
    BoxSettings,
    BundleDescription,
    Calibration,
    CrossValidation,
    GateSettings,
    HistogramSettings,
    Limit,
    ModeCalibration,
    NetworkSettings,
    OperatingPoint,
    ReconstructionSettings,
    ScoreSettings,
    SourceFacts,
    TrainingFacts,
    VoxelRate,
    bundle_identity,
    checked_digest,
    read_calibration,
    read_description,
    seal,
    shipped_bundles,
)
from anomalyd.pipeline.finding import Model
from anomalyd.pipeline.terms import ScoreMode
from anomalyd.pipeline.volume import BoolMap, FloatMap, Grid, Volume

__all__ = [
    "BRAIN_MASK", "CALIBRATION", "DESCRIPTION", "MODEL_CARD", "NORMATIVE", "REQUIRED", "SUMS", "TEMPLATE", "WEIGHTS",
    "BoxSettings", "Bundle", "BundleDescription", "Calibration", "CrossValidation", "GateSettings",
    "HistogramSettings", "Limit", "ModeCalibration", "NetworkSettings", "Normative", "OperatingPoint",
    "ReconstructionSettings", "ScoreSettings", "SourceFacts", "Template", "TrainingFacts", "VoxelRate",
    "bundle_identity", "checked_digest", "load_bundle", "read_description", "read_normative", "seal",
    "shipped_bundles", "write_normative",
]  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """Mean brain (0 outside) and its mask, on one grid."""

    brain: Volume
    mask: BoolMap


@dataclass(frozen=True, slots=True, eq=False)
class Normative:
    """Mean and spread of each component over healthy scans in the box; float32 [slice, row, column]."""

    mean: dict[str, FloatMap]
    spread: dict[str, FloatMap]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A checked bundle; volumes are read when first asked for, then kept."""

    path: Path
    model: Model
    description: BundleDescription
    calibration: Calibration

    @property
    def weights(self) -> Path:
        """The network's weights (safetensors)."""
        return self.path / WEIGHTS

    @property
    def modes(self) -> tuple[ScoreMode, ...]:
        """The score modes that the bundle can compute, its own first."""
        both: tuple[ScoreMode, ...] = ("normative", "paper")
        possible = both if (self.path / NORMATIVE).exists() else both[1:]
        return tuple(sorted(possible, key=lambda mode: mode != self.description.score.mode))

    @property
    def box(self) -> Grid:
        """The analysed box in template space."""
        return self.description.box.grid

    @property
    def standard_knots(self) -> NDArray[np.float64] | None:
        """Where the percentiles of the brain's intensities are laid; None: straight from 0 to 1."""
        standard = self.description.histogram.standard
        return None if standard is None else np.array(standard, dtype=np.float64)

    @cached_property
    def template(self) -> Template:
        """The group mean."""
        from anomalyd.pipeline.nifti import read_nifti  # noqa: PLC0415 - SimpleITK stays out of the dispatcher

        brain = read_nifti(self.path / TEMPLATE)
        return Template(brain, np.asarray(read_nifti(self.path / BRAIN_MASK).voxels > 0))

    @cached_property
    def normative(self) -> Normative | None:
        """Statistics of healthy scans, where the bundle has them."""
        path = self.path / NORMATIVE
        return read_normative(path, tuple(self.description.score.weights)) if path.exists() else None


def load_bundle(path: Path) -> Bundle:
    """The bundle of a directory, every file checked against its recorded hash.

    Raises ConfigError where the directory is no bundle or a file is not what was recorded; Broken where one of them
    cannot be used.
    """
    digest = checked_digest(path)
    description = read_description(path)
    calibration = read_calibration(path, description.score.mode)
    return Bundle(path, Model(description.id, digest, description.contrast), description, calibration)


def read_normative(path: Path, names: tuple[str, ...]) -> Normative:
    """Means then spreads of the named components, from a 4-D NIfTI; raises Broken when the count differs."""
    import SimpleITK as sitk  # noqa: N813, PLC0415 - stays out of the dispatcher

    maps = sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat32))
    if maps.ndim != 4 or len(maps) != 2 * len(names):  # noqa: PLR2004 - components of volumes
        raise Broken(f"{path.name} has shape {maps.shape}, {2 * len(names)} volumes are expected")
    means, spreads = maps[: len(names)], maps[len(names) :]
    return Normative(dict(zip(names, means, strict=True)), dict(zip(names, spreads, strict=True)))


def write_normative(path: Path, normative: Normative) -> None:
    """All means, then all spreads, as one 4-D NIfTI of float32 (voxel indices of the box; no patient frame).

    Values are rounded to the 11 bits of a half float: they compress to half the size, far below their own error.
    """
    import SimpleITK as sitk  # noqa: N813, PLC0415 - stays out of the dispatcher

    maps = np.stack([*normative.mean.values(), *normative.spread.values()]).astype(np.float16).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(maps, isVector=False), str(path), useCompression=True)
