"""What training slices go through: variety of healthy brains, and made-up lesions that the target does not have."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomalyd.pipeline.stages.normalise import CEILING
from anomalyd.pipeline.stages.simplex import simplex_octaves

Generator = np.random.Generator
Float32 = NDArray[np.float32]

TILE = 512
GHOST_CENTRE = 0.02  # share of k-space around its centre that ghosting leaves alone: the mean stays


@dataclass(frozen=True, slots=True)
class Variety:
    """How much healthy slices are varied; shares are of slices, sizes are standard deviations unless they say most."""

    mirror_share: float = 0.5
    most_shift: float = 0.03
    """Of half the image."""
    most_turn: float = 0.10
    """Radians."""
    most_growth: float = 0.07
    elastic_pixels: float = 1.8
    contrast: float = 0.04
    """Of the factor that spreads intensities about the brain's own mean."""
    gamma: float = 0.12
    """Of the logarithm of the exponent."""
    bias: float = 0.08
    blur_share: float = 0.25
    ghost_share: float = 0.08
    ghost_strength: tuple[float, float] = (0.03, 0.12)
    """Of what every second to fourth line of k-space loses; more hides what a brain looks like."""


def noise_tiles(seed: int, count: int) -> Float32:
    """(count, TILE, TILE) simplex noise to crop from: the statistics of single fields, almost free."""
    line = np.arange(TILE, dtype=np.float64)
    tiles = [simplex_octaves(seed * 1000 + k + 1, line[None, :], line[:, None]) for k in range(count)]
    return np.stack(tiles).astype(np.float32)


def noise_crops(tiles: Float32, rng: Generator, count: int, rows: int, columns: int) -> Float32:
    """(count, 1, rows, columns) crops, each turned or mirrored at random."""
    out = np.empty((count, 1, rows, columns), dtype=np.float32)
    size = max(rows, columns)
    for k in range(count):
        tile, at = int(rng.integers(len(tiles))), rng.integers(0, TILE - size, 2)
        crop = tiles[tile, at[0] : at[0] + size, at[1] : at[1] + size]
        crop = np.rot90(crop, int(rng.integers(4)))
        out[k, 0] = (crop[::-1] if rng.random() < 0.5 else crop)[:rows, :columns]  # noqa: PLR2004 - a coin
    return out


def vary(slices: Tensor, masks: Tensor, rng: Generator, variety: Variety) -> tuple[Tensor, Tensor]:
    """Healthy slices made various: mirror, small affine and elastic moves, then intensities.

    Contrast, gamma, bias field, blur, ghosting. slices, masks: (n, 1, rows, columns) in [0, CEILING] and {0, 1}; the
    same shapes come back.
    """
    count = len(slices)
    both = torch.cat([slices, masks], dim=1)
    both = torch.where(_drawn(rng, count, variety.mirror_share), both.flip(3), both)
    both = nn.functional.grid_sample(both, _moves(both, rng, variety), mode="bilinear", align_corners=False)
    image, mask = both[:, :1], (both[:, 1:] >= 0.5).float()  # noqa: PLR2004 - brain where half of it is
    image = _spread(image, mask, _column(rng.normal(1.0, variety.contrast, count)))
    image = image.clamp_min(0) ** _column(np.exp(rng.normal(0.0, variety.gamma, count)))
    image = image * _smooth_field(image, rng, variety.bias)
    softness = _column(rng.random(count)) * _drawn(rng, count, variety.blur_share)
    image = image + softness * (nn.functional.avg_pool2d(image, 3, 1, 1) - image)
    image = _with_ghosts(image, rng, variety)
    return image.clamp(0.0, CEILING) * mask, mask


def _column(values: NDArray[np.float64]) -> Tensor:
    """(n, 1, 1, 1) float32: one value for each slice."""
    return torch.from_numpy(values.astype(np.float32))[:, None, None, None]


def _drawn(rng: Generator, count: int, share: float) -> Tensor:
    """(n, 1, 1, 1) bool: which slices are chosen."""
    return torch.from_numpy(rng.random(count) < share)[:, None, None, None]


def _moves(image: Tensor, rng: Generator, variety: Variety) -> Tensor:
    """(n, rows, columns, 2) sampling grid: turn, grow, shift, and a smooth elastic part."""
    count, _, rows, columns = image.shape
    turn = rng.uniform(-variety.most_turn, variety.most_turn, count)
    grow = 1.0 + rng.uniform(-variety.most_growth, variety.most_growth, (count, 2))
    shift = rng.uniform(-variety.most_shift, variety.most_shift, (count, 2))
    aspect = rows / columns
    theta = np.zeros((count, 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 0, 1] = np.cos(turn) * grow[:, 0], -np.sin(turn) * aspect
    theta[:, 1, 0], theta[:, 1, 1] = np.sin(turn) / aspect, np.cos(turn) * grow[:, 1]
    theta[:, :, 2] = shift
    grid = nn.functional.affine_grid(torch.from_numpy(theta), [count, 1, rows, columns], align_corners=False)
    coarse = torch.from_numpy(rng.normal(0.0, variety.elastic_pixels, (count, 2, 6, 5)).astype(np.float32))
    coarse = coarse * torch.tensor([2.0 / columns, 2.0 / rows])[None, :, None, None]
    elastic = nn.functional.interpolate(coarse, (rows, columns), mode="bicubic", align_corners=False)
    return grid + elastic.permute(0, 2, 3, 1)


def _spread(image: Tensor, mask: Tensor, factor: Tensor) -> Tensor:
    """Intensities moved away from (or towards) the mean of the slice's brain."""
    mean = (image * mask).sum(dim=(2, 3), keepdim=True) / mask.sum(dim=(2, 3), keepdim=True).clamp_min(1.0)
    return mean + factor * (image - mean)


def _smooth_field(image: Tensor, rng: Generator, strength: float) -> Tensor:
    """(n, 1, rows, columns) smooth factors around 1."""
    coarse = torch.from_numpy(rng.normal(0.0, strength, (len(image), 1, 4, 4)).astype(np.float32))
    return 1.0 + nn.functional.interpolate(coarse, image.shape[2:], mode="bicubic", align_corners=False)


def _with_ghosts(image: Tensor, rng: Generator, variety: Variety) -> Tensor:
    """Motion that repeats: every second to fourth line of k-space is weaker, so faint copies lie along one axis."""
    out = image.clone()
    for k in np.flatnonzero(rng.random(len(image)) < variety.ghost_share):
        axis, every, strength = int(rng.integers(2)), int(rng.integers(2, 5)), rng.uniform(*variety.ghost_strength)
        plane = image[k, 0].numpy()
        factors = ghost_factors(plane.shape[axis], every, float(strength))
        shaped = factors[:, None] if axis == 0 else factors[None, :]
        ghosted = np.fft.ifft(np.fft.fft(plane, axis=axis) * shaped, axis=axis).real
        out[k, 0] = torch.from_numpy(ghosted.astype(np.float32))
    return out


def ghost_factors(lines: int, every: int, strength: float) -> NDArray[np.float64]:
    """(lines,) factors of k-space in FFT order: every n-th line loses `strength`, the centre does not."""
    factors = np.ones(lines)
    factors[::every] -= strength
    centre = max(1, round(GHOST_CENTRE * lines / 2))
    factors[:centre] = factors[lines - centre + 1 :] = 1.0
    return factors


def corrupt(
    slices: Float32, masks: Float32, tiles: Float32, rng: Generator, *, share: float, most_noise: float
) -> Float32:
    """The slices, a share of them with one to three made-up lesions inside the brain, all with a little noise.

    slices, masks: (n, rows, columns). A lesion is a patch of another brain, a darker or brighter plateau with texture,
    or a blend of both (restoration training: DISYRE, arXiv 2311.15453). most_noise: largest standard deviation.
    """
    out = slices.copy()
    count, rows, columns = slices.shape
    for k in np.flatnonzero(rng.random(count) < share):
        inside = np.argwhere(masks[k] > 0)
        if len(inside) < 100:  # noqa: PLR2004 - hardly any brain in this slice
            continue
        for _ in range(int(rng.integers(1, 4))):
            weight = _patch((rows, columns), inside[int(rng.integers(len(inside)))], tiles, rng) * masks[k]
            out[k] = out[k] + weight * (_content(out[k], slices, tiles, rng) - out[k])
    noise = rng.normal(0.0, 1.0, out.shape).astype(np.float32) * rng.uniform(0.0, most_noise, (count, 1, 1))
    return np.asarray(np.clip(out + noise * masks, 0.0, CEILING), dtype=np.float32)


def _patch(shape: tuple[int, int], centre: NDArray[np.int64], tiles: Float32, rng: Generator) -> Float32:
    """An irregular blob with semi-axes of 2 to 20 pixels (small ones more often) and a soft border."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    radius = float(np.exp(rng.uniform(np.log(2.0), np.log(20.0))))
    squeeze = float(rng.uniform(0.5, 1.0))
    turn = float(rng.uniform(0.0, np.pi))
    dy, dx = rows - float(centre[0]), columns - float(centre[1])
    along, across = np.cos(turn) * dx + np.sin(turn) * dy, -np.sin(turn) * dx + np.cos(turn) * dy
    distance = np.hypot(along / radius, across / (radius * squeeze))
    ragged = noise_crops(tiles, rng, 1, *shape)[0, 0] * float(rng.uniform(0.1, 0.6))
    edge = float(rng.uniform(0.5, 3.0)) / radius
    return np.asarray(np.clip((1.0 - distance - ragged) / edge + 0.5, 0.0, 1.0), dtype=np.float32)


def _content(image: Float32, others: Float32, tiles: Float32, rng: Generator) -> Float32:
    """What stands in a lesion."""
    kind = rng.random()
    if kind < 0.35:  # noqa: PLR2004 - share of foreign patches
        other = others[int(rng.integers(len(others)))]
        shift = rng.integers(-25, 26, 2)
        other = np.roll(other, (int(shift[0]), int(shift[1])), axis=(0, 1))
        return np.asarray(other if rng.random() < 0.5 else other[:, ::-1], dtype=np.float32)  # noqa: PLR2004 - a coin
    texture = noise_crops(tiles, rng, 1, *image.shape)[0, 0] * float(rng.uniform(0.0, 0.08))
    if kind < 0.7:  # noqa: PLR2004 - a plateau of its own value
        return np.asarray(float(rng.uniform(0.05, 1.2)) + texture, dtype=np.float32)
    change = float(rng.uniform(0.1, 0.6)) * (1.0 if rng.random() < 0.4 else -1.0)  # noqa: PLR2004 - mostly dark on T1w
    return np.asarray(image * (1.0 + change) + texture, dtype=np.float32)
