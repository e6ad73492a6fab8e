"""What a step sees depends on the seed and its number alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anomalyd.errors import ConfigError
from anomalyd.pipeline.train import augment_volume
from anomalyd.pipeline.train.batches import Batch, batch_maker, in_order
from anomalyd.pipeline.train.cohort_file import Cohort
from anomalyd.pipeline.train.recipe import Recipe
from tiny_cohort import SHAPE, tiny_cohort, tiny_paper_recipe, tiny_recipe


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return tiny_cohort()


def alike(one: Batch, other: Batch) -> bool:
    pairs = ((getattr(one, name), getattr(other, name)) for name in ("target", "start", "noise", "timesteps"))
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("recipe", [tiny_recipe(9), tiny_paper_recipe(9)], ids=["compact", "paper"])
def test_made_ahead_in_threads_or_one_by_one_they_are_the_same(recipe: Recipe, cohort: Cohort) -> None:
    make = batch_maker(cohort, recipe, 5)
    ahead = list(in_order(make, 2, 9, "cpu", 3))
    assert [step for step, _ in ahead] == list(range(2, 9))
    assert all(alike(batch, made) for (_, batch), (_, made) in zip(ahead, in_order(make, 2, 9, "cpu", 0), strict=True))
    assert not alike(make(2), make(3))
    assert not alike(make(2), batch_maker(cohort, recipe, 6)(2))


def test_a_share_of_the_inputs_is_corrupted_the_targets_are_not(cohort: Cohort) -> None:
    plain = replace(tiny_recipe(1), batch=64, input_noise=0.0, variety=None)
    for share, low, high in ((0.0, 0, 0), (0.25, 5, 30), (1.0, 55, 64)):
        batch = batch_maker(cohort, replace(plain, corrupt_share=share), 1)(0)
        assert low <= int((batch.start != batch.target).flatten(1).any(dim=1).sum()) <= high
        assert float(batch.target.max()) <= 1.0


def test_the_paper_takes_one_slice_of_each_volume_per_epoch_and_one_noise_field(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Volumes of one intensity each; five train, two make a batch, so in each epoch one of them sits out."""
    for name in ("GAMMA_SHARE", "BIAS_SHARE", "BLUR_SHARE", "GHOST_SHARE"):
        monkeypatch.setattr(augment_volume, name, 0.0)
    images = np.stack([np.full(SHAPE, 20 * (k + 1), dtype=np.uint8) for k in range(5)])
    everyone = replace(cohort, images=images, is_train=np.ones(5, dtype=np.bool_))
    make = batch_maker(everyone, replace(tiny_paper_recipe(1), batch=2), 1)
    seen = set()
    for epoch in range(12):
        first, second = make(2 * epoch), make(2 * epoch + 1)
        values = [round(float(one.mean()), 3) for one in (*first.target, *second.target)]
        assert len(set(values)) == 4
        seen.update(values)
        assert torch.equal(first.noise[0], first.noise[1])
        assert not torch.equal(first.noise[0], second.noise[0])
        assert torch.equal(first.start, first.target)
    assert len(seen) == 5


def test_fewer_volumes_than_a_batch_holds_give_several_slices_each(cohort: Cohort) -> None:
    assert batch_maker(cohort, replace(tiny_paper_recipe(1), batch=11), 1)(0).target.shape == (11, 1, *SHAPE[1:])


def test_a_cohort_without_brain_is_refused(cohort: Cohort) -> None:
    empty = replace(cohort, masks=np.zeros_like(cohort.masks))
    with pytest.raises(ConfigError, match="no slice with brain"):
        batch_maker(empty, tiny_recipe(1), 1)
