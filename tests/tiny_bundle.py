"""A real bundle with a very small untrained network, made in about a second, for tests that need any bundle."""

from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from scipy import ndimage

from anomalyd.pipeline.bundle import (
    BoxSettings,
    Bundle,
    BundleDescription,
    Calibration,
    GateSettings,
    HistogramSettings,
    ModeCalibration,
    NetworkSettings,
    OperatingPoint,
    ReconstructionSettings,
    ScoreSettings,
    SourceFacts,
    TrainingFacts,
    VoxelRate,
    load_bundle,
    seal,
)
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.nifti import write_nifti
from anomalyd.pipeline.stages.network import build_network
from anomalyd.pipeline.stages.normalise import PERCENTILES
from anomalyd.pipeline.volume import FloatMap, Grid, Volume

GRID_SHAPE = (64, 96, 80)
SPACING_MM = 2.0
SEMI_AXES_MM = (58.0, 80.0, 62.0)  # z, y, x of the made-up brain: about 1200 ml


def made_up_brain(noise: float = 0.0) -> Volume:
    """A stripped brain-like T1w volume on patient axes: grey rim, white core, dark ventricles; air is exactly 0.

    Symmetrical left to right, not front to back. float32, 0..1000.
    """
    shape = (72, 100, 84)
    first = -(np.array(shape, dtype=np.float64) - 1) / 2 * SPACING_MM
    z, y, x = (first[axis] + SPACING_MM * np.indices(shape)[axis] for axis in range(3))
    radius = np.sqrt((z / SEMI_AXES_MM[0]) ** 2 + (y / SEMI_AXES_MM[1]) ** 2 + (x / SEMI_AXES_MM[2]) ** 2)
    folds = 0.05 * np.sin(np.abs(x) / 5.0) * np.sin(y / 6.0) * np.sin(z / 6.0)
    values = np.where(radius + folds < 0.82, 800.0, 550.0)
    ventricle = (np.abs(np.abs(x) - 9) < 5) & (np.abs(y + 5) < 28) & (np.abs(z) < 12)
    values = np.where(ventricle, 200.0, values)
    values = ndimage.gaussian_filter(values, 0.7)
    values += noise * np.random.default_rng(1).normal(0.0, 1.0, shape)
    matrix = np.zeros((4, 4))
    matrix[2, 0] = matrix[1, 1] = matrix[0, 2] = SPACING_MM
    matrix[:3, 3] = first[::-1]
    matrix[3, 3] = 1.0
    return Volume(np.where(radius < 1, np.maximum(values, 1.0), 0.0).astype(np.float32), Grid(shape, matrix))


def tiny_bundle(
    path: Path,
    *,
    contrast: Contrast = Contrast.T1W,
    threshold: float = 0.35,
    template: Volume | None = None,
    similarity: float = -1.0,
    ages: tuple[float, float] = (20.0, 60.0),
) -> Bundle:
    """The bundle at `path` (a folder that is made).

    template: stripped mean brain, by default made_up_brain(). similarity: the registration's gate, open by default.
    ages: of the people who are said to have trained it.
    """
    path.mkdir(parents=True)
    brain = template or made_up_brain()
    mask = brain.voxels > 0
    network_settings = NetworkSettings(unshuffle=4, widths=(8, 16), layers_per_block=1, norm_groups=4)
    description = BundleDescription(
        id=path.name.lower().replace("_", "-"),
        contrast=contrast,
        box=BoxSettings(shape=GRID_SHAPE, spacing_mm=SPACING_MM, first_lps_mm=_box_first(brain)),
        network=network_settings,
        reconstruction=ReconstructionSettings(timesteps=(499,), fields_per_timestep=1),
        score=ScoreSettings(mode="paper"),
        histogram=HistogramSettings(percentiles=PERCENTILES, standard=tuple(p / 100 for p in PERCENTILES)),
        gates=GateSettings(similarity=similarity, brain_ml=(200.0, 4000.0), coverage=0.3, scale=(0.1, 10.0)),
        training=TrainingFacts(
            seed=1, steps=0, recipe={}, held_out_subjects=(), age_range=ages,
            sources=(SourceFacts(source="made up", licence="none", subjects=()),),
        ),
    )  # fmt: skip
    (path / "bundle.yaml").write_text(yaml.safe_dump(description.model_dump(mode="json")), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = build_network(network_settings)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path / "model.safetensors")
    scaled: FloatMap = brain.voxels / np.float32(np.percentile(brain.voxels[mask], 95))
    write_nifti(path / "template.nii.gz", np.rint(scaled * 1000.0).astype(np.int16), brain.grid)
    write_nifti(path / "brain-mask.nii.gz", mask.astype(np.uint8), brain.grid)
    calibration = Calibration(
        scans=20,
        subjects=(),
        note="made up",
        modes={"paper": calibrated_at(threshold)},
    )
    (path / "calibration.json").write_text(calibration.model_dump_json(), encoding="utf-8")
    (path / "MODEL_CARD.md").write_text("# made up\n", encoding="utf-8")
    seal(path)
    return load_bundle(path)


def calibrated_at(threshold: float) -> ModeCalibration:
    """As if 0.9 findings per healthy scan had been counted at the threshold."""
    return ModeCalibration(
        operating_points=(OperatingPoint(threshold=threshold, findings_per_scan=0.9),),
        voxel_rates=tuple(VoxelRate(rate=rate, threshold=threshold * (1 - rate)) for rate in (0.01, 0.05, 0.1)),
        scan_scores=tuple(float(v) for v in np.linspace(0.05, 0.3, 20)),
    )


def _box_first(brain: Volume) -> tuple[float, float, float]:
    """First voxel of a box that is centred on the brain."""
    where = brain.grid.to_lps(np.argwhere(brain.voxels > 0))
    centre = (where.min(axis=0) + where.max(axis=0)) / 2
    first = centre - (np.array(GRID_SHAPE[::-1]) - 1) / 2 * SPACING_MM
    return float(first[0]), float(first[1]), float(first[2])
