"""The score against healthy people: which deviations count, how much, and where."""

import numpy as np
import pytest

from anomalyd.pipeline.bundle import Normative, ScoreSettings
from anomalyd.pipeline.stages.normative import COMPONENTS, components, normative_score, statistics
from anomalyd.pipeline.volume import BoolMap, FloatMap

SHAPE = (12, 24, 20)
LESION = (slice(5, 8), slice(10, 14), slice(4, 8))
MIRRORED = (slice(5, 8), slice(10, 14), slice(12, 16))


def brain() -> BoolMap:
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[1:-1, 2:-2, 2:-2] = True
    return mask


def healthy(seed: int) -> FloatMap:
    noise = np.random.default_rng(seed).normal(0.0, 0.05, SHAPE)
    return np.asarray(np.where(brain(), 0.6 + noise, 0.0), dtype=np.float32)


def with_lesion(change: float) -> FloatMap:
    image = healthy(99)
    image[LESION] += np.float32(change)
    return image


@pytest.fixture(scope="module")
def norm() -> Normative:
    scans = [components(healthy(k), healthy(k + 50), brain(), COMPONENTS, 1.0) for k in range(12)]
    return statistics(scans, [brain()] * len(scans))


def scored(image: FloatMap, norm: Normative, settings: ScoreSettings) -> FloatMap:
    found = components(image, healthy(98), brain(), tuple(settings.weights), settings.smooth_voxels)
    return normative_score(found, norm, brain(), settings)


@pytest.mark.parametrize("name", COMPONENTS)
def test_each_component_alone_is_highest_in_the_lesion(name: str, norm: Normative) -> None:
    score = scored(with_lesion(-0.4), norm, ScoreSettings(weights={name: 1.0}))
    assert score[LESION].mean() > 3 * score[brain()].mean()
    assert score.min() >= 0


@pytest.mark.parametrize("name", ["residual", "intensity", "residual_asymmetry", "intensity_asymmetry"])
@pytest.mark.parametrize(("change", "darker", "brighter"), [(-0.4, 0.0, 1.0), (0.4, 1.0, 0.0)])
def test_a_deviation_of_the_sign_that_does_not_count_is_not_scored(
    name: str, change: float, darker: float, brighter: float, norm: Normative
) -> None:
    against = scored(with_lesion(change), norm, ScoreSettings(weights={name: 1.0}, darker=darker, brighter=brighter))
    counted = scored(with_lesion(change), norm, ScoreSettings(weights={name: 1.0}, darker=brighter, brighter=darker))
    assert against[LESION].max() < 0.2 * counted[LESION].max()


def test_asymmetry_of_a_dark_lesion_is_dark_there_and_bright_on_the_other_side(norm: Normative) -> None:
    found = components(with_lesion(-0.4), healthy(98), brain(), ("intensity_asymmetry",), 1.0)["intensity_asymmetry"]
    assert found[LESION].mean() < -0.1
    assert found[MIRRORED].mean() == pytest.approx(-found[LESION].mean(), abs=1e-5)
    del norm


def test_the_same_lesion_on_both_sides_is_no_asymmetry_but_still_an_intensity(norm: Normative) -> None:
    image = with_lesion(-0.4)
    image[MIRRORED] = image[LESION][:, :, ::-1]
    settings = ScoreSettings(weights={"intensity_asymmetry": 1.0})
    assert scored(image, norm, settings)[LESION].mean() < 0.2 * scored(with_lesion(-0.4), norm, settings)[LESION].mean()
    assert scored(image, norm, ScoreSettings(weights={"intensity": 1.0}))[LESION].mean() > 3


def test_blurring_the_sum_keeps_a_lesion_and_lowers_single_voxels(norm: Normative) -> None:
    image = with_lesion(-0.4)
    image[3, 5, 15] -= np.float32(0.6)
    sharp, blurred = (
        scored(image, norm, ScoreSettings(weights={"intensity": 1.0}, smooth_voxels=0.0, blur_voxels=sigma))
        for sigma in (0.0, 1.0)
    )
    assert blurred[3, 5, 15] < 0.4 * sharp[3, 5, 15]
    assert blurred[LESION].mean() > 0.5 * sharp[LESION].mean()
    assert not blurred[~brain()].any()
