"""The bundle that ships does what its card says: a lesion put into a brain is missing from its reconstruction."""

from pathlib import Path

import numpy as np
import pytest
import torch

from anomalyd.pipeline.analyse import Judged, Runtime, analyse, judge, place
from anomalyd.pipeline.bundle import Bundle, load_bundle, shipped_bundles
from anomalyd.pipeline.finding import Contrast, Sign
from anomalyd.pipeline.nifti import read_nifti
from anomalyd.pipeline.settings import AnalysisSettings
from anomalyd.pipeline.stages.orient import resample
from anomalyd.pipeline.stages.reconstruct import reconstruct
from anomalyd.pipeline.train.insert import Inserted, insert_ellipsoid
from anomalyd.pipeline.volume import Volume

HELD_OUT = "t1w-010.nii.gz"  # ds002748-52, stripped; never trained on (asserted below)
RUNTIME = Runtime("cpu", 1)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    loaded = [load_bundle(path) for path in shipped_bundles()]
    return next(found for found in loaded if found.model.contrast is Contrast.T1W)


@pytest.fixture(scope="module")
def healthy(bundle: Bundle) -> Volume:
    """A held-out subject, or the bundle's own template where there are no data."""
    data = Path(__file__).resolve().parents[4] / "shared" / "data" / "healthy"
    if not data.is_dir():
        return bundle.template.brain
    assert "ds002748-52" in bundle.description.training.held_out_subjects
    return read_nifti(data / HELD_OUT)


def dark_lesion(volume: Volume) -> Inserted:
    """A dark ball of 11 mm radius in white matter: the brightest smooth place of the left side's middle."""
    brain = volume.voxels > 0
    points = volume.grid.to_lps(np.argwhere(brain))
    centre = points.mean(axis=0) + np.array([26.0, 8.0, 18.0])
    inside = float(np.median(volume.voxels[brain]))
    x, y, z = (float(v) for v in centre)
    return insert_ellipsoid(volume, (x, y, z), (11.0, 11.0, 11.0), 0.3 * inside)


def removed_share(well: Judged, sick: Judged, change: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    """Share of the inserted difference that the reconstruction of the sick brain lacks."""
    kept = sick.reconstruction - well.reconstruction
    return 1.0 - float((kept * change).sum() / (change * change).sum())


def test_an_inserted_lesion_is_missing_from_the_reconstruction(bundle: Bundle, healthy: Volume) -> None:
    lesion = dark_lesion(healthy)
    placed = [place(volume, bundle) for volume in (healthy, lesion.volume)]
    well, sick = (judge(one, bundle, runtime=RUNTIME, seed_text="1.2.3") for one in placed)
    to_template = placed[1].registration.template_to_source
    weight = resample(Volume(lesion.mask.astype(np.float32), healthy.grid), bundle.box, to_template)
    change = np.where(weight > 0.5, placed[1].normalised.image - placed[0].normalised.image, 0.0).astype(np.float32)
    assert removed_share(well, sick, change) > 0.5


def test_an_inserted_lesion_is_found_where_it_is(bundle: Bundle, healthy: Volume) -> None:
    lesion = dark_lesion(healthy)
    finding = analyse(lesion.volume, bundle, AnalysisSettings(), runtime=RUNTIME, seed_text="1.2.3")
    centre = healthy.grid.to_lps(np.argwhere(lesion.mask)).mean(axis=0)
    distances = [float(np.linalg.norm(np.array(found.centroid_lps_mm) - centre)) for found in finding.lesions]
    nearest = finding.lesions[int(np.argmin(distances))]
    assert min(distances) < 8.0
    assert nearest.sign is Sign.HYPO
    assert nearest.number == 1


def test_half_precision_as_on_cuda_changes_less_than_other_noise_does(bundle: Bundle) -> None:
    """No CUDA here: the same bfloat16 arithmetic on the CPU, against float32 and against other noise fields."""
    placed = place(bundle.template.brain, bundle)
    image, mask = placed.normalised.image, placed.box.mask
    seeds = tuple(range(2 * len(bundle.description.reconstruction.levels)))
    whole, other = (reconstruct(image, mask, bundle, chosen, "cpu") for chosen in (seeds[::2], seeds[1::2]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = reconstruct(image, mask, bundle, seeds[::2], "cpu")
    by_precision, by_noise = (np.abs(made - whole)[mask].mean() for made in (half, other))
    assert 0 < by_precision < 0.5 * by_noise
