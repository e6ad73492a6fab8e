"""State of a training, in safetensors files: a full one to go on exactly, a small one to take elsewhere.

checkpoint.safetensors: weights, their average, the optimiser's moments. weights-ema.safetensors: the average alone, at
half precision, under the names of a bundle's model.safetensors. Both say how many steps were made, on whose scans.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from anomalyd.errors import Broken, ConfigError
from anomalyd.pipeline.bundle import DESCRIPTION, WEIGHTS, SourceFacts, checked_digest, read_description
from anomalyd.pipeline.stages.network import DenoisingNetwork
from anomalyd.pipeline.train.people import People

FULL, SMALL = "checkpoint.safetensors", "weights-ema.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True, eq=False)
class Trainee:
    """A network in training.

    average: exponential moving average of the weights; step: steps done; fresh_at: the step at which the optimiser
    began anew (warmed up from there); people: whose scans trained the weights so far.
    """

    network: DenoisingNetwork
    average: DenoisingNetwork
    optimiser: torch.optim.AdamW
    step: int
    loss: float
    fresh_at: int = 0
    people: People = ()


def save_checkpoint(path: Path, trainee: Trainee) -> None:
    """The full state, renamed into place: a kill leaves the last whole one."""
    tensors = {f"network.{name}": value for name, value in trainee.network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in trainee.average.state_dict().items()}
    for name, parameter in trainee.network.named_parameters():
        state = trainee.optimiser.state.get(parameter, {})
        tensors |= {f"{moment}.{name}": state[moment] for moment in MOMENTS if moment in state}
    _save(path, tensors, trainee)


def save_weights(path: Path, trainee: Trainee) -> None:
    """The average alone, as half floats: a quarter of an eighth of a full state, far below what a step changes."""
    _save(path, {name: value.half() for name, value in trainee.average.state_dict().items()}, trainee)


def _save(path: Path, tensors: Mapping[str, Tensor], trainee: Trainee) -> None:
    facts = {
        "step": str(trainee.step),
        "loss": repr(trainee.loss),
        "fresh_at": str(trainee.fresh_at),
        "people": json.dumps([one.model_dump(mode="json") for one in trainee.people]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    save_file({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, fresh, facts)
    with fresh.open("rb") as written:
        os.fsync(written.fileno())  # else a power cut may leave the new name on nothing
    fresh.replace(path)


def load_checkpoint(path: Path, trainee: Trainee) -> Trainee:
    """The trainee as it was saved; as given where there is no file. Raises Broken on weights of another shape."""
    return _resumed(path, trainee, *_read(path)) if path.exists() else trainee


def begin_from(path: Path, trainee: Trainee) -> Trainee:
    """The trainee with the weights of a full or a small checkpoint, of a bundle, or of a bundle's weights.

    A full one goes on exactly; the others with an optimiser that begins anew and is warmed up.
    Raises ConfigError where there are none, Broken on weights of another shape.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or (path.name == WEIGHTS and (folder / DESCRIPTION).exists()):
        checked_digest(folder)
        training = read_description(folder).training
        _, tensors = _read(folder / WEIGHTS)
        return _begun(folder / WEIGHTS, trainee, tensors, training.steps, training.sources)
    facts, tensors = _read(path)
    if any(name.startswith("exp_avg.") for name in tensors):
        return _resumed(path, trainee, facts, tensors)
    if "step" not in facts:
        raise ConfigError(f"{path} says nothing of its steps: {SMALL}, {FULL} or a bundle is expected")
    return _begun(path, trainee, tensors, int(facts["step"]), _people(facts))


def _begun(path: Path, trainee: Trainee, tensors: dict[str, Tensor], step: int, people: People) -> Trainee:
    for network in (trainee.network, trainee.average):
        _fill(path, network, tensors)
    return replace(trainee, step=step, fresh_at=step, people=people)


def _resumed(path: Path, trainee: Trainee, facts: Mapping[str, str], tensors: dict[str, Tensor]) -> Trainee:
    step, fresh_at = int(facts["step"]), int(facts.get("fresh_at", "0"))
    _fill(path, trainee.network, _under(tensors, "network."))
    _fill(path, trainee.average, _under(tensors, "average."))
    for name, parameter in trainee.network.named_parameters():
        if f"exp_avg.{name}" not in tensors:
            continue
        state = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS}
        ordered = {m: torch.empty_like(parameter).copy_(value) for m, value in state.items()}
        trainee.optimiser.state[parameter] = {"step": torch.tensor(float(step - fresh_at)), **ordered}
    return replace(trainee, step=step, loss=float(facts["loss"]), fresh_at=fresh_at, people=_people(facts))


def _fill(path: Path, network: DenoisingNetwork, tensors: dict[str, Tensor]) -> None:
    try:
        network.load_state_dict(tensors)  # copies into the network's own precision
    except RuntimeError as exc:
        raise Broken(f"{path.name} does not fit the network of this preset: {exc}") from exc


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """(facts, tensors) of a file; raises ConfigError where it is none."""
    try:
        with safe_open(path, framework="pt") as stored:
            facts: dict[str, str] = stored.metadata() or {}
            return facts, {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no iterator
    except (OSError, SafetensorError) as exc:
        raise ConfigError(f"{path} holds no weights that can be read: {exc}") from exc


def _people(facts: Mapping[str, str]) -> People:
    """None are named by files of before they were kept."""
    return tuple(SourceFacts.model_validate(one) for one in json.loads(facts.get("people", "[]")))


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
