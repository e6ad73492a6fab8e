"""The healthy counterpart of a brain: noise added, one forward pass per noise field, the mean of what comes back."""

import hashlib
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from anomalyd.errors import Broken
from anomalyd.pipeline.bundle import Bundle, NetworkSettings
from anomalyd.pipeline.stages.network import DenoisingNetwork, Schedule, build_network, schedule
from anomalyd.pipeline.stages.simplex import noise_field
from anomalyd.pipeline.volume import BoolMap, FloatMap


def field_seeds(seed_text: str, digest: str, count: int) -> tuple[int, ...]:
    """Seeds of the noise fields: 63 bits of SHA-256 over the input's name, the bundle's digest and the number."""
    texts = [f"{seed_text}\n{digest}\n{k}".encode() for k in range(count)]
    return tuple(int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1 for text in texts)


def reconstruct(image: FloatMap, mask: BoolMap, bundle: Bundle, seeds: tuple[int, ...], device: str) -> FloatMap:
    """The mean reconstruction, float32 [slice, row, column] in standard intensities, 0 outside the brain.

    image: standard intensities, 0 outside. seeds: fields_per_timestep of them for each noise level, in order; one field
    is shared by all slices (METHOD section 2).
    """
    network, steps = _ready(bundle.weights, bundle.model.digest, bundle.description.network, device)
    levels = bundle.description.reconstruction.levels
    chosen = np.flatnonzero(mask.any(axis=(1, 2)))
    out = np.zeros_like(image)
    if not len(chosen):
        return out
    clean = (2.0 * torch.from_numpy(image[chosen]).unsqueeze(1) - 1.0).to(device)
    total = torch.zeros_like(clean)
    with torch.inference_mode(), _precision(device):
        for seed, level in zip(seeds, levels, strict=True):
            noise = torch.from_numpy(noise_field(seed, *image.shape[1:])).to(device).expand_as(clean)
            timesteps = torch.full((len(chosen),), level, device=device)
            total += (network(steps.noisy(clean, noise, timesteps), timesteps).float() + 1.0) / 2.0
    out[chosen] = (total / len(levels)).squeeze(1).cpu().numpy()
    return np.where(mask, out, np.float32(0.0)).astype(np.float32)


def _precision(device: str) -> AbstractContextManager[object]:
    """bfloat16 on CUDA, as in training; a CPU keeps float32, few of them are faster otherwise."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device == "cuda" else nullcontext()


@lru_cache(maxsize=4)
def _ready(weights: Path, digest: str, settings: NetworkSettings, device: str) -> tuple[DenoisingNetwork, Schedule]:
    """The network with its weights, loaded once per process; digest: part of the key, weights may change in place."""
    with torch.random.fork_rng(devices=[]):
        network = build_network(settings)
    try:
        network.load_state_dict(load_file(weights))
    except RuntimeError as exc:
        raise Broken(f"{weights.name} of bundle {digest[:12]} does not fit its bundle.yaml: {exc}") from exc
    steps = schedule()
    return network.to(device).eval(), Schedule(steps.signal.to(device), steps.noise.to(device))
