"""Training of a network: a cohort in, weights out, resumable at any time."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from anomalyd.errors import ConfigError
from anomalyd.pipeline.stages.network import DenoisingNetwork, Schedule, build_network, schedule
from anomalyd.pipeline.train import curves
from anomalyd.pipeline.train.batches import AHEAD, Batch, batch_maker, in_order
from anomalyd.pipeline.train.checkpoint import (
    FULL,
    SMALL,
    Trainee,
    begin_from,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from anomalyd.pipeline.train.cohort_file import Cohort
from anomalyd.pipeline.train.held_out import HeldOut, held_out
from anomalyd.pipeline.train.people import people_of, together
from anomalyd.pipeline.train.recipe import Recipe

CURVE, CURVE_PICTURE, SAMPLES = "loss.csv", "loss.png", "samples.png"
AVERAGED_STEPS = 200  # of the loss that is shown


@dataclass(frozen=True, slots=True)
class Progress:
    """Where it stands. what: the phase; of training: mean loss of the last steps, steps/s, seconds to the end."""

    what: str
    done: int
    of: int
    loss: float | None = None
    rate: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """At the rate of this run."""
        return (self.of - self.done) / self.rate if self.rate else None


OnProgress = Callable[[Progress], None]
OnNote = Callable[[str], None]


def fit(
    cohort: Cohort,
    recipe: Recipe,
    work: Path,
    *,
    seed: int,
    device: str,
    on_progress: OnProgress = lambda _: None,
    on_note: OnNote = lambda _: None,
    resume_from: Path | None = None,
) -> Trainee:
    """Steps up to recipe.steps, from the checkpoint in `work`, else from the weights of resume_from, else from none.

    Every random number of step k comes from (seed, k): an interrupted run and an uninterrupted one end alike. Leaves in
    `work` a full and a small checkpoint, loss.csv, loss.png and samples.png. on_note: where it goes on from.
    Raises ConfigError for a device that is not there or weights that cannot be read, Broken for weights of another
    network.
    """
    check_device(device)
    with _repeatable(device):
        trainee = _start(cohort, recipe, work, seed=seed, device=device, resume_from=resume_from)
        if trainee.step:
            on_note(_goes_on(work, resume_from, trainee.step, recipe.steps))
        make = batch_maker(cohort, recipe, seed)
        steps = _on(schedule(), device)
        diary = _Diary(work, trainee.step, held_out(cohort, recipe, seed, device))
        losses: list[float] = []
        for step, batch in in_order(make, trainee.step, recipe.steps, device, AHEAD[device]):
            losses.append(_train_step(trainee, batch, steps, recipe))
            trainee = replace(trainee, step=step + 1, loss=float(np.mean(losses[-AVERAGED_STEPS:])))
            is_last = trainee.step == recipe.steps
            if trainee.step % recipe.report_every == 0 or is_last:
                on_progress(Progress("training", trainee.step, recipe.steps, trainee.loss, diary.rate(len(losses))))
            is_saved = trainee.step % recipe.save_every == 0 or is_last
            if is_saved:
                diary.note(trainee, steps, losses)
            if trainee.step % recipe.picture_every == 0 or is_last:
                diary.draw(trainee, steps)
            if is_saved:  # last: killed before it, the same steps are made, noted and drawn again
                save_weights(work / SMALL, trainee)
                save_checkpoint(work / FULL, trainee)
        return trainee


def check_device(device: str) -> None:
    """Raises ConfigError for CUDA that torch does not see."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device cuda: torch {torch.__version__} sees no CUDA device here; take cpu, or install the driver and a "
            "torch with CUDA"
        )
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is unknown: cpu or cuda")


def _start(cohort: Cohort, recipe: Recipe, work: Path, *, seed: int, device: str, resume_from: Path | None) -> Trainee:
    """The trainee that goes on: a checkpoint in `work` wins, so that the same command may be given again."""
    torch.manual_seed(seed)
    network = build_network(recipe.network)
    if device == "cuda":
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    average = build_network(recipe.network).to(device)
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    trainee = Trainee(network, average, optimiser, 0, math.nan)
    if (work / FULL).exists() or resume_from is None:
        trainee = load_checkpoint(work / FULL, trainee)
    else:
        trainee = begin_from(resume_from, trainee)
    return replace(trainee, people=together((*trainee.people, *people_of(cohort.train_scans))))


def _goes_on(work: Path, resume_from: Path | None, step: int, steps: int) -> str:
    """For a person."""
    if not (work / FULL).exists():
        return f"begins with the weights of {resume_from}, at step {step} of {steps}"
    ignored = f"; it has gone on since it began with {resume_from}, which is not read again" if resume_from else ""
    return f"goes on from {work / FULL} at step {step} of {steps}{ignored}"


class _Diary:
    """The loss curve and the pictures of one run."""

    def __init__(self, work: Path, step: int, held: HeldOut | None) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self._work, self._held = work, held
        self._points = curves.read_curve(work / CURVE, step)
        self._began, self._noted = time.monotonic(), 0

    def rate(self, steps_of_this_run: int) -> float:
        """Steps per second since this run began."""
        return steps_of_this_run / max(1e-9, time.monotonic() - self._began)

    def note(self, trainee: Trainee, steps: Schedule, losses: list[float]) -> None:
        """One more point of the curve; losses: of all steps of this run."""
        held = self._held.loss(trainee.average, steps) if self._held else None
        mean = float(np.mean(losses[self._noted :]))
        self._points.append(curves.LossPoint(trainee.step, mean, held, time.monotonic() - self._began))
        self._noted = len(losses)
        curves.write_curve(self._work / CURVE, self._points)

    def draw(self, trainee: Trainee, steps: Schedule) -> None:
        """Both pictures as of now."""
        curves.save_picture(self._work / CURVE_PICTURE, curves.draw_curve(self._points))
        if self._held:
            curves.save_picture(self._work / SAMPLES, curves.draw_samples(self._held.samples(trainee.average, steps)))


def _train_step(trainee: Trainee, batch: Batch, steps: Schedule, recipe: Recipe) -> float:
    """One optimiser step; the l1 loss of its batch."""
    noised = steps.noisy(batch.start, batch.noise, batch.timesteps)
    for group in trainee.optimiser.param_groups:
        group["lr"] = learning_rate(recipe, trainee.step, trainee.fresh_at)
    with torch.autocast(noised.device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        predicted = trainee.network(noised, batch.timesteps)
    loss = (predicted.float() - batch.target).abs().mean()
    trainee.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if recipe.clip is not None:
        torch.nn.utils.clip_grad_norm_(trainee.network.parameters(), recipe.clip)
    trainee.optimiser.step()
    _follow(trainee.average, trainee.network, min(recipe.ema, (1.0 + trainee.step) / (10.0 + trainee.step)))
    return float(loss.detach())


def learning_rate(recipe: Recipe, step: int, fresh_at: int = 0) -> float:
    """A cosine down to last_share at the last step, warmed up from where the optimiser began anew."""
    along = min(1.0, max(0, step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up))
    cosine = recipe.last_share + (1 - recipe.last_share) * 0.5 * (1 + math.cos(math.pi * along))
    return recipe.learning_rate * cosine * min(1.0, (step - fresh_at + 1) / max(1, recipe.warm_up))


@torch.no_grad()
def _follow(average: DenoisingNetwork, network: DenoisingNetwork, decay: float) -> None:
    """Exponential moving average of the weights."""
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1.0 - decay)


def _on(steps: Schedule, device: str) -> Schedule:
    return Schedule(steps.signal.to(device), steps.noise.to(device))


@contextmanager
def _repeatable(device: str) -> Iterator[None]:
    """On CUDA: algorithms that give the same result each time, where there are any; as before afterwards."""
    if device != "cuda":
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]
