"""From a folder of DICOM series, or from the prepared file alone, to a bundle: by the command that users type."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from anomalyd.daemon import cli
from anomalyd.errors import ConfigError
from anomalyd.pipeline.bundle import Bundle, load_bundle
from anomalyd.pipeline.train import prepare, recipe
from anomalyd.pipeline.train.cohort_file import load_cohort, save_cohort
from anomalyd.pipeline.train.dicom_scans import subject_of
from anomalyd.pipeline.volume import Grid, Volume
from phantoms import PhantomWriter, Plane
from tiny_bundle import made_up_brain
from tiny_cohort import TINY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PEOPLE = 5
STEPS = 4


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """A network of milliseconds, and a template of few people."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "MIN_TEMPLATE_PEOPLE", PEOPLE - 1)
        compact = replace(recipe.RECIPES["compact"], network=TINY, steps=STEPS, save_every=2, noise_tiles=1)
        patch.setitem(recipe.RECIPES, "compact", compact)
        yield


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripped brains of several sizes, as a scanner sends them; one of an image that shows no brain."""
    folder = tmp_path_factory.mktemp("hospital")
    brain = made_up_brain(20.0)
    planes: tuple[Plane, ...] = ("axial", "sagittal", "coronal")
    for k in range(PEOPLE + 1):
        affine = brain.grid.index_to_lps.copy()
        affine[:3] *= 0.97 + 0.01 * k
        voxels = brain.voxels if k < PEOPLE else np.where(np.indices(brain.grid.shape)[0] < 40, 0, brain.voxels)
        scan = Volume(voxels.astype(np.float32), Grid(brain.grid.shape, affine))
        attributes = {"PatientID": f"MRN-{k}", "PatientName": f"Zzname^{k}", "PatientAge": f"0{30 + k}Y"}
        writer = PhantomWriter(
            plane=planes[k % 3], spacing_mm=(3.0, 2.5, 2.5), enhanced=k == 1, seed=f"{k}", attributes=attributes
        )
        writer.write_volume(scan, folder / f"MRN-{k}")
    return folder


@pytest.fixture(scope="module")
def made(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Bundle]:
    out = tmp_path_factory.mktemp("out") / "ward"
    result = run("train", hospital, "--out", out)
    assert result.exit_code == 0, result.output
    return result, load_bundle(out)


def test_a_bundle_is_made_of_dicom_series_and_says_what_was_left_out(made: tuple[Result, Bundle]) -> None:
    result, bundle = made
    training = bundle.description.training
    people = {name for source in training.sources for name in source.subjects} | set(training.held_out_subjects)
    assert people == {subject_of(f"MRN-{k}") for k in range(PEOPLE)}
    assert training.steps == STEPS
    assert training.recipe["split_seed"] == training.seed == 20240
    assert "left out:" in result.output
    assert f"MRN-{PEOPLE}: brain mask of" in result.output
    assert "not calibrated: 1 people are held out, 5 are needed" in result.output
    work = bundle.path.with_name(bundle.path.name + ".work")
    assert {
        "cohort.npz",
        "checkpoint.safetensors",
        "weights-ema.safetensors",
        "loss.csv",
        "loss.png",
        "samples.png",
    } <= {path.name for path in work.iterdir()}


def test_nothing_of_the_patients_is_in_the_bundle(made: tuple[Result, Bundle]) -> None:
    bundle = made[1]
    texts = [bundle.path / "bundle.yaml", bundle.path / "MODEL_CARD.md", bundle.path / "model.safetensors"]
    cohort = load_cohort(bundle.path.with_name(bundle.path.name + ".work") / "cohort.npz")
    everything = (
        "".join(path.read_bytes().decode("latin-1") for path in texts) + str(cohort.scans) + str(cohort.skipped)
    )
    assert "MRN" not in everything
    assert "Zzname" not in everything
    assert "brain mask of" in everything


def test_the_prepared_file_alone_trains_the_same_bundle_elsewhere(made: tuple[Result, Bundle], tmp_path: Path) -> None:
    bundle = made[1]
    taken = tmp_path / "taken-along.npz"
    taken.write_bytes((bundle.path.with_name(bundle.path.name + ".work") / "cohort.npz").read_bytes())
    result = run("train", taken, "--out", tmp_path / "ward")
    assert result.exit_code == 0, result.output
    assert "not calibrated, there are no scans here" in result.output
    again = load_bundle(tmp_path / "ward")
    assert again.weights.read_bytes() == bundle.weights.read_bytes()
    assert again.model.digest == bundle.model.digest

    onward = run("train", taken, "--out", tmp_path / "next", "--resume-from", bundle.path, "--steps", STEPS + 2)
    assert onward.exit_code == 0, onward.output
    assert load_bundle(tmp_path / "next").description.training.steps == STEPS + 2


def test_the_same_command_prepares_nothing_twice_and_goes_on_with_more_steps(
    made: tuple[Result, Bundle], hospital: Path, tmp_path: Path
) -> None:
    before = made[1].path
    work = tmp_path / "ward.work"
    work.mkdir()
    for name in ("cohort.npz", "checkpoint.safetensors", "loss.csv"):
        (work / name).write_bytes((before.with_name(before.name + ".work") / name).read_bytes())
    prepared = (work / "cohort.npz").stat().st_mtime_ns
    weights = before / "model.safetensors"
    result = run("train", hospital, "--out", tmp_path / "ward", "--steps", STEPS + 2, "--resume-from", weights)
    assert result.exit_code == 0, result.output
    assert f"{STEPS + 2} steps" in result.output
    told = " ".join(result.output.split())
    assert (
        f"goes on from {work / 'checkpoint.safetensors'} at step {STEPS} of {STEPS + 2}; it has gone on since" in told
    )
    assert "model.safetensors, which is not read again" in told
    assert (work / "cohort.npz").stat().st_mtime_ns == prepared
    only = run("train", hospital, "--out", tmp_path / "ward", "--prepare-only")
    assert only.exit_code == 0, only.output
    assert "4 people to train on, 1 held out" in only.output


def test_a_prepared_file_that_does_not_fit_the_order_is_refused(made: tuple[Result, Bundle], tmp_path: Path) -> None:
    file = made[1].path.with_name(made[1].path.name + ".work") / "cohort.npz"
    for words, told in (
        (("--contrast", "FLAIR"), "holds T1w scans"),
        (("--preset", "paper"), "prepare the scans again with --preset paper"),
        (("--exclude-subjects", "dicom-"), "people that are to be left out"),
        (("--width", "64"), "of preset paper alone"),
    ):
        result = run("train", file, "--out", tmp_path / "x", *words)
        assert isinstance(result.exception, ConfigError)
        assert told in str(result.exception)
    assert not (tmp_path / "x").exists()


def test_the_paper_preset_gives_a_bundle_of_the_published_network(made: tuple[Result, Bundle], tmp_path: Path) -> None:
    """Scans prepared as published are made up here from those prepared otherwise: what they show does not matter."""
    cohort = load_cohort(made[1].path.with_name(made[1].path.name + ".work") / "cohort.npz")
    paper = recipe.RECIPES["paper"]
    part = (slice(None), slice(7, 57), slice(None), slice(4, 76))
    box = Grid((50, 96, 72), cohort.box.index_to_lps)
    cut = replace(cohort, images=cohort.images[part], masks=cohort.masks[part], box=box, preparation="published")
    save_cohort(tmp_path / "paper.npz", cut)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipe.RECIPES, "paper", replace(paper, box_shape=box.shape, batch=2, steps=1))
        words = ("--preset", "paper", "--width", "32", "--steps", "1")
        result = run("train", tmp_path / "paper.npz", "--out", tmp_path / "published", *words)
    assert result.exit_code == 0, result.output
    description = load_bundle(tmp_path / "published").description
    assert (description.network.architecture, description.network.model_channels) == ("published", 32)
    assert (description.score.mode, description.reconstruction.timesteps) == ("paper", (499,))
    assert description.reconstruction.fields_per_timestep == 1
    assert description.histogram.standard is None


def test_too_few_people_are_refused_with_their_number_and_what_was_wrong(hospital: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "MIN_TEMPLATE_PEOPLE", 20)
        result = run("train", hospital, "--out", tmp_path / "x")
    assert isinstance(result.exception, ConfigError)
    told = "6 people, of whom 1 are held out: 5 to train on, at least 20 are needed"
    assert told in str(result.exception)
    assert not (tmp_path / "x").exists()
    assert isinstance(run("train", tmp_path, "--out", tmp_path / "x").exception, ConfigError)


def test_a_prefix_that_leaves_out_nobody_is_refused_before_anything_is_made(hospital: Path, tmp_path: Path) -> None:
    result = run("train", hospital, "--out", tmp_path / "x", "--exclude-subjects", "oasis-")
    assert isinstance(result.exception, ConfigError)
    assert "begins with 'oasis-', which is to be left out" in str(result.exception)
    assert not (tmp_path / "x.work" / "cohort.npz").exists()
