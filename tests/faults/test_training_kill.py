"""A training that is killed, wherever it is, ends like one that was not, when the same is asked for again."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from anomalyd.pipeline.train.checkpoint import FULL, SMALL, Trainee
from anomalyd.pipeline.train.cohort_file import save_cohort
from anomalyd.pipeline.train.curves import read_curve
from anomalyd.pipeline.train.fit import fit
from conftest import CHECKOUT
from tiny_cohort import tiny_cohort, tiny_recipe
from waiting import wait_until

pytestmark = pytest.mark.faults

# Mostly saving: kills strike while files are written. A learning rate that does not know which step is the last.
RECIPE = replace(tiny_recipe(400), save_every=1, picture_every=10, last_share=1.0)
LIMIT_S = 90.0
CHILD = """
import sys
from pathlib import Path
import torch
from anomalyd.pipeline.train.cohort_file import load_cohort
from anomalyd.pipeline.train.fit import fit
from test_training_kill import RECIPE
torch.set_num_threads(1)
fit(load_cohort(Path(sys.argv[1])), RECIPE, Path(sys.argv[2]), seed=3, device="cpu")
"""


def step_of(work: Path) -> int:
    if not (work / FULL).exists():
        return 0
    with safe_open(work / FULL, framework="pt") as stored:
        return int(stored.metadata()["step"])


def _is_writing(work: Path, half_written: str, after_step: int) -> bool:
    return step_of(work) > after_step and (work / half_written).exists()


def killed(cohort: Path, work: Path, moment: Callable[[], object]) -> None:
    """Trains in a process of its own and ends it with SIGKILL as soon as the moment has come."""
    path = f"{CHECKOUT / 'tests'}:{CHECKOUT / 'tests' / 'faults'}"
    child = subprocess.Popen([sys.executable, "-c", CHILD, cohort, work], env={"PYTHONPATH": path})
    try:
        wait_until(
            moment, limit_s=LIMIT_S, what="the moment to kill", step_s=0.0005,
            give_up=lambda: "the training ended" if child.poll() is not None else "",
        )  # fmt: skip
    finally:
        child.kill()
    assert child.wait() == -signal.SIGKILL


def weights(trainee: Trainee) -> torch.Tensor:
    both = (*trainee.network.state_dict().values(), *trainee.average.state_dict().values())
    return torch.cat([value.flatten() for value in both])


def test_killed_again_and_again_it_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    cohort, file, work = tiny_cohort(), tmp_path / "cohort.npz", tmp_path / "work"
    save_cohort(file, cohort)
    reached = [0]
    killed(file, work, lambda: step_of(work) >= 3)
    reached.append(step_of(work))
    for half_written in ("checkpoint.new", "loss.new"):
        killed(file, work, partial(_is_writing, work, half_written, reached[-1] + 5))
        reached.append(step_of(work))
    assert reached == sorted(set(reached))
    assert reached[-1] < RECIPE.steps, "the kills came too late to show anything"

    end = replace(RECIPE, steps=reached[-1] + 3)
    resumed = fit(cohort, end, work, seed=3, device="cpu")
    straight = fit(cohort, end, tmp_path / "straight", seed=3, device="cpu")
    assert torch.equal(weights(resumed), weights(straight))
    with safe_open(work / SMALL, framework="pt") as small:
        facts = small.metadata()
    assert int(facts["step"]) == end.steps
    assert json.loads(facts["people"])[0]["subjects"] == ["p0", "p1", "p2", "p3"]
    steps = [point.step for point in read_curve(work / "loss.csv", end.steps)]
    assert steps == sorted(set(steps))
    assert steps[-1] == end.steps
    with Image.open(work / "loss.png") as picture:
        assert np.asarray(picture).std() > 5
