"""The denoising networks and their schedule; a network predicts the clean slice itself.

The compact one is diffusers' UNet2DModel between pixel_unshuffle and pixel_shuffle: a slice of 2 mm pixels becomes four
channels at half the size, so every layer sees a quarter of the pixels, which makes it five times faster than a narrow
network at full size (METHOD section 7). The published one is in published_unet.py.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from anomalyd.pipeline.bundle import NetworkSettings
from anomalyd.pipeline.stages.published_unet import PublishedUNet

TRAIN_TIMESTEPS = 1000
OFFSET = 0.008
MAX_BETA = 0.999


class CompactUNet(nn.Module):
    """(n, 1, rows, columns) noisy slices in [-1, 1] and (n,) time steps -> the clean slices, same range."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.unshuffle = settings.unshuffle
        channels = settings.unshuffle**2
        levels = len(settings.widths)
        make: Any = UNet2DModel  # untyped
        self.unet: Any = make(
            in_channels=channels,
            out_channels=channels,
            block_out_channels=settings.widths,
            layers_per_block=settings.layers_per_block,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            norm_num_groups=settings.norm_groups,
            add_attention=False,
            resnet_time_scale_shift="scale_shift",
        )
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)

    def forward(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The predicted clean slices."""
        small = nn.functional.pixel_unshuffle(noisy, self.unshuffle)
        small = small.contiguous(memory_format=torch.channels_last)
        out: Tensor = self.unet(small, timesteps, return_dict=False)[0]
        return nn.functional.pixel_shuffle(out.float(), self.unshuffle)


DenoisingNetwork = CompactUNet | PublishedUNet


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """sqrt(alpha bar) and sqrt(1 - alpha bar) by index 0..999 of the cosine schedule (METHOD section 2)."""

    signal: Tensor
    noise: Tensor

    def noisy(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Slices in [-1, 1] with noise added; timesteps: (n,) indices."""
        shape = (-1,) + (1,) * (clean.dim() - 1)
        return self.signal[timesteps].view(shape) * clean + self.noise[timesteps].view(shape) * noise


def schedule() -> Schedule:
    """diffusers' squaredcos_cap_v2, T = 1000, in float64 before it is rounded.

    DDPMScheduler multiplies in float32 and is up to 2.4e-6 off the published buffers; this is them to 3e-8.
    """
    signal = torch.cumprod(1 - cosine_betas(), 0)
    return Schedule(signal.sqrt().float(), (1 - signal).sqrt().float())


def cosine_betas() -> Tensor:
    """(1000,) float64: share of the variance that each step replaces by noise; one of them is capped."""
    steps = torch.arange(TRAIN_TIMESTEPS + 1, dtype=torch.float64) / TRAIN_TIMESTEPS
    bar = torch.cos((steps + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2
    return (1 - bar[1:] / bar[:-1]).clamp(0.0, MAX_BETA)


def build_network(settings: NetworkSettings) -> DenoisingNetwork:
    """A network with its first weights (torch's global seed decides them); the compact one channels last."""
    if settings.architecture == "published":
        return PublishedUNet(settings.model_channels, is_transposed=settings.transposed)
    network = CompactUNet(settings)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
    return network


def parameter_count(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in network.parameters())
