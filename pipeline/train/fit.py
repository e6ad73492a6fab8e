"""Training of a bundle: scans in, network out, resumable at any time."""

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from anomalyd.errors import ConfigError
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.stages.network import DenoisingNetwork, Schedule, build_network, schedule
from anomalyd.pipeline.train.augment import corrupt, noise_crops, noise_tiles, vary
from anomalyd.pipeline.train.calibrate import MIN_SCANS, calibrate_bundle
from anomalyd.pipeline.train.checkpoint import Trainee, load_checkpoint, save_checkpoint
from anomalyd.pipeline.train.cohort import list_scans, split_by_subject
from anomalyd.pipeline.train.export import export_bundle
from anomalyd.pipeline.train.prepare import LEVELS, Cohort, prepare_cohort
from anomalyd.pipeline.train.recipe import RECIPES, Preset, Recipe


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands. what: the phase; loss: mean over the last steps, None while scans are prepared."""

    what: str
    done: int
    of: int
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training made of which scans."""

    bundle: Path
    steps: int
    train_subjects: int
    held_out_subjects: int
    skipped: tuple[tuple[str, str], ...]
    loss: float


def train_bundle(
    data: Path,
    out: Path,
    *,
    preset: Preset = "compact",
    steps: int | None = None,
    device: str = "cpu",
    seed: int = 20240,
    contrast: Contrast = Contrast.T1W,
    exclude_subject_prefixes: tuple[str, ...] = (),
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> TrainReport:
    """A bundle at `out`, trained on the scans of one contrast in `data`.

    Checkpoints and the prepared scans lie in `out` with `.work` added: the same call goes on where it was stopped, also
    with more steps. Raises ConfigError for an unknown preset, too few people, or an `out` that is not a bundle.
    """
    if preset not in RECIPES:
        raise ConfigError(f"preset {preset!r} is unknown: {', '.join(RECIPES)}")
    recipe = RECIPES[preset] if steps is None else replace(RECIPES[preset], steps=steps)
    work = out.with_name(out.name + ".work")
    split = split_by_subject(list_scans(data, contrast, exclude_subject_prefixes), seed)
    cohort = prepare_cohort(
        split, work / "cohort.npz", recipe.box_shape, lambda done, of, what: on_progress(Progress(what, done, of))
    )
    trainee = fit(cohort, recipe, work, seed=seed, device=device, on_progress=on_progress)
    export_bundle(out, cohort, recipe, trainee, contrast=contrast, seed=seed)
    if len(split.held_out) >= MIN_SCANS:
        calibrate_bundle(
            out, data, device=device, on_progress=lambda done, of: on_progress(Progress("calibration", done, of))
        )
    people = [{s.subject for s, t in zip(cohort.scans, cohort.is_train, strict=True) if t == flag} for flag in (1, 0)]
    return TrainReport(out, trainee.step, len(people[0]), len(people[1]), cohort.skipped, trainee.loss)


def fit(
    cohort: Cohort, recipe: Recipe, work: Path, *, seed: int, device: str, on_progress: Callable[[Progress], None]
) -> Trainee:
    """Steps up to recipe.steps, from the last checkpoint in `work` if there is one.

    Every random number of step k comes from (seed, k): an interrupted run and an uninterrupted one end alike.
    """
    torch.manual_seed(seed)
    network = build_network(recipe.network).to(device)
    average = build_network(recipe.network).to(device)
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    trainee = load_checkpoint(work / "checkpoint.safetensors", Trainee(network, average, optimiser, 0, math.nan))
    steps = schedule()
    steps = Schedule(steps.signal.to(device), steps.noise.to(device))
    tiles = noise_tiles(seed, recipe.noise_tiles)
    pool = _slice_pool(cohort)
    losses: list[float] = []
    started = time.monotonic()
    for step in range(trainee.step, recipe.steps):
        rng = np.random.default_rng([seed, step])
        loss = _train_step(trainee, cohort, pool=pool, tiles=tiles, steps=steps, recipe=recipe, rng=rng)
        losses.append(loss)
        trainee = replace(trainee, step=step + 1, loss=float(np.mean(losses[-200:])))
        if (step + 1) % recipe.report_every == 0:
            on_progress(Progress("training", step + 1, recipe.steps, trainee.loss))
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            save_checkpoint(work / "checkpoint.safetensors", trainee)
            _note(work / "loss.csv", trainee, time.monotonic() - started)
    return trainee


def _train_step(
    trainee: Trainee,
    cohort: Cohort,
    *,
    pool: NDArray[np.int64],
    tiles: NDArray[np.float32],
    steps: Schedule,
    recipe: Recipe,
    rng: np.random.Generator,
) -> float:
    """One optimiser step; the l1 loss of its batch."""
    device = next(trainee.network.parameters()).device
    chosen = pool[rng.integers(len(pool), size=recipe.batch)]
    images = torch.from_numpy(
        cohort.images[chosen[:, 0], chosen[:, 1]].astype(np.float32) / np.float32(LEVELS)
    ).unsqueeze(1)
    masks = torch.from_numpy(cohort.masks[chosen[:, 0], chosen[:, 1]].astype(np.float32)).unsqueeze(1)
    clean, inside = vary(images, masks, rng)
    seen = corrupt(clean[:, 0].numpy(), inside[:, 0].numpy(), tiles, rng)
    noise = torch.from_numpy(noise_crops(tiles, rng, recipe.batch, *clean.shape[2:]))
    timesteps = torch.from_numpy(rng.integers(*recipe.timesteps, recipe.batch)).to(device)
    target = (2.0 * clean - 1.0).to(device)
    start = (2.0 * torch.from_numpy(seen).unsqueeze(1) - 1.0).to(device)
    for group in trainee.optimiser.param_groups:
        group["lr"] = _learning_rate(recipe, trainee.step)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        predicted = trainee.network(steps.noisy(start, noise.to(device), timesteps), timesteps)
    loss = (predicted - target).abs().mean()
    trainee.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainee.network.parameters(), recipe.clip)
    trainee.optimiser.step()
    _follow(trainee.average, trainee.network, min(recipe.ema, (1.0 + trainee.step) / (10.0 + trainee.step)))
    return float(loss.detach())


def _slice_pool(cohort: Cohort) -> NDArray[np.int64]:
    """(m, 2) scan and slice numbers of training slices with at least 2 % brain."""
    share = cohort.masks.mean(axis=(2, 3)) * cohort.is_train[:, None]
    return np.argwhere(share > 0.02)  # noqa: PLR2004 - less is noise of the mask


def _learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to last_share at the last step."""
    if step < recipe.warm_up:
        return recipe.learning_rate * (step + 1) / recipe.warm_up
    along = min(1.0, (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up))
    return recipe.learning_rate * (recipe.last_share + (1 - recipe.last_share) * 0.5 * (1 + math.cos(math.pi * along)))


@torch.no_grad()
def _follow(average: DenoisingNetwork, network: DenoisingNetwork, decay: float) -> None:
    """Exponential moving average of the weights."""
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1.0 - decay)


def _note(path: Path, trainee: Trainee, seconds: float) -> None:
    """One line of the loss curve."""
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        if is_new:
            writer.writerow(["step", "loss", "seconds_of_this_run"])
        writer.writerow([trainee.step, f"{trainee.loss:.5f}", f"{seconds:.0f}"])
