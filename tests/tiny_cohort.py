"""A made-up cohort and a recipe with a very small network: a training step takes milliseconds."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from anomalyd.pipeline.bundle import NetworkSettings, ReconstructionSettings, ScoreSettings, Template
from anomalyd.pipeline.train.cohort import Scan
from anomalyd.pipeline.train.cohort_file import Cohort
from anomalyd.pipeline.train.recipe import RECIPES, Recipe
from anomalyd.pipeline.volume import Grid
from tiny_bundle import made_up_brain

SHAPE = (8, 32, 32)
TINY = NetworkSettings(unshuffle=4, widths=(8, 16), layers_per_block=1, norm_groups=4)


def tiny_recipe(steps: int) -> Recipe:
    """Saves every second step, reports each."""
    return Recipe(
        TINY,
        ReconstructionSettings(fields_per_timestep=1),
        ScoreSettings(mode="normative", weights={"residual": 1.0}),
        SHAPE,
        steps,
        batch=4,
        save_every=2,
        report_every=1,
        picture_every=4,
        warm_up=2,
        noise_tiles=1,
    )


def tiny_paper_recipe(steps: int) -> Recipe:
    """The published recipe for the tiny network and box."""
    return replace(RECIPES["paper"], network=TINY, box_shape=SHAPE, steps=steps, batch=4, save_every=2, report_every=1)


def tiny_cohort(people: int = 5) -> Cohort:
    """Smooth random slices, brain everywhere but at the edge; the last person is held out."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(20, 200, (people, SHAPE[0], SHAPE[1] // 4, SHAPE[2] // 4)).astype(np.uint8)
    masks = np.zeros((people, *SHAPE), dtype=np.bool_)
    masks[:, :, 2:-2, 2:-2] = True
    brain = made_up_brain()
    scans = tuple(Scan(Path(f"p{k}.nii.gz"), f"p{k}", "made up", "none", 30.0 + k) for k in range(people))
    return Cohort(
        np.where(masks, coarse.repeat(4, axis=2).repeat(4, axis=3), 0).astype(np.uint8),
        masks,
        scans,
        np.array([True] * (people - 1) + [False]),
        Template(brain, brain.voxels > 0),
        Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]]),
        np.linspace(0.0, 1.0, 11),
        (),
    )
