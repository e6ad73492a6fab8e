"""Augmentation of whole volumes as the published training does it (METHOD section 1: torchio's transforms, defaults).

Each transform draws for itself whether it is applied; the order is gamma, bias field, blur, ghosting.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Generator = np.random.Generator
Float32 = NDArray[np.float32]

GAMMA_SHARE, BIAS_SHARE, BLUR_SHARE, GHOST_SHARE = 0.5, 0.25, 0.25, 0.5
LOG_GAMMA = 0.3
BIAS_COEFFICIENT, BIAS_ORDER = 0.5, 3
BLUR_MM = 2.0
GHOSTS = (4, 10)
GHOST_STRENGTH = (0.5, 1.0)
GHOST_CENTRE = 0.02  # share of k-space that is left as it was


def augment_volume(volume: Float32, spacing_mm: float, rng: Generator) -> Float32:
    """A varied copy, not clipped. volume: (slices, rows, columns) in [0, 1]."""
    out = volume
    if rng.random() < GAMMA_SHARE:
        out = np.sign(out) * np.abs(out) ** np.float32(np.exp(rng.uniform(-LOG_GAMMA, LOG_GAMMA)))
    if rng.random() < BIAS_SHARE:
        out = out * _bias(out.shape, rng)
    if rng.random() < BLUR_SHARE:
        out = ndimage.gaussian_filter(out, tuple(rng.uniform(0.0, BLUR_MM, 3) / spacing_mm))
    if rng.random() < GHOST_SHARE:
        every = int(rng.integers(GHOSTS[0], GHOSTS[1] + 1))
        out = with_ghosts(out, int(rng.integers(3)), every, float(rng.uniform(*GHOST_STRENGTH)))
    return np.asarray(out, dtype=np.float32)


def with_ghosts(volume: Float32, axis: int, ghosts: int, strength: float) -> Float32:
    """Every n-th plane of k-space across an axis loses a share `strength`; its centre stays."""
    planes = volume.shape[axis]
    spectrum = fft.fftshift(fft.fft(volume, axis=axis), axes=axis)
    factors = np.ones(planes, dtype=np.float32)
    factors[::ghosts] -= np.float32(strength)
    half = max(1, round(planes * GHOST_CENTRE / 2))
    factors[planes // 2 - half + 1 : planes // 2 + half] = 1.0
    shaped = factors.reshape([-1 if k == axis else 1 for k in range(3)])
    return np.asarray(fft.ifft(fft.ifftshift(spectrum * shaped, axes=axis), axis=axis).real, dtype=np.float32)


def _bias(shape: tuple[int, ...], rng: Generator) -> Float32:
    """exp of a polynomial in the three coordinates (-1..1), coefficients drawn alike for each term."""
    z, y, x = np.meshgrid(*[np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in shape], indexing="ij", sparse=True)
    total = np.zeros(shape, dtype=np.float32)
    for i in range(BIAS_ORDER + 1):
        for j in range(BIAS_ORDER + 1 - i):
            for k in range(BIAS_ORDER + 1 - i - j):
                total += np.float32(rng.uniform(-BIAS_COEFFICIENT, BIAS_COEFFICIENT)) * z**i * y**j * x**k
    return np.exp(total)
