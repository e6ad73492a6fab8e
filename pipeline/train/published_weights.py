"""Weights of the published UNet, whatever file they lie in and whatever wrapped them; nothing in the file is executed.

In a Lightning checkpoint of the published code the names begin with `diffusion.model.`, under `state_dict`; the noise
schedule's buffers stand beside them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # only the name of an error: torch's restricted reader does the reading
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from anomalyd.errors import ConfigError
from anomalyd.pipeline.stages.network import TRAIN_TIMESTEPS, schedule
from anomalyd.pipeline.stages.published_unet import NORM_GROUPS, PublishedUNet

ANCHOR = "input_blocks.0.0.weight"  # its first dimension is the width
SCHEDULE_BUFFER = "sqrt_alphas_cumprod"
SCHEDULE_TOLERANCE = 1e-4  # half-precision copies pass, another schedule is off by more than 0.01
DEEPEST = 6  # nested dictionaries that are looked into
LISTED = 3  # names that an error message gives
# What torch's and safetensors' readers raise on damaged or foreign files.
UNREADABLE = (
    OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, UnpicklingError,
    SafetensorError,
)  # fmt: skip
HOW_TO_SAVE = "save the weights alone with torch.save(model.state_dict(), FILE) and import that file"


@dataclass(frozen=True, slots=True, eq=False)
class PublishedWeights:
    """tensors: the published names, float32. prefix: what stood before them; steps: the trainer's, where it says."""

    tensors: dict[str, Tensor]
    width: int
    prefix: str
    steps: int | None


def read_published_weights(path: Path) -> PublishedWeights:
    """The published UNet's weights in a safetensors file, a torch file or a Lightning checkpoint.

    Raises ConfigError where the file cannot be read without running code of it, does not hold exactly the published
    tensors (missing, unexpected and misshapen ones are named), or was trained with another noise schedule.
    """
    content = _opened(path)
    stored = dict(_tensors(content, ""))
    prefix = _best_prefix(path, stored)
    width = _width(path, stored[prefix + ANCHOR])
    copies = tuple(other for other in _prefixes(stored) if other != prefix and other.startswith(prefix))
    found = {
        name.removeprefix(prefix): value
        for name, value in stored.items()
        if name.startswith(prefix) and not name.startswith(copies)
    }
    _check(path, found, width)
    _check_schedule(path, stored, prefix)
    steps = content.get("global_step")
    tensors = {name: value.float() for name, value in found.items()}
    return PublishedWeights(tensors, width, prefix, steps if isinstance(steps, int) else None)


class _Inert:
    """Stands for every class or function of a checkpoint that torch's restricted reader does not know.

    The published code keeps its configuration (OmegaConf objects) beside the weights. Those become empty objects: their
    libraries are neither imported nor called.
    """

    def __new__(cls, *_given: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_given: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def _opened(path: Path) -> Mapping[str, object]:
    """What the file holds; {} for a torch file that holds no dictionary."""
    try:
        with path.open("rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"  # 8 bytes of length, then the header in JSON
        if is_safetensors:
            return dict(load_file(path))
        with safe_globals([(_Inert, name) for name in _unknown_names(path)]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as exc:
        raise ConfigError(
            f"{path} cannot be read as plain weights: it is damaged, is no safetensors, torch or Lightning file, or "
            f"needs code of its own to be read; {HOW_TO_SAVE}"
        ) from exc
    return content if isinstance(content, dict) else {}


def _unknown_names(path: Path) -> list[str]:
    """Classes and functions in a torch file that weights alone do not need; [] in the format before torch 1.6."""
    try:
        return get_unsafe_globals_in_checkpoint(path)
    except ValueError:
        return []


def _tensors(content: object, name: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dictionaries, keys joined by dots."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, dict) and depth < DEEPEST:
        for key, value in content.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key), depth + 1)


def _best_prefix(path: Path, stored: Mapping[str, Tensor]) -> str:
    """What stands before most of the published names; of equals, not a running average's copy."""
    prefixes = _prefixes(stored)
    if not prefixes:
        seen = _some(list(stored)) or "no tensors"
        raise ConfigError(
            f"{path} does not hold the published network: no name ends with {ANCHOR}; it holds {seen}. "
            f"A whole pickled model cannot be read: {HOW_TO_SAVE}"
        )
    names = _expected(NORM_GROUPS)

    def rank(prefix: str) -> tuple[int, bool, int]:
        is_average = any(part.startswith("ema") for part in re.split(r"[._]", prefix.lower()))
        return sum(prefix + name in stored for name in names), not is_average, -len(prefix)

    return max(prefixes, key=rank)


def _prefixes(stored: Mapping[str, Tensor]) -> list[str]:
    """What stands before the published names, for each copy of the network that is there."""
    return [name.removesuffix(ANCHOR) for name in stored if name == ANCHOR or name.endswith("." + ANCHOR)]


def _width(path: Path, anchor: Tensor) -> int:
    width = int(anchor.shape[0]) if anchor.dim() else 0
    if width <= 0 or width % NORM_GROUPS:
        raise ConfigError(
            f"{path}: {ANCHOR} is {tuple(anchor.shape)}, its first size is the network's width and a multiple of "
            f"{NORM_GROUPS} is expected"
        )
    return width


def _expected(width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes at a width; takes no memory."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in PublishedUNet(width).state_dict().items()}


def _check(path: Path, found: Mapping[str, Tensor], width: int) -> None:
    """Raises ConfigError where the tensors are not those of the published network of this width, all finite."""
    expected = _expected(width)
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    both = [name for name in expected if name in found]
    misshapen = [
        f"{name} is {tuple(found[name].shape)} instead of {expected[name]}"
        for name in both
        if tuple(found[name].shape) != expected[name]
    ]
    useless = [n for n in both if not (found[n].is_floating_point() and bool(found[n].float().isfinite().all()))]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen, "not finite": useless}
    faults = [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names]
    if faults:
        foreign = missing or unexpected or misshapen
        hint = ". Only the network without conditioning can be had (1 channel, channel_mult 1, 2, 2, 3 blocks a level)"
        raise ConfigError(
            f"{path} does not fit the published network of width {width}, which has {len(expected)} tensors: "
            f"{'; '.join(faults)}{hint if foreign else ''}"
        )


def _check_schedule(path: Path, stored: Mapping[str, Tensor], prefix: str) -> None:
    """Raises ConfigError where the diffusion's own buffer, if it lies beside the network, is not the cosine's."""
    buffer = stored.get(prefix.removesuffix("model.") + SCHEDULE_BUFFER)
    if buffer is None:
        return
    ours = schedule().signal
    if buffer.shape != ours.shape or float((buffer.float() - ours).abs().max()) > SCHEDULE_TOLERANCE:
        raise ConfigError(
            f"{path} was trained with another noise schedule: {SCHEDULE_BUFFER} is not that of the cosine schedule "
            f"with {TRAIN_TIMESTEPS} steps, the only one that anomalyd adds noise with"
        )


def _some(names: list[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
