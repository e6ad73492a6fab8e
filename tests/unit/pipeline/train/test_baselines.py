"""The maps that stand beside a bundle's score."""

from pathlib import Path

import numpy as np
import pytest

from anomalyd.pipeline.bundle import Bundle
from anomalyd.pipeline.stages.orient import area_average, resample
from anomalyd.pipeline.stages.prepare import Boxed, standardise
from anomalyd.pipeline.stages.score import SIGMAS, paper_score
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.train.baselines import (
    ASYMMETRY,
    INTENSITY,
    OTHER_MODE,
    RESIDUAL,
    SSIM_ENS,
    TEMPLATE_Z,
    TEMPLATE_Z_SIGNED,
    MapName,
    Scene,
    baseline_maps,
    lesion_sign,
    ssim_name,
)
from anomalyd.pipeline.train.evaluate import at_points
from anomalyd.pipeline.train.insert import insert_ellipsoid
from anomalyd.pipeline.volume import BoolMap, FloatMap, Volume
from intensity_bundle import intensity_bundle
from tiny_bundle import made_up_brain, tiny_bundle

LESION_LPS_MM = (30.0, 18.0, 14.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return intensity_bundle(tmp_path_factory.mktemp("bundles") / "intensity")


def in_box(volume: Volume, bundle: Bundle) -> tuple[FloatMap, BoolMap]:
    """Standard intensities and brain of a volume that lies in the template's frame already."""
    brain = Volume((volume.voxels > 0).astype(np.float32), volume.grid)
    mask = resample(brain, bundle.box) >= 0.5
    return standardise(Boxed(area_average(volume, bundle.box), mask, 0.0), bundle.standard_knots).image, mask


def scene_with(value: float, bundle: Bundle) -> tuple[Scene, BoolMap]:
    """A ball of one intensity in the made-up brain, whose reconstruction is the brain without it; and the ball."""
    inserted = insert_ellipsoid(made_up_brain(), LESION_LPS_MM, (11.0, 11.0, 11.0), value)
    image, mask = in_box(inserted.volume, bundle)
    ball = Volume(inserted.mask.astype(np.float32), inserted.volume.grid)
    return Scene(image, in_box(made_up_brain(), bundle)[0], mask), resample(ball, bundle.box) > 0.9


@pytest.fixture(scope="module")
def dark(bundle: Bundle) -> tuple[Scene, BoolMap]:
    return scene_with(60.0, bundle)


@pytest.fixture(scope="module")
def maps(dark: tuple[Scene, BoolMap], bundle: Bundle) -> dict[MapName, FloatMap]:
    return baseline_maps(dark[0], bundle)


def test_every_rival_is_there(maps: dict[MapName, FloatMap]) -> None:
    processings = {(name.map, name.processing) for name in maps}
    for name in (SSIM_ENS, RESIDUAL, INTENSITY, ASYMMETRY, TEMPLATE_Z_SIGNED):
        assert {(name, "published"), (name, "smoothed")} <= processings
    assert {(ssim_name(sigma), "published") for sigma in SIGMAS} <= processings
    assert (TEMPLATE_Z, "smoothed") in processings


def test_maps_say_how_abnormal_a_voxel_is_and_nothing_outside_the_brain(
    maps: dict[MapName, FloatMap], dark: tuple[Scene, BoolMap]
) -> None:
    for name, values in maps.items():
        assert values.dtype == np.float32, name
        assert float(values.min()) >= 0.0, name
        if name.processing == "smoothed":
            assert not values[~dark[0].mask].any(), name


@pytest.mark.parametrize("name", [RESIDUAL, ASYMMETRY, TEMPLATE_Z, TEMPLATE_Z_SIGNED])
def test_a_dark_ball_stands_out_on_t1w(name: str, maps: dict[MapName, FloatMap], dark: tuple[Scene, BoolMap]) -> None:
    values, (scene, ball) = maps[MapName(name, "smoothed")], dark
    assert float(np.median(values[ball])) > float(np.percentile(values[scene.mask & ~ball], 99))


def test_a_bright_ball_is_no_finding_of_a_signed_map_on_t1w(bundle: Bundle) -> None:
    scene, ball = scene_with(1000.0, bundle)
    maps = baseline_maps(scene, bundle)
    assert float(maps[MapName(TEMPLATE_Z_SIGNED, "smoothed")][ball].max()) == 0.0
    assert float(np.median(maps[MapName(TEMPLATE_Z, "smoothed")][ball])) > 2.0


def test_the_published_score_is_the_one_that_the_paper_mode_cuts(
    maps: dict[MapName, FloatMap], dark: tuple[Scene, BoolMap]
) -> None:
    scene = dark[0]
    assert np.array_equal(maps[MapName(SSIM_ENS, "published")], paper_score(scene.image, scene.healthy, scene.mask))


def test_a_bundle_without_healthy_statistics_has_no_template_z_score(
    dark: tuple[Scene, BoolMap], tmp_path: Path
) -> None:
    names = {name.map for name in baseline_maps(dark[0], tiny_bundle(tmp_path / "tiny"))}
    assert not names & {TEMPLATE_Z, TEMPLATE_Z_SIGNED, OTHER_MODE}


def test_lesions_are_dark_on_t1w_and_bright_elsewhere() -> None:
    assert [lesion_sign(contrast) for contrast in Contrast] == [-1, 1, 1]


def test_many_maps_are_sampled_at_once_as_each_alone(maps: dict[MapName, FloatMap], bundle: Bundle) -> None:
    grid = made_up_brain().grid  # reaches beyond the box
    points = grid.to_lps(np.argwhere(np.ones(grid.shape, dtype=np.bool_)))
    some = list(maps.values())[:3]
    for values, alone in zip(at_points(some, bundle.box, points), some, strict=True):
        expected = resample(Volume(alone, bundle.box), grid).ravel()
        assert np.allclose(values, expected, atol=1e-4 * float(expected.max()))
