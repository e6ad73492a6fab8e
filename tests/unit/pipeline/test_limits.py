"""A bundle knows what it was calibrated on: other scans are warned about or withheld, large lesions are not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from anomalyd.errors import Withheld
from anomalyd.pipeline.analyse import Runtime, analyse, judge, place
from anomalyd.pipeline.bundle import CALIBRATION, Bundle, Limit, load_bundle, seal
from anomalyd.pipeline.settings import AnalysisSettings
from anomalyd.pipeline.stages.limits import CRITERIA, check_limits, limits_of, marked_share, measure_scan
from anomalyd.pipeline.train.insert import insert_ellipsoid
from anomalyd.pipeline.volume import Volume
from intensity_bundle import intensity_bundle
from tiny_bundle import made_up_brain

RUNTIME = Runtime("cpu", 1)
NOISE = 25.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With the limits that made-up brains of some noise set."""
    path = tmp_path_factory.mktemp("bundles") / "limited"
    open_bundle = intensity_bundle(path)
    scans = [made_up_brain(noise=NOISE * k) for k in (0.8, 0.9, 1.0, 1.1, 1.2)]
    facts = [judge(place(s, open_bundle), open_bundle, runtime=RUNTIME, seed_text="1").facts for s in scans]
    calibration = open_bundle.calibration.model_copy(update={"limits": limits_of(facts)})
    (path / CALIBRATION).write_text(calibration.model_dump_json(), encoding="utf-8")
    seal(path)
    return load_bundle(path)


def in_brain(change: Callable[[Volume], np.ndarray[tuple[int, ...], np.dtype[np.floating]]]) -> Volume:
    """The usual brain, changed; air stays 0."""
    brain = made_up_brain(noise=NOISE)
    inside = brain.voxels > 0
    return Volume(np.where(inside, np.maximum(change(brain), 1.0), 0.0).astype(np.float32), brain.grid)


def told(volume: Volume, bundle: Bundle) -> tuple[str, ...]:
    return analyse(volume, bundle, AnalysisSettings(), runtime=RUNTIME, seed_text="1.2.3").warnings


def test_a_usual_scan_is_silent(bundle: Bundle) -> None:
    assert told(made_up_brain(noise=NOISE * 1.05), bundle) == ()


def test_another_contrast_is_withheld(bundle: Bundle) -> None:
    """Grey brighter than white: registration does not mind, the structure does."""
    grey_first = in_brain(lambda brain: np.where(brain.voxels > 500, 1300 - brain.voxels, brain.voxels))
    with pytest.raises(Withheld) as withheld:
        told(grey_first, bundle)
    assert withheld.value.criterion in {"structure_agreement", "reconstruction_error"}
    assert f"{withheld.value.limit:.3f}" in withheld.value.text


def test_a_smooth_scan_is_warned_about(bundle: Bundle) -> None:
    smooth = in_brain(lambda brain: ndimage.gaussian_filter(brain.voxels, 1.2))
    assert any("smoother" in text for text in told(smooth, bundle))


def test_noise_is_measured_where_the_template_is_flat(bundle: Bundle) -> None:
    """The made-up brain has no tissue between its levels, which a standard histogram tears apart: so added after it."""
    placed = place(in_brain(lambda brain: ndimage.gaussian_filter(brain.voxels, 1.2)), bundle)
    added = np.random.default_rng(3).normal(0.0, 1.0, placed.normalised.image.shape).astype(np.float32)
    noise = [
        measure_scan(
            replace(placed.normalised, image=placed.normalised.image + np.float32(level) * added),
            placed.box,
            placed.normalised.image,
            bundle,
        )["noise"]
        for level in (0.0, 0.05, 0.1)
    ]
    laplacian = np.sqrt(6**2 + 6)  # of white noise of strength 1: six neighbours and six times the middle
    assert noise[1] == pytest.approx(np.hypot(noise[0], 0.05 * laplacian), rel=0.1)
    assert noise[2] == pytest.approx(np.hypot(noise[0], 0.1 * laplacian), rel=0.1)


@pytest.mark.parametrize("value", [60.0, 1200.0])
def test_a_large_lesion_is_not_withheld(value: float, bundle: Bundle) -> None:
    """150 ml, dark or bright, of a brain of 1200 ml."""
    lesion = insert_ellipsoid(made_up_brain(noise=NOISE), (28.0, 10.0, 10.0), (25.0, 40.0, 36.0), value)
    assert lesion.mask.sum() * 0.008 > 140
    finding = analyse(lesion.volume, bundle, AnalysisSettings(), runtime=RUNTIME, seed_text="1.2.3")
    assert finding.lesions


def test_what_the_limits_judge_stands_in_the_facts(bundle: Bundle) -> None:
    finding = analyse(made_up_brain(noise=NOISE), bundle, AnalysisSettings(), runtime=RUNTIME, seed_text="1.2.3")
    assert {criterion.name for criterion in CRITERIA} - {"marked_share"} <= set(finding.facts)
    assert set(bundle.calibration.limits) == {criterion.name for criterion in CRITERIA}


LIMITS = {"noise": Limit(median=1.0, spread=0.1, warn=(0.7, 1.4), withhold=(None, 2.0))}


@pytest.mark.parametrize(
    ("value", "word"), [(0.69, "smoother"), (0.7, ""), (1.0, ""), (1.4, ""), (1.41, "noisier"), (2.0, "noisier")]
)
def test_beyond_the_first_limit_it_is_warned(value: float, word: str) -> None:
    warnings = check_limits({"noise": value, "unknown": 9.0}, LIMITS)
    assert len(warnings) == bool(word)
    assert all(word in text and f"{value:.3f}" in text for text in warnings)


def test_beyond_the_second_it_is_withheld_with_value_and_limit() -> None:
    with pytest.raises(Withheld, match=r"noise 2\.010, at most 2\.000") as withheld:
        check_limits({"noise": 2.01}, LIMITS)
    assert (withheld.value.criterion, withheld.value.value, withheld.value.limit) == ("noise", 2.01, 2.0)


def test_scans_of_one_scanner_do_not_narrow_the_limits_to_themselves() -> None:
    alike = limits_of([{"structure_agreement": 0.8, "noise": 0.2}] * 5)
    assert alike["structure_agreement"].warn[0] == pytest.approx(0.68)
    assert alike["noise"].warn == pytest.approx((0.2 - 3.3 * 0.033, 0.2 + 4 * 0.033))
    assert set(alike) == {"structure_agreement", "noise", "marked_share"}
    assert limits_of([]) == {}


def test_scans_that_differ_much_do_not_open_the_limits_for_another_contrast() -> None:
    apart = limits_of([{"structure_agreement": value} for value in (0.5, 0.6, 0.7, 0.8, 0.9)])
    assert apart["structure_agreement"].withhold[0] == pytest.approx(0.7 - 12 * 0.04)


def test_a_flooded_map_is_warned_about_and_never_withheld() -> None:
    """A lesion of a quarter of the brain marks as much as another contrast does."""
    limits = limits_of([{"noise": 0.2}])
    scores = np.linspace(0.0, 1.0, 1001, dtype=np.float32)
    assert check_limits(marked_share(scores, 0.9), limits) == ()
    assert "flooded (marked share 0.700" in check_limits(marked_share(scores, 0.3), limits)[0][:400]
    assert marked_share(scores, None) == {}


def test_a_bundle_without_limits_still_judges(tmp_path: Path) -> None:
    plain = intensity_bundle(tmp_path / "plain")
    assert plain.calibration.limits == {}
    assert told(made_up_brain(noise=4.0), plain) == ()
