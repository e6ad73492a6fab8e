"""State of a training in one safetensors file: weights, their average, the optimiser's moments, the step."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from anomalyd.errors import Broken
from anomalyd.pipeline.stages.network import DenoisingNetwork

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True, eq=False)
class Trainee:
    """A network in training. average: exponential moving average of the weights; step: steps done."""

    network: DenoisingNetwork
    average: DenoisingNetwork
    optimiser: torch.optim.AdamW
    step: int
    loss: float


def save_checkpoint(path: Path, trainee: Trainee) -> None:
    """The file, renamed into place: a kill leaves the last whole one."""
    tensors = {f"network.{name}": value for name, value in trainee.network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in trainee.average.state_dict().items()}
    for name, parameter in trainee.network.named_parameters():
        state = trainee.optimiser.state.get(parameter, {})
        tensors |= {f"{moment}.{name}": state[moment] for moment in MOMENTS if moment in state}
    facts = {"step": str(trainee.step), "loss": repr(trainee.loss)}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, fresh, facts)
    fresh.replace(path)


def load_checkpoint(path: Path, trainee: Trainee) -> Trainee:
    """The trainee as it was saved; as given where there is no file. Raises Broken on weights of another shape."""
    if not path.exists():
        return trainee
    with safe_open(path, framework="pt") as stored:
        facts: dict[str, str] = stored.metadata() or {}
        tensors: dict[str, Tensor] = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no iterator
    step = int(facts["step"])
    try:
        trainee.network.load_state_dict(_under(tensors, "network."))
        trainee.average.load_state_dict(_under(tensors, "average."))
    except RuntimeError as exc:
        raise Broken(f"{path.name} does not fit the network of this preset: {exc}") from exc
    for name, parameter in trainee.network.named_parameters():
        if f"exp_avg.{name}" not in tensors:
            continue
        state = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS}
        ordered = {m: torch.empty_like(parameter).copy_(value) for m, value in state.items()}
        trainee.optimiser.state[parameter] = {"step": torch.tensor(float(step)), **ordered}
    return replace(trainee, step=step, loss=float(facts["loss"]))


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
