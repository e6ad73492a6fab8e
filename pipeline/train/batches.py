"""What each training step sees: a function of cohort, recipe, seed and the step's number alone.

So an interrupted training and an uninterrupted one see the same, and batches may be made ahead in other threads.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomalyd.errors import ConfigError
from anomalyd.pipeline.stages.simplex import noise_field
from anomalyd.pipeline.train.augment import corrupt, noise_crops, noise_tiles, vary
from anomalyd.pipeline.train.augment_volume import augment_volume
from anomalyd.pipeline.train.cohort_file import Cohort
from anomalyd.pipeline.train.recipe import Recipe

MIN_BRAIN_SHARE = 0.02  # of a slice; less is noise of the mask
AHEAD = {"cpu": 0, "cuda": 4}  # CUDA would wait for batches, a CPU has nobody else to make them
_ORDER = 1  # tells the draw of an epoch's order from those of its steps


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One step's slices in [-1, 1] (network space). All but timesteps: (n, 1, rows, columns) float32.

    target: what the network should give; start: what noise is added to; timesteps: (n,) int64.
    """

    target: Tensor
    start: Tensor
    noise: Tensor
    timesteps: Tensor

    def to(self, device: str) -> "Batch":
        """The same on another device; channels last on CUDA."""
        form = torch.channels_last if device == "cuda" else torch.preserve_format
        target, start, noise = (part.to(device, memory_format=form) for part in (self.target, self.start, self.noise))
        return Batch(target, start, noise, self.timesteps.to(device))


BatchMaker = Callable[[int], Batch]


def batch_maker(cohort: Cohort, recipe: Recipe, seed: int) -> BatchMaker:
    """The function that makes the batch of a step."""
    return _VolumeBatches(cohort, recipe, seed) if recipe.sampling == "volumes" else _SliceBatches(cohort, recipe, seed)


def in_order(make: BatchMaker, first: int, last: int, device: str, ahead: int) -> Iterator[tuple[int, Batch]]:
    """(step, batch) for first <= step < last; that many are made ahead, each in a thread."""
    if not ahead:
        for step in range(first, last):
            yield step, make(step).to(device)
        return
    with ThreadPoolExecutor(ahead, "batch") as pool:
        waiting: deque[tuple[int, Future[Batch]]] = deque()
        for step in range(first, last):
            waiting.append((step, pool.submit(make, step)))
            if len(waiting) > ahead:
                done, made = waiting.popleft()
                yield done, made.result().to(device)
        for done, made in waiting:
            yield done, made.result().to(device)


class _SliceBatches:
    """Any slices with brain, varied and corrupted one by one."""

    def __init__(self, cohort: Cohort, recipe: Recipe, seed: int) -> None:
        self._cohort, self._recipe, self._seed = cohort, recipe, seed
        self._tiles = noise_tiles(seed, recipe.noise_tiles)
        self._pool = slices_with_brain(cohort, cohort.is_train)
        if cohort.share is not None:
            self._pool = np.repeat(self._pool, cohort.share[self._pool[:, 0]], axis=0)
        if not len(self._pool):
            raise ConfigError("no slice with brain to train on: the masks of all training scans are empty in the box")

    def __call__(self, step: int) -> Batch:
        rng, recipe = np.random.default_rng([self._seed, step]), self._recipe
        scans, places = self._pool[rng.integers(len(self._pool), size=recipe.batch)].T
        clean = torch.from_numpy(self._cohort.floats((scans, places))).unsqueeze(1)
        inside = torch.from_numpy(self._cohort.masks[scans, places].astype(np.float32)).unsqueeze(1)
        if recipe.variety is not None:
            clean, inside = vary(clean, inside, rng, recipe.variety)
        seen = corrupt(
            clean[:, 0].numpy(), inside[:, 0].numpy(), self._tiles, rng,
            share=recipe.corrupt_share, most_noise=recipe.input_noise,
        )  # fmt: skip
        noise = torch.from_numpy(noise_crops(self._tiles, rng, recipe.batch, *clean.shape[2:]))
        timesteps = torch.from_numpy(rng.integers(*recipe.timesteps, recipe.batch))
        return Batch(2.0 * clean - 1.0, 2.0 * torch.from_numpy(seen).unsqueeze(1) - 1.0, noise, timesteps)


class _VolumeBatches:
    """As published: an epoch takes one slice, brain or not, of each augmented volume; the last part batch is dropped.

    With fewer volumes than a batch holds, a batch takes several slices of a volume.
    """

    def __init__(self, cohort: Cohort, recipe: Recipe, seed: int) -> None:
        self._cohort, self._recipe, self._seed = cohort, recipe, seed
        volumes = np.flatnonzero(cohort.is_train)
        self._volumes = np.tile(volumes, -(-recipe.batch // len(volumes)))

    def __call__(self, step: int) -> Batch:
        rng, batch = np.random.default_rng([self._seed, step]), self._recipe.batch
        epoch, part = divmod(step, len(self._volumes) // batch)
        order = np.random.default_rng([self._seed, epoch, _ORDER]).permutation(self._volumes)
        spacing_mm = float(self._cohort.box.spacing_mm[0])
        slices = []
        for volume in order[part * batch : (part + 1) * batch]:
            varied = augment_volume(self._cohort.floats((int(volume),)), spacing_mm, rng)
            slices.append(varied[int(rng.integers(len(varied)))])
        clean = torch.from_numpy(2.0 * np.stack(slices)[:, None] - np.float32(1.0))
        field = noise_field(int(rng.integers(1, 1 << 31)), clean.shape[2], clean.shape[3])
        noise = torch.from_numpy(field).expand_as(clean)
        return Batch(clean, clean, noise, torch.from_numpy(rng.integers(*self._recipe.timesteps, batch)))


def slices_with_brain(cohort: Cohort, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(m, 2) scan and slice numbers of the chosen scans' slices with at least MIN_BRAIN_SHARE brain."""
    share = cohort.masks.mean(axis=(2, 3)) * chosen[:, None]
    return np.argwhere(share > MIN_BRAIN_SHARE)
