"""Score, schedule and noise are the published ones, each within the tolerance that the oracles state."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from numpy.typing import NDArray

from anomalyd.pipeline.stages.network import cosine_betas, schedule
from anomalyd.pipeline.stages.score import (
    EROSION_ROUNDS,
    SIGMAS,
    erode,
    paper_score,
    ssim_ensemble,
    ssim_maps,
    volume_score,
    without_small,
)
from anomalyd.pipeline.stages.simplex import noise_field, permutation_of, simplex_field, simplex_octave
from anomalyd.pipeline.train.agreement import dice, rank
from oracles import Arrays, arrays_of

MAP_TOLERANCE, ENSEMBLE_TOLERANCE, MEAN_TOLERANCE = 2e-3, 5e-4, 5e-5
VOXELS = 96 * 96 * 16


@pytest.fixture(scope="module")
def ssim() -> Arrays:
    return arrays_of("ssim_ens_11.npz")


@pytest.fixture(scope="module")
def ours(ssim: Arrays) -> NDArray[np.float32]:
    """The product's post-processed map."""
    return paper_score(ssim["x_orig"], ssim["x_reco"], ssim["mask"] > 0)


@pytest.fixture(scope="module")
def published_schedule() -> Arrays:
    return arrays_of("schedule.npz")


@pytest.fixture(scope="module")
def noise() -> Arrays:
    return arrays_of("simplex_noise_statistics.npz")


def binary(ssim: Arrays, key: str) -> NDArray[np.bool_]:
    return np.asarray(np.unpackbits(ssim[key])[:VOXELS].reshape(96, 96, 16).transpose(2, 0, 1) > 0)


@pytest.mark.parametrize("number", range(len(SIGMAS)), ids=[f"sigma_{sigma}" for sigma in SIGMAS])
def test_each_ssim_map_is_the_published_one(ssim: Arrays, number: int) -> None:
    assert SIGMAS[number] == ssim["sigmas"][number]
    ours = list(ssim_maps(ssim["x_orig"], ssim["x_reco"]))[number].numpy()[ssim["ssim_slices"]]
    published = 2.0 * ssim["ssim_maps_u16"][number].transpose(2, 0, 1).astype(np.float64) / 65535 - 1
    assert np.abs(ours - published).max() < MAP_TOLERANCE
    assert np.abs(ours - published).mean() < MEAN_TOLERANCE


def test_each_mean_ssim_is_the_published_one(ssim: Arrays) -> None:
    maps = ssim_maps(ssim["x_orig"], ssim["x_reco"])
    for ours, size, mean in zip(maps, ssim["kernel_sizes"], ssim["ssim_means_valid"], strict=True):
        r = int(size) // 2
        assert float(ours[r:-r, r:-r, r:-r].double().mean()) == pytest.approx(float(mean), abs=MEAN_TOLERANCE)


def test_the_ensemble_is_the_published_one(ssim: Arrays) -> None:
    difference = np.abs(ssim_ensemble(ssim["x_orig"], ssim["x_reco"]) - ssim["ssim_ens"])
    assert difference.max() < ENSEMBLE_TOLERANCE
    assert difference.mean() < MEAN_TOLERANCE


def test_the_post_processed_map_and_volume_score_are_the_published_ones(
    ssim: Arrays, ours: NDArray[np.float32]
) -> None:
    mask = ssim["mask"] > 0
    assert int(erode(mask, EROSION_ROUNDS).sum()) == int(ssim["eroded_mask_voxels"])
    difference = np.abs(ours - ssim["score_map_post"])
    assert difference.max() < ENSEMBLE_TOLERANCE
    assert difference.mean() < MEAN_TOLERANCE
    assert volume_score(ours, mask) == pytest.approx(float(ssim["volume_score"]), abs=1e-5)
    assert volume_score(ssim["score_map_post"], mask) == pytest.approx(float(ssim["volume_score"]), abs=1e-7)


def test_the_published_maps_binary_results_are_exact(ssim: Arrays) -> None:
    score = ssim["score_map_post"]
    at_fixed = score > float(ssim["fixed_threshold"])
    assert int(at_fixed.sum()) == int(ssim["n_fixed_before_cc"])
    assert np.array_equal(without_small(at_fixed), binary(ssim, "binary_fixed_after_cc"))
    assert int(without_small(at_fixed).sum()) == int(ssim["n_fixed_after_cc"])
    best = without_small(score > float(ssim["best_threshold"]))
    assert np.array_equal(best, binary(ssim, "binary_best"))
    assert dice(best, ssim["seg"] > 0) == pytest.approx(float(ssim["dice_after_cc"]), abs=1e-12)


def test_our_maps_binary_results_differ_by_a_few_voxels_at_most(ssim: Arrays, ours: NDArray[np.float32]) -> None:
    for threshold, key in ((ssim["fixed_threshold"], "binary_fixed_after_cc"), (ssim["best_threshold"], "binary_best")):
        assert int((without_small(ours > float(threshold)) ^ binary(ssim, key)).sum()) <= 5


def test_the_published_threshold_dice_and_average_precision_come_from_our_map(
    ssim: Arrays, ours: NDArray[np.float32]
) -> None:
    lesion = ssim["seg"] > 0
    assert greedy_threshold(ssim["score_map_post"], lesion) == pytest.approx(float(ssim["best_threshold"]), abs=1e-7)
    threshold = greedy_threshold(ours, lesion)
    assert threshold == pytest.approx(float(ssim["best_threshold"]), abs=ENSEMBLE_TOLERANCE)
    assert dice(ours > threshold, lesion) == pytest.approx(float(ssim["best_dice"]), abs=1e-3)
    ranking = rank(ours.ravel(), lesion.ravel())
    assert ranking.auprc == pytest.approx(float(ssim["average_precision"]), abs=1e-4)
    assert ranking.best_dice >= float(ssim["best_dice"]) - 1e-6  # the published search is greedy, ours is exhaustive
    published = rank(ssim["score_map_post"].ravel(), lesion.ravel())
    assert published.auprc == pytest.approx(float(ssim["average_precision"]), abs=1e-9)


def greedy_threshold(score: NDArray[np.float32], lesion: NDArray[np.bool_]) -> float:
    """The published search, kept for comparison: the better half of the interval, ten times (METHOD section 3)."""
    low, high = 0.0, float(score.max())
    for _ in range(10):
        quarter = (high - low) / 4
        first, second = (dice(score > cut, lesion) for cut in (low + quarter, high - quarter))
        low, high = (low, low + 2 * quarter) if first > second else (low + 2 * quarter, high)
    return (low + high) / 2


def test_the_products_schedule_is_the_published_one(published_schedule: Arrays) -> None:
    steps, betas = schedule(), cosine_betas().numpy()
    assert np.abs(betas - published_schedule["betas_f64"]).max() < 1e-12
    assert_as_stated(steps.signal.numpy(), published_schedule["sqrt_alphas_cumprod"])
    assert_as_stated(steps.noise.numpy(), published_schedule["sqrt_one_minus_alphas_cumprod"])


def test_all_published_buffers_follow_from_the_products_betas(published_schedule: Arrays) -> None:
    betas = cosine_betas().numpy()
    bar = np.cumprod(1 - betas)
    before = np.append(1.0, bar[:-1])
    variance = betas * (1 - before) / (1 - bar)
    derived = {
        "betas": betas,
        "alphas_cumprod": bar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(bar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - bar),
        "log_one_minus_alphas_cumprod": np.log(1 - bar),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / bar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / bar - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - bar),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - bar),
        "p2_loss_weight": np.ones(1000),
        "betas_f64": betas,
    }
    assert derived.keys() == published_schedule.keys()
    for name, values in derived.items():
        assert_as_stated(values.astype(published_schedule[name].dtype), published_schedule[name])


def assert_as_stated(ours: NDArray[Any], published: NDArray[Any]) -> None:
    np.testing.assert_allclose(ours.astype(np.float64), published.astype(np.float64), rtol=6e-8, atol=3e-8)


def test_the_schedule_is_that_of_diffusers() -> None:
    make: Callable[..., Any] = DDPMScheduler  # untyped library
    theirs = make(1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample").alphas_cumprod
    assert np.abs(schedule().signal.numpy() - theirs.sqrt().numpy()).max() < 5e-6


def test_simplex_noise_is_the_published_one(noise: Arrays) -> None:
    assert np.array_equal(permutation_of(1), noise["permutation_seed1"])
    i = np.arange(64, dtype=np.float64)
    octave = simplex_octave(permutation_of(1), 0.1 * i, 0.37 * i)
    assert np.abs(octave - noise["single_octave_seed1"]).max() <= 2e-16
    for seed, example in zip(noise["example_seeds"], noise["examples"], strict=True):
        assert np.abs(simplex_field(int(seed), 96, 96) - example).max() < 6e-8


def test_sixty_four_noise_fields_have_the_published_statistics(noise: Arrays) -> None:
    fields = np.stack([simplex_field(int(seed), 96, 96) for seed in noise["seeds"]])
    for key, values in {
        "field_mean": fields.mean(axis=(1, 2)),
        "field_std": fields.std(axis=(1, 2)),
        "field_min": fields.min(axis=(1, 2)),
        "field_max": fields.max(axis=(1, 2)),
        "pooled_mean": fields.mean(),
        "pooled_std": fields.std(),
    }.items():
        np.testing.assert_allclose(values, noise[key], rtol=0, atol=6e-8, err_msg=key)
    power = radial_power(fields)
    np.testing.assert_allclose(power.mean(axis=0), noise["radial_power_mean"], rtol=1e-6)
    np.testing.assert_allclose(power.std(axis=0), noise["radial_power_std"], rtol=1e-6)


def radial_power(fields: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 49) |FFT|^2 / pixels, mean over rings of rounded radius 0..48 (cycles per field)."""
    spectra = np.abs(np.fft.fft2(fields)) ** 2 / fields[0].size
    steps = np.fft.fftfreq(fields.shape[1], 1 / fields.shape[1])
    radius = np.rint(np.hypot(steps[:, None], steps[None, :])).astype(int)
    return np.stack([spectra[:, radius == r].mean(axis=1) for r in range(49)], axis=1)


def test_noise_is_added_in_half_precision_and_a_narrow_field_is_part_of_a_square_one() -> None:
    field = noise_field(1, 96, 80)
    assert field.dtype == np.float32
    assert np.array_equal(field, simplex_field(1, 96, 96)[:, :80].astype(np.float16).astype(np.float32))


def test_each_slice_gets_the_noise_of_its_own_timestep() -> None:
    steps = schedule()
    clean = torch.ones(2, 1, 4, 4)
    noisy = steps.noisy(clean, torch.zeros(2, 1, 4, 4), torch.tensor([249, 499]))
    assert noisy[:, 0, 0, 0].tolist() == pytest.approx([0.92033, 0.70274], abs=1e-5)  # METHOD section 2
