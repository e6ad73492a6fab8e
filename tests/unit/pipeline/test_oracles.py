"""The published method's numbers, within their stated tolerances (the folder `shared` beside the checkout)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from numpy.typing import NDArray

from anomalyd.pipeline.stages.network import schedule
from anomalyd.pipeline.stages.score import (
    erode,
    median,
    paper_score,
    ssim_ensemble,
    ssim_maps,
    volume_score,
    without_small,
)
from anomalyd.pipeline.stages.simplex import permutation_of, simplex_field, simplex_octave

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def oracles() -> Path:
    folder = Path(__file__).parents[4] / "shared" / "oracles"
    if not folder.is_dir():
        pytest.skip("numeric oracles lie in the folder `shared` beside the checkout, which is absent")
    return folder


@pytest.fixture(scope="module")
def ssim(oracles: Path) -> Arrays:
    """Volumes turned from the oracle's (row, column, slice) to [slice, row, column]."""
    with np.load(oracles / "ssim_ens_11.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    return {name: _slice_first(value) for name, value in arrays.items()}


def _slice_first(value: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(value.transpose(2, 0, 1)) if value.ndim == 3 else value


def test_each_ssim_map_is_the_published_one(ssim: Arrays) -> None:
    published = 2.0 * ssim["ssim_maps_u16"].astype(np.float64) / 65535 - 1
    for ours, theirs in zip(ssim_maps(ssim["x_orig"], ssim["x_reco"]), published, strict=True):
        assert np.abs(ours.numpy()[ssim["ssim_slices"]].transpose(1, 2, 0) - theirs).max() < 2e-3


def test_each_mean_ssim_is_the_published_one(ssim: Arrays) -> None:
    maps = ssim_maps(ssim["x_orig"], ssim["x_reco"])
    for ours, size, mean in zip(maps, ssim["kernel_sizes"], ssim["ssim_means_valid"], strict=True):
        r = int(size) // 2
        assert float(ours[r:-r, r:-r, r:-r].double().mean()) == pytest.approx(float(mean), abs=5e-5)


def test_the_ensemble_is_the_published_one(ssim: Arrays) -> None:
    difference = np.abs(ssim_ensemble(ssim["x_orig"], ssim["x_reco"]) - ssim["ssim_ens"])
    assert difference.max() < 5e-4
    assert difference.mean() < 5e-5


def test_the_post_processed_map_and_volume_score_are_the_published_ones(ssim: Arrays) -> None:
    mask = ssim["mask"] > 0
    score = paper_score(ssim["x_orig"], ssim["x_reco"], mask)
    assert np.abs(score - ssim["score_map_post"]).max() < 5e-4
    assert volume_score(score, mask) == pytest.approx(float(ssim["volume_score"]), abs=1e-5)


def test_the_component_filter_is_exact_on_the_published_map(ssim: Arrays) -> None:
    score = ssim["score_map_post"]
    at_fixed = score > float(ssim["fixed_threshold"])
    assert int(at_fixed.sum()) == int(ssim["n_fixed_before_cc"])
    assert int(without_small(at_fixed).sum()) == int(ssim["n_fixed_after_cc"])
    best = np.unpackbits(ssim["binary_best"])[:147456].reshape(96, 96, 16).transpose(2, 0, 1).astype(bool)
    assert np.array_equal(without_small(score > float(ssim["best_threshold"])), best)


def test_an_image_is_wholly_similar_to_itself_and_ssim_is_symmetric(ssim: Arrays) -> None:
    x, y = ssim["x_orig"], ssim["x_reco"]
    assert np.allclose(ssim_ensemble(x, x), 1.0, atol=1e-5)
    assert np.allclose(ssim_ensemble(x, y), ssim_ensemble(y, x), atol=1e-6)


def test_what_lies_outside_the_mask_has_no_score(ssim: Arrays) -> None:
    mask = ssim["mask"] > 0
    assert not paper_score(ssim["x_orig"], ssim["x_reco"], mask)[~mask].any()
    assert not erode(mask, 3)[~mask].any()
    assert not median(np.zeros((5, 5, 5), dtype=np.float32)).any()


def test_the_schedule_is_the_published_one(oracles: Path) -> None:
    steps = schedule()
    with np.load(oracles / "schedule.npz") as stored:
        assert np.abs(steps.signal.numpy() - stored["sqrt_alphas_cumprod"]).max() < 6e-8
        assert np.abs(steps.noise.numpy() - stored["sqrt_one_minus_alphas_cumprod"]).max() < 6e-8


def test_the_schedule_is_that_of_diffusers() -> None:
    make: Callable[..., Any] = DDPMScheduler  # untyped library
    theirs = make(1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample").alphas_cumprod
    assert np.abs(schedule().signal.numpy() - theirs.sqrt().numpy()).max() < 5e-6


def test_simplex_noise_is_the_published_one(oracles: Path) -> None:
    with np.load(oracles / "simplex_noise_statistics.npz") as stored:
        assert np.array_equal(permutation_of(1), stored["permutation_seed1"])
        i = np.arange(64, dtype=np.float64)
        assert (
            np.abs(simplex_octave(permutation_of(1), 0.1 * i, 0.37 * i) - stored["single_octave_seed1"]).max() < 1e-15
        )
        for seed, example in zip(stored["example_seeds"], stored["examples"], strict=True):
            assert np.abs(simplex_field(int(seed), 96, 96) - example).max() < 6e-8


def test_the_forward_process_is_the_published_one(oracles: Path) -> None:
    steps = schedule()
    with np.load(oracles / "one_step.npz") as stored:
        x0 = torch.from_numpy(stored["x0"])
        noise = torch.from_numpy(stored["noise_f16"].astype(np.float32)).reshape(1, 1, 96, 96)
        for t in (499, 249):
            ours = steps.noisy(2 * x0 - 1, noise, torch.tensor([t]))
            assert np.abs(ours.numpy() - stored[f"x_t_{t}"]).max() < 2e-7
