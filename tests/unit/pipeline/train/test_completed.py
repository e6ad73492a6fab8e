"""Who trains, who is held out, what counts how much, where a contrast is completed from T1w brains."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomalyd.errors import ConfigError
from anomalyd.pipeline.bundle import MODEL_CARD, SourceFacts
from anomalyd.pipeline.stages.normalise import PERCENTILES
from anomalyd.pipeline.stages.normative import statistics
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.train.batches import batch_maker
from anomalyd.pipeline.train.cohort import Found, Scan, Split
from anomalyd.pipeline.train.cohort_file import Cohort, load_cohort
from anomalyd.pipeline.train.completed import ENOUGH_HELD_OUT, MIN_REAL, complete_cohort, split_like
from anomalyd.pipeline.train.export import export_bundle, scan_weights
from anomalyd.pipeline.train.fit import fit
from anomalyd.pipeline.train.joint import joined
from anomalyd.pipeline.train.prepare import check_split
from anomalyd.pipeline.train.recipe import SCORES
from anomalyd.pipeline.train.train import Order
from tiny_cohort import tiny_cohort, tiny_paper_recipe, tiny_recipe


@pytest.fixture(scope="module")
def t1w() -> Cohort:
    return tiny_cohort(6)


def completed(t1w: Cohort, folder: Path, contrast: Contrast = Contrast.T2W, seed: int = 7) -> Cohort:
    """From nothing but T1w."""
    return complete_cohort(
        t1w, Found(()), contrast, folder / "cohort.npz", seed=seed,
        on_scan=lambda _done, _of, _what: None, on_skip=lambda _what, _why: None,
    )  # fmt: skip


def scans(*subjects: str) -> tuple[Scan, ...]:
    return tuple(Scan(Path(f"{subject}.nii.gz"), subject, "a ward", "none", None) for subject in subjects)


def with_real(cohort: Cohort, train: int, held_out: int) -> Cohort:
    """The cohort with so many real scans of further people, all like its first image."""
    count = train + held_out
    return replace(
        cohort,
        images=np.concatenate([cohort.images, cohort.images[[0] * count]]),
        masks=np.concatenate([cohort.masks, cohort.masks[[0] * count]]),
        scans=(*cohort.scans, *scans(*(f"ward-{k}" for k in range(count)))),
        is_train=np.concatenate([cohort.is_train, np.arange(count) < train]),
    )


def test_people_keep_their_side_and_new_ones_are_held_out_until_they_suffice_to_calibrate_on(t1w: Cohort) -> None:
    split = split_like(t1w, Found(scans("p0", "p3", "p5", "new-1", "new-2")), seed=1)
    assert {scan.subject for scan in split.train} == {"p0", "p3"}
    assert {scan.subject for scan in split.held_out} == {"p5", "new-1", "new-2"}
    crowd = scans("p5", *(f"new-{k:02}" for k in range(30)))
    split = split_like(t1w, Found(crowd), seed=1)
    assert len(split.held_out) == ENOUGH_HELD_OUT
    assert "p5" in {scan.subject for scan in split.held_out}
    assert split == split_like(t1w, Found(crowd), seed=1)


@pytest.mark.parametrize("contrast", [Contrast.T2W, Contrast.FLAIR])
def test_everybody_is_there_in_the_other_contrast_and_says_so(contrast: Contrast, t1w: Cohort, tmp_path: Path) -> None:
    found = completed(t1w, tmp_path, contrast)
    assert found.contrast is contrast
    assert [scan.subject for scan in found.scans] == [scan.subject for scan in t1w.scans]
    assert all(scan.is_synthetic for scan in found.scans)
    assert np.array_equal(found.is_train, t1w.is_train)
    assert found.percentiles == PERCENTILES[:-1]  # what is brighter than most may be a lesion
    assert len(found.standard_knots) == len(found.percentiles)
    assert not found.images[~found.masks].any()
    away = [np.corrcoef(a[m], b[m])[0, 1] for a, b, m in zip(t1w.images, found.images, t1w.masks, strict=True)]
    assert max(away) < 0 if contrast is Contrast.T2W else max(away) < 0.95


def test_the_file_gives_the_same_cohort_and_another_seed_makes_another(t1w: Cohort, tmp_path: Path) -> None:
    first = completed(t1w, tmp_path)
    kept = load_cohort(tmp_path / "cohort.npz")
    assert np.array_equal(first.images, kept.images)
    assert kept.scans == tuple(replace(scan, path=Path(scan.path.name)) for scan in first.scans)
    assert kept.percentiles == first.percentiles
    assert np.array_equal(completed(t1w, tmp_path).images, first.images)
    assert not np.array_equal(completed(t1w, tmp_path, seed=8).images, first.images)


def test_real_scans_weigh_as_much_as_made_ones_and_too_few_of_them_nothing(t1w: Cohort, tmp_path: Path) -> None:
    made = completed(t1w, tmp_path)
    weights = scan_weights(with_real(made, MIN_REAL, 3))
    synthetic, real, held_out = weights[:6], weights[6 : 6 + MIN_REAL], weights[6 + MIN_REAL :]
    assert synthetic.tolist() == [1, 1, 1, 1, 1, 0]
    assert real.sum() == pytest.approx(synthetic.sum())
    assert not held_out.any()
    assert scan_weights(with_real(made, MIN_REAL - 1, 3))[6:].sum() == 0
    assert scan_weights(t1w).tolist() == t1w.is_train.astype(float).tolist()


def test_a_scan_of_weight_two_counts_as_two() -> None:
    rng = np.random.default_rng(0)
    maps = [{"residual": rng.normal(0, 0.3, (6, 8, 8)).astype(np.float32)} for _ in range(5)]
    masks = [np.ones((6, 8, 8), dtype=np.bool_)] * 5
    plain, ones = statistics(maps, masks), statistics(maps, masks, weights=[1.0] * 5)
    assert np.array_equal(plain.mean["residual"], ones.mean["residual"])
    assert np.array_equal(plain.spread["residual"], ones.spread["residual"])
    twice = statistics([*maps, maps[0]], [*masks, masks[0]])
    heavy = statistics(maps, masks, weights=[2.0, 1.0, 1.0, 1.0, 1.0])
    assert heavy.mean["residual"] == pytest.approx(twice.mean["residual"], abs=1e-6)


def test_one_network_sees_all_contrasts_real_scans_more_often(t1w: Cohort, tmp_path: Path) -> None:
    made = with_real(completed(t1w, tmp_path), 2, 1)
    both = joined((t1w, made))
    assert both.share is not None
    assert both.share.tolist() == [2] * 6 + [1] * 6 + [4] * 3
    assert len(both.scans) == len(both.images) == len(both.is_train) == 15
    assert joined((t1w,)) is t1w
    recipe = replace(tiny_recipe(1), variety=None, corrupt_share=0.0, input_noise=0.0, batch=256)
    target = batch_maker(both, recipe, 1)(0).target[:, 0].numpy()
    bright = [float((one > -1).sum()) for one in target]
    assert min(bright) > 0  # nothing but slices with brain


def test_the_bundle_of_a_completed_contrast_tells_what_was_made(t1w: Cohort, tmp_path: Path) -> None:
    cohort = with_real(completed(t1w, tmp_path), 2, 1)
    trainee = fit(joined((t1w, cohort)), tiny_recipe(2), tmp_path / "work", seed=1, device="cpu")
    bundle = export_bundle(
        tmp_path / "t2w", cohort, replace(tiny_recipe(2), score=None), trainee,
        contrast=Contrast.T2W, seed=1, trained_on=(Contrast.T1W, Contrast.T2W),
    )  # fmt: skip
    assert bundle.description.training.held_out_subjects == ("p5", "ward-2")
    assert SourceFacts(source="a ward", licence="none", subjects=("ward-0", "ward-1")) in (
        bundle.description.training.sources
    )
    assert bundle.description.score == SCORES[Contrast.T2W]
    assert bundle.description.histogram.percentiles == PERCENTILES[:-1]
    card = (bundle.path / MODEL_CARD).read_text(encoding="utf-8")
    assert "5 were made from T1w scans" in card
    assert "2 people have a real T2w scan in training, 1 one that is held out" in card
    assert "One network was trained on T1w, T2w together" in card


def test_too_few_people_of_a_contrast_are_told_how_to_be_completed() -> None:
    with pytest.raises(ConfigError, match="with --contrast T1w beside T2w they are completed"):
        check_split(Split(scans("a", "b"), ()), Contrast.T2W)


def test_bundles_of_several_contrasts_lie_side_by_side_and_one_alone_where_it_was_asked_for() -> None:
    several = Order(Path("data"), Path("out"), contrasts=(Contrast.FLAIR, Contrast.T1W))
    assert several.all_contrasts == (Contrast.T1W, Contrast.FLAIR)
    assert several.bundle_of(Contrast.FLAIR) == Path("out/flair-compact")
    assert several.cache_of(Contrast.FLAIR) == Path("out.work/cohort-flair.npz")
    assert Order(Path("data"), Path("out")).bundle_of(Contrast.T1W) == Path("out")
    with pytest.raises(ConfigError, match="preset paper trains one contrast"):
        _ = replace(several, preset="paper").all_contrasts
    assert tiny_paper_recipe(1).score_of(Contrast.FLAIR).mode == "paper"
