"""A training that was stopped ends like one that was not."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomalyd.errors import Broken, ConfigError
from anomalyd.pipeline.bundle import NetworkSettings
from anomalyd.pipeline.train.checkpoint import FULL, SMALL, Trainee
from anomalyd.pipeline.train.cohort_file import Cohort
from anomalyd.pipeline.train.export import export_bundle
from anomalyd.pipeline.train.fit import Progress, fit, learning_rate
from anomalyd.pipeline.train.recipe import RECIPES, Recipe
from tiny_cohort import tiny_cohort, tiny_paper_recipe, tiny_recipe


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return tiny_cohort()


def train(
    cohort: Cohort,
    work: Path,
    steps: int,
    *,
    seed: int = 3,
    resume_from: Path | None = None,
    recipe: Recipe | None = None,
) -> Trainee:
    return fit(cohort, recipe or tiny_recipe(steps), work, seed=seed, device="cpu", resume_from=resume_from)


def weights(trainee: Trainee) -> torch.Tensor:
    both = (*trainee.network.state_dict().values(), *trainee.average.state_dict().values())
    return torch.cat([value.flatten() for value in both])


def curve(work: Path) -> list[dict[str, str]]:
    with (work / "loss.csv").open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(cohort: Cohort, tmp_path: Path) -> None:
    first, second = (weights(train(cohort, tmp_path / name, 3)) for name in "ab")
    assert torch.equal(first, second)
    assert not torch.equal(first, weights(train(cohort, tmp_path / "c", 3, seed=4)))


@pytest.mark.parametrize("recipe", [tiny_recipe(5), tiny_paper_recipe(5)], ids=["compact", "paper"])
def test_a_stopped_training_ends_like_an_uninterrupted_one(recipe: Recipe, cohort: Cohort, tmp_path: Path) -> None:
    straight = train(cohort, tmp_path / "a", 5, recipe=recipe)
    with pytest.raises(KeyboardInterrupt):
        fit(cohort, recipe, tmp_path / "b", seed=3, device="cpu", on_progress=_interrupt_after_two)
    resumed = train(cohort, tmp_path / "b", 5, recipe=recipe)
    assert resumed.step == straight.step == 5
    assert torch.equal(weights(resumed), weights(straight))
    assert [(row["step"], row["loss"], row["held_out"]) for row in curve(tmp_path / "b")] == [
        (row["step"], row["loss"], row["held_out"]) for row in curve(tmp_path / "a")
    ]


def _interrupt_after_two(progress: Progress) -> None:
    if progress.done == 3:
        raise KeyboardInterrupt


def test_a_small_checkpoint_goes_on_with_an_optimiser_that_is_warmed_up_anew(cohort: Cohort, tmp_path: Path) -> None:
    first = train(cohort, tmp_path / "a", 4)
    taken = tmp_path / "elsewhere.safetensors"
    (tmp_path / "a" / SMALL).rename(taken)
    assert taken.stat().st_size < (tmp_path / "a" / FULL).stat().st_size / 4
    begun = train(cohort, tmp_path / "b", 4, resume_from=taken)  # nothing to do: the weights as they were taken
    assert begun.step == begun.fresh_at == 4
    for slow, before in zip(begun.average.parameters(), first.average.parameters(), strict=True):
        assert torch.allclose(slow, before, rtol=1e-3, atol=1e-6)
    onward = train(cohort, tmp_path / "c", 6, resume_from=taken)
    assert (onward.step, onward.fresh_at) == (6, 4)
    again = train(cohort, tmp_path / "c", 8, resume_from=taken)  # its own checkpoint wins, and knows where it began
    assert (again.step, again.fresh_at) == (8, 4)
    straight = train(cohort, tmp_path / "d", 6, resume_from=taken)
    assert torch.equal(weights(straight), weights(onward))


def test_a_bundle_goes_on_where_its_description_says_and_passes_on_its_people(cohort: Cohort, tmp_path: Path) -> None:
    first = train(cohort, tmp_path / "a", 2)
    bundle = export_bundle(tmp_path / "made", cohort, tiny_recipe(2), first, contrast=cohort.contrast, seed=3)
    others = replace(cohort, scans=tuple(replace(scan, subject="o" + scan.subject) for scan in cohort.scans))
    for start in (bundle.path, bundle.weights):
        onward = train(others, tmp_path / f"b-{start.name}", 4, resume_from=start)
        assert (onward.step, onward.fresh_at) == (4, 2)
        assert onward.people[0].subjects == ("op0", "op1", "op2", "op3", "p0", "p1", "p2", "p3")


def test_weights_of_another_network_and_no_weights_are_refused(cohort: Cohort, tmp_path: Path) -> None:
    train(cohort, tmp_path, 2)
    other = replace(
        tiny_recipe(4), network=NetworkSettings(unshuffle=4, widths=(16, 32), layers_per_block=1, norm_groups=4)
    )
    with pytest.raises(Broken, match="does not fit"):
        train(cohort, tmp_path, 4, recipe=other)
    (tmp_path / "letter.txt").write_text("dear network", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no weights"):
        train(cohort, tmp_path / "new", 4, resume_from=tmp_path / "letter.txt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_cuda_that_is_not_there_is_said(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sees no CUDA device"):
        fit(cohort, tiny_recipe(2), tmp_path, seed=3, device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_weights_twice(cohort: Cohort, tmp_path: Path) -> None:
    first, second = (
        fit(cohort, tiny_recipe(6), tmp_path / name, seed=3, device="cuda").average.state_dict() for name in "ab"
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_curve_and_the_pictures_show_training_and_held_out_people(cohort: Cohort, tmp_path: Path) -> None:
    seen: list[Progress] = []
    fit(cohort, tiny_recipe(4), tmp_path, seed=3, device="cpu", on_progress=seen.append)
    rows = curve(tmp_path)
    assert [row["step"] for row in rows] == ["2", "4"]
    assert all(0 < float(row["loss"]) < 3 and 0 < float(row["held_out"]) < 3 for row in rows)
    for name in ("loss.png", "samples.png"):
        with Image.open(tmp_path / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    assert [progress.done for progress in seen] == [1, 2, 3, 4]
    assert seen[1].rate is not None
    assert seen[1].seconds_left == pytest.approx(2 / seen[1].rate)


def test_a_line_of_the_curve_that_a_kill_cut_short_is_passed_over(cohort: Cohort, tmp_path: Path) -> None:
    train(cohort, tmp_path, 2)
    with (tmp_path / "loss.csv").open("a", encoding="utf-8") as lines:
        lines.write("4,0.1,,7\n6,0.")  # never saved, and torn
    train(cohort, tmp_path, 6)
    assert [row["step"] for row in curve(tmp_path)] == ["2", "4", "6"]


def test_without_held_out_people_it_trains_all_the_same(cohort: Cohort, tmp_path: Path) -> None:
    everyone = replace(cohort, is_train=np.ones_like(cohort.is_train))
    assert train(everyone, tmp_path, 2).step == 2
    assert curve(tmp_path)[0]["held_out"] == ""


def test_the_learning_rate_warms_up_falls_and_warms_up_again_where_the_optimiser_is_new() -> None:
    recipe = replace(RECIPES["compact"], steps=1000)
    assert learning_rate(recipe, 0) == pytest.approx(recipe.learning_rate / recipe.warm_up)
    assert learning_rate(recipe, 199) == pytest.approx(recipe.learning_rate)
    assert learning_rate(recipe, 1000) == pytest.approx(recipe.learning_rate * recipe.last_share)
    assert learning_rate(recipe, 600, fresh_at=600) < learning_rate(recipe, 600) / 100
    assert learning_rate(recipe, 900, fresh_at=600) == learning_rate(recipe, 900)


def test_the_paper_recipe_is_the_published_one_and_keeps_the_last_weights(cohort: Cohort, tmp_path: Path) -> None:
    paper = RECIPES["paper"]
    assert {learning_rate(paper, step) for step in (0, 1, 8000, 17_599)} == {1e-4}
    assert (paper.batch, paper.steps, paper.timesteps, paper.box_shape) == (32, 17_600, (0, 1000), (50, 96, 96))
    trained = train(cohort, tmp_path, 3, recipe=tiny_paper_recipe(3))
    for slow, fast in zip(trained.average.parameters(), trained.network.parameters(), strict=True):
        assert torch.equal(slow, fast)
