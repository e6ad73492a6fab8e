"""Reconstruction and scoring of one volume in a warm process, on as many threads as torch takes (OMP_NUM_THREADS).

SSIM-ens is timed against the published way, a dense three-dimensional convolution for each scale, in the same turn: the
same made-up volumes of 96 x 96 x 50 voxels. The shipped T1w bundle judges its own template. cpu_s: of all threads, what
an idle machine would need on one; on a busy one it says more than the clock.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anomalyd.pipeline.analyse import Runtime, judge, place, rescore
from anomalyd.pipeline.bundle import Bundle, load_bundle, shipped_bundles
from anomalyd.pipeline.stages.score import K1, K2, SIGMAS, paper_score, ssim_ensemble
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.volume import FloatMap
from bench.harness import Case, Figures, Measure

SHAPE = (50, 96, 96)
Made = TypeVar("Made")


@contextmanager
def ssim_beside_dense_convolution() -> Iterator[Measure]:
    """SSIM-ens both ways; the first go of each, which makes kernels and threads, is not counted."""
    original, reconstruction = _volumes()

    def measure() -> Figures:
        ours, found = _timed(lambda: ssim_ensemble(original, reconstruction))
        dense, published = _timed(lambda: _dense_ssim_ensemble(original, reconstruction))
        return {
            **ours,
            "dense_s": dense["s"],
            "dense_cpu_s": dense["cpu_s"],
            "times_faster": dense["s"] / ours["s"],
            "times_less_cpu": dense["cpu_s"] / ours["cpu_s"],
            "threads": torch.get_num_threads(),
            "largest_difference_ppm": 1e6 * float(np.abs(found - published).max()),
        }

    measure()
    yield measure


@contextmanager
def papers_score() -> Iterator[Measure]:
    """SSIM-ens, erosion and median of the same volumes."""
    original, reconstruction = _volumes()
    mask = original > 0

    def measure() -> Figures:
        return _timed(lambda: paper_score(original, reconstruction, mask))[0]

    measure()
    yield measure


@contextmanager
def reconstruction_and_score() -> Iterator[Measure]:
    """The shipped T1w bundle's default ensemble, all noise fields, and its own score."""
    bundle = _t1w_bundle()
    placed = place(bundle.template.brain, bundle)

    def measure() -> Figures:
        return _timed(lambda: judge(placed, bundle, runtime=Runtime("cpu"), seed_text="bench"))[0]

    measure()
    yield measure


@contextmanager
def bundles_own_score() -> Iterator[Measure]:
    """The same bundle's score alone, of one reconstruction."""
    bundle = _t1w_bundle()
    judged = judge(place(bundle.template.brain, bundle), bundle, runtime=Runtime("cpu"), seed_text="bench")

    def measure() -> Figures:
        return _timed(lambda: rescore(judged, bundle, bundle.modes[0]))[0]

    measure()
    yield measure


def _timed(make: Callable[[], Made]) -> tuple[dict[str, float], Made]:
    began, cpu_began = time.perf_counter(), time.process_time()
    made = make()
    return {"s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu_began}, made


def _volumes() -> tuple[FloatMap, FloatMap]:
    """A ball of smooth random intensities in 0..1, and the same with noise; 0 outside."""
    rng = np.random.default_rng(1)
    coarse = torch.from_numpy(rng.random((1, 1, 7, 12, 12), dtype=np.float32))
    original = functional.interpolate(coarse, SHAPE, mode="trilinear").numpy()[0, 0]
    reconstruction = original + 0.05 * rng.standard_normal(SHAPE, dtype=np.float32)
    away = [(np.indices(SHAPE)[axis] - (SHAPE[axis] - 1) / 2) / (SHAPE[axis] / 2) for axis in range(3)]
    ball = np.asarray(sum(part**2 for part in away) < 0.9)
    return (original * ball).astype(np.float32), (reconstruction * ball).astype(np.float32)


def _dense_ssim_ensemble(original: FloatMap, reconstruction: FloatMap) -> FloatMap:
    """SSIM-ens as published: for each scale all five moments through one dense window (METHOD section 3)."""
    x, y = torch.from_numpy(original), torch.from_numpy(reconstruction)
    data_range = max(float(np.ptp(original)), float(np.ptp(reconstruction)))
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    maps = []
    for sigma in SIGMAS:
        window = _window(sigma)
        radius = window.shape[-1] // 2
        stack = torch.stack([x, y, x * x, y * y, x * y])[:, None]
        padded = functional.pad(stack, (radius,) * 6, mode="reflect")
        mean_x, mean_y, xx, yy, xy = functional.conv3d(padded, window[None, None])[:, 0]
        above = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
        below = (mean_x**2 + mean_y**2 + c1) * ((xx - mean_x**2) + (yy - mean_y**2) + c2)
        maps.append(above / below)
    ssim = torch.stack(maps)
    weights = torch.exp(-ssim)
    return np.asarray(((weights / weights.sum(dim=0)) * ssim).sum(dim=0).numpy())


def _window(sigma: float) -> Tensor:
    """(n, n, n) Gaussian of radius int(3.5 sigma + 0.5), sum 1."""
    radius = int(3.5 * sigma + 0.5)
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    line /= line.sum()
    return torch.einsum("i,j,k->ijk", line, line, line).float()


def _t1w_bundle() -> Bundle:
    loaded = (load_bundle(path) for path in shipped_bundles())
    return next(bundle for bundle in loaded if bundle.model.contrast is Contrast.T1W)


CASES = (
    Case("SSIM-ens, 8 scales", ssim_beside_dense_convolution),
    Case("paper score", papers_score),
    Case("T1w bundle: reconstruct, score", reconstruction_and_score),
    Case("T1w bundle: score alone", bundles_own_score),
)
