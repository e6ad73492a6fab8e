"""A training that was stopped ends like one that was not."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from anomalyd.errors import Broken, ConfigError
from anomalyd.pipeline.bundle import NetworkSettings, ReconstructionSettings, ScoreSettings, Template, load_bundle
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.stages.network import build_network
from anomalyd.pipeline.train.augment import corrupt, noise_tiles, vary
from anomalyd.pipeline.train.checkpoint import Trainee, load_checkpoint
from anomalyd.pipeline.train.cohort import Scan
from anomalyd.pipeline.train.export import export_bundle
from anomalyd.pipeline.train.fit import Progress, fit, train_bundle
from anomalyd.pipeline.train.prepare import Cohort
from anomalyd.pipeline.train.recipe import Recipe
from anomalyd.pipeline.volume import Grid
from tiny_bundle import made_up_brain

SHAPE = (8, 32, 32)
TINY = NetworkSettings(unshuffle=4, widths=(8, 16), layers_per_block=1, norm_groups=4)


def recipe(steps: int) -> Recipe:
    score = ScoreSettings(mode="normative", weights={"residual": 1.0})
    settings = ReconstructionSettings(fields_per_timestep=1)
    return Recipe(TINY, settings, score, SHAPE, steps, batch=4, save_every=2, report_every=1, warm_up=2, noise_tiles=1)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (5, *SHAPE)).astype(np.uint8)
    brain = made_up_brain()
    people = tuple(Scan(Path(f"p{k}.nii.gz"), f"p{k}", "made up", "none", 30.0 + k) for k in range(5))
    return Cohort(
        images,
        np.ones(images.shape, dtype=np.bool_),
        people,
        np.array([True, True, True, True, False]),
        Template(brain, brain.voxels > 0),
        Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]]),
        np.linspace(0.0, 1.0, 11),
        (),
    )


def weights(trainee: Trainee) -> torch.Tensor:
    return torch.cat([value.flatten() for value in trainee.average.state_dict().values()])


def test_a_stopped_training_ends_like_an_uninterrupted_one(cohort: Cohort, tmp_path: Path) -> None:
    straight = fit(cohort, recipe(4), tmp_path / "a", seed=3, device="cpu", on_progress=lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        fit(cohort, recipe(4), tmp_path / "b", seed=3, device="cpu", on_progress=_interrupt_after_two)
    resumed = fit(cohort, recipe(4), tmp_path / "b", seed=3, device="cpu", on_progress=lambda _: None)
    assert resumed.step == straight.step == 4
    assert torch.equal(weights(resumed), weights(straight))


def _interrupt_after_two(progress: Progress) -> None:
    if progress.done == 3:
        raise KeyboardInterrupt


def test_a_checkpoint_of_another_network_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    fit(cohort, recipe(2), tmp_path, seed=3, device="cpu", on_progress=lambda _: None)
    other = build_network(NetworkSettings(unshuffle=4, widths=(16, 32), layers_per_block=1, norm_groups=4))
    optimiser = torch.optim.AdamW(other.parameters())
    with pytest.raises(Broken, match="does not fit"):
        load_checkpoint(tmp_path / "checkpoint.safetensors", Trainee(other, other, optimiser, 0, math.nan))


def test_the_exported_bundle_is_whole_and_names_its_people(cohort: Cohort, tmp_path: Path) -> None:
    trainee = fit(cohort, recipe(2), tmp_path / "w", seed=3, device="cpu", on_progress=lambda _: None)
    export_bundle(tmp_path / "made", cohort, recipe(2), trainee, contrast=Contrast.T1W, seed=3)
    bundle = load_bundle(tmp_path / "made")
    assert bundle.description.training.held_out_subjects == ("p4",)
    assert bundle.description.training.sources[0].subjects == ("p0", "p1", "p2", "p3")
    assert bundle.description.training.age_range == (30.0, 33.0)
    assert bundle.normative is not None
    assert bundle.normative.mean["residual"].shape == SHAPE
    assert "4 healthy people" in (tmp_path / "made" / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_a_folder_that_is_no_bundle_is_not_overwritten(cohort: Cohort, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    trainee = fit(cohort, recipe(2), tmp_path / "w", seed=3, device="cpu", on_progress=lambda _: None)
    with pytest.raises(ConfigError, match="is no bundle"):
        export_bundle(tmp_path, cohort, recipe(2), trainee, contrast=Contrast.T1W, seed=3)


def test_too_few_people_and_an_unknown_preset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="preset"):
        train_bundle(tmp_path, tmp_path / "out", preset="huge")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ConfigError, match="no T1w scan"):
        train_bundle(tmp_path, tmp_path / "out")


def test_made_up_lesions_stay_in_the_brain_and_the_target_does_not_have_them() -> None:
    rng = np.random.default_rng(5)
    slices = np.full((8, 32, 32), 0.5, dtype=np.float32)
    masks = np.zeros_like(slices)
    masks[:, 6:26, 6:26] = 1.0
    seen = corrupt(slices * masks, masks, noise_tiles(1, 1), rng)
    assert not seen[masks == 0].any()
    assert np.abs(seen - slices * masks).max() > 0.1
    assert (slices == 0.5).all()


def test_variety_keeps_shape_and_range() -> None:
    image = torch.rand(4, 1, 32, 32)
    varied, mask = vary(image, torch.ones_like(image), np.random.default_rng(2))
    assert varied.shape == mask.shape == image.shape
    assert 0.0 <= float(varied.min()) <= float(varied.max()) <= 1.25
