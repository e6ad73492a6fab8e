"""The published network under its published parameter names, so that weights trained elsewhere fit (METHOD section 2).

guided-diffusion's UNet as FinnBehrendt/Ensembled-SSIM-for-Unsupervised-Anomaly-Detection sets it up: one channel in and
out, three levels of 1, 2 and 2 times the width, three residual blocks a level, group norm of 32 groups, time as scale
and shift, sampling inside residual blocks, attention in the middle only (its attention resolutions 3, 6, 12 match no
level). 312 tensors at any width; 37.5 million values at the published width of 128.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = (1, 2, 2)  # times the width; each next one has half the pixels
BLOCKS_PER_LEVEL = 3
NORM_GROUPS = 32
HEAD_CHANNELS = 64
SIDE_MULTIPLE = 2 ** (len(LEVELS) - 1)  # of rows and columns, or the way up does not meet the way down


class PublishedUNet(nn.Module):
    """(n, 1, rows, columns) noisy slices in [-1, 1] and (n,) time steps -> the clean slices, same range.

    width: a multiple of 32. is_transposed: slices are turned to (column, row) for the network and back, because the
    published loader hands it the left-right axis first. Untrained, it gives exactly 0. Fits channels-last memory, but
    torch's group norm is ten times less exact there on a CPU, for a gain of 2 to 15 % in time.
    """

    def __init__(self, width: int, *, is_transposed: bool = False) -> None:
        super().__init__()
        self.width, self.is_transposed = width, is_transposed
        embedding = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        down: list[nn.Module] = [nn.ModuleList([nn.Conv2d(1, width, 3, padding=1)])]
        skips = [width]
        channels = width
        for level, times in enumerate(LEVELS):
            for _ in range(BLOCKS_PER_LEVEL):
                down.append(nn.ModuleList([ResidualBlock(channels, times * width, embedding)]))
                channels = times * width
                skips.append(channels)
            if level + 1 < len(LEVELS):
                down.append(nn.ModuleList([ResidualBlock(channels, channels, embedding, scale=0.5)]))
                skips.append(channels)
        self.input_blocks = nn.ModuleList(down)
        self.middle_block = nn.ModuleList(
            [
                ResidualBlock(channels, channels, embedding),
                Attention(channels),
                ResidualBlock(channels, channels, embedding),
            ]
        )
        up: list[nn.Module] = []
        for level in reversed(range(len(LEVELS))):
            for number in range(BLOCKS_PER_LEVEL + 1):
                block = nn.ModuleList([ResidualBlock(channels + skips.pop(), LEVELS[level] * width, embedding)])
                channels = LEVELS[level] * width
                if level and number == BLOCKS_PER_LEVEL:
                    block.append(ResidualBlock(channels, channels, embedding, scale=2.0))
                up.append(block)
        self.output_blocks = nn.ModuleList(up)
        self.out = nn.Sequential(
            nn.GroupNorm(NORM_GROUPS, channels), nn.SiLU(), _zeroed(nn.Conv2d(channels, 1, 3, padding=1))
        )

    def forward(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The predicted clean slices, float32."""
        embedding = self.time_embed(time_embedding(timesteps, self.width).to(noisy.dtype))
        values = noisy.transpose(2, 3).contiguous() if self.is_transposed else noisy
        kept = []
        for block in self.input_blocks:
            values = _through(block, values, embedding)
            kept.append(values)
        values = _through(self.middle_block, values, embedding)
        for block in self.output_blocks:
            values = _through(block, torch.cat([values, kept.pop()], dim=1), embedding)
        clean: Tensor = self.out(values).float()
        return clean.transpose(2, 3) if self.is_transposed else clean


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut. scale: 0.5 halves and 2 doubles the pixels before the first of them."""

    def __init__(self, channels: int, out_channels: int, embedding: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.in_layers = nn.Sequential(
            nn.GroupNorm(NORM_GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(NORM_GROUPS, out_channels),
            nn.SiLU(),
            nn.Identity(),  # the published dropout, which is 0; it counts in the names
            _zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, values: Tensor, embedding: Tensor) -> Tensor:
        """(n, out_channels, rows * scale, columns * scale)."""
        norm, activation, convolution = self.in_layers
        inner = convolution(self._resized(activation(norm(values))))
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        norm, *rest = self.out_layers
        inner = norm(inner) * (1 + scale) + shift
        for layer in rest:
            inner = layer(inner)
        total: Tensor = self.skip_connection(self._resized(values)) + inner
        return total

    def _resized(self, values: Tensor) -> Tensor:
        if self.scale < 1:
            return functional.avg_pool2d(values, 2)
        return functional.interpolate(values, scale_factor=self.scale, mode="nearest") if self.scale > 1 else values


class Attention(nn.Module):
    """Self-attention over all pixels, heads of 64 channels; q, k, v lie one after another over all heads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD_CHANNELS)
        self.norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, values: Tensor, _embedding: Tensor) -> Tensor:
        """The same shape."""
        count, channels, rows, columns = values.shape
        pixels = values.reshape(count, channels, rows * columns)
        parts = self.qkv(self.norm(pixels)).reshape(count, 3, self.heads, channels // self.heads, rows * columns)
        query, key, value = parts.transpose(-1, -2).unbind(1)
        seen = functional.scaled_dot_product_attention(query, key, value)
        seen = seen.transpose(-1, -2).reshape(count, channels, rows * columns)
        total: Tensor = pixels + self.proj_out(seen)
        return total.reshape(values.shape)


def time_embedding(timesteps: Tensor, width: int) -> Tensor:
    """(n, width) float32: cosines, then sines, of the time step at frequencies from 1 down to almost 1 / 10000."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32) / half)
    angles = timesteps[:, None].float() * frequencies.to(timesteps.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _through(block: nn.Module, values: Tensor, embedding: Tensor) -> Tensor:
    """The layers of a block in turn; the plain first convolution knows no time."""
    for layer in block.children():
        values = layer(values) if isinstance(layer, nn.Conv2d) else layer(values, embedding)
    return values


def _zeroed(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
