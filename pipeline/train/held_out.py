"""Fixed slices of people who do not train, with fixed noise: the loss on them tells when a training is flat."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomalyd.pipeline.stages.network import DenoisingNetwork, Schedule
from anomalyd.pipeline.stages.simplex import noise_field
from anomalyd.pipeline.train.batches import Batch, slices_with_brain
from anomalyd.pipeline.train.cohort_file import Cohort
from anomalyd.pipeline.train.recipe import Recipe

MOST_SLICES = 32
SHOWN = 4
AT_ONCE = 8
_DRAW = 2  # tells this draw from those of the training steps


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """batch: clean slices with noise levels spread evenly over the recipe's; shown: a few of them at one level."""

    batch: Batch
    shown: Batch

    @torch.no_grad()
    def loss(self, network: DenoisingNetwork, steps: Schedule) -> float:
        """Mean l1, as in training, without augmentation or lesions."""
        predicted = _in_parts(network, steps, self.batch)
        return float((predicted - self.batch.target).abs().mean())

    @torch.no_grad()
    def samples(self, network: DenoisingNetwork, steps: Schedule) -> NDArray[np.float32]:
        """(n, 3, rows, columns) in [0, 1]: slices, noised, reconstructed in one step."""
        noised = steps.noisy(self.shown.start, self.shown.noise, self.shown.timesteps)
        parts = torch.cat([self.shown.target, noised, _in_parts(network, steps, self.shown)], dim=1)
        return np.asarray(((parts + 1.0) / 2.0).cpu().numpy(), dtype=np.float32)


def _in_parts(network: DenoisingNetwork, steps: Schedule, batch: Batch) -> Tensor:
    """float32, a few slices at a time: a wide network must not need more memory than its training does."""
    noised = steps.noisy(batch.start, batch.noise, batch.timesteps)
    pairs = zip(torch.split(noised, AT_ONCE), torch.split(batch.timesteps, AT_ONCE), strict=True)
    return torch.cat([network(part, timesteps).float() for part, timesteps in pairs])


def held_out(cohort: Cohort, recipe: Recipe, seed: int, device: str) -> HeldOut | None:
    """At most MOST_SLICES of them, the same for the same seed; None where nobody is held out."""
    pool = slices_with_brain(cohort, ~cohort.is_train)
    if not len(pool):
        return None
    rng = np.random.default_rng([seed, 0, _DRAW])
    chosen = pool[rng.permutation(len(pool))[:MOST_SLICES]]
    low, high = recipe.timesteps
    levels = np.linspace(low, high - 1, len(chosen)).round().astype(np.int64)
    by_size = np.argsort(-cohort.masks[chosen[:, 0], chosen[:, 1]].sum(axis=(1, 2)), kind="stable")
    one_level = np.full(min(SHOWN, len(chosen)), recipe.reconstruction.timesteps[0])
    return HeldOut(
        _batch(cohort, chosen, levels, rng).to(device),
        _batch(cohort, chosen[by_size[:SHOWN]], one_level, rng).to(device),
    )


def _batch(cohort: Cohort, chosen: NDArray[np.int64], levels: NDArray[np.int64], rng: np.random.Generator) -> Batch:
    clean = torch.from_numpy(2.0 * cohort.floats((chosen[:, 0], chosen[:, 1]))[:, None] - np.float32(1.0))
    seeds = rng.integers(1, 1 << 31, len(chosen))
    fields = np.stack([noise_field(int(seed), *clean.shape[2:]) for seed in seeds])
    return Batch(clean, clean, torch.from_numpy(fields[:, None]), torch.from_numpy(levels))
