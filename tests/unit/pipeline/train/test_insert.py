"""Made-up lesions: where they are, how they look, what they leave alone."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from anomalyd.pipeline.stages.orient import axis_grid, resample
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.train.insert import STRENGTHS, Inserted, Look, insert_lesion, tissue_levels
from anomalyd.pipeline.train.lesion_shapes import (
    MIN_INSIDE,
    VOLUME_RANGE_ML,
    Place,
    Shape,
    draw_volumes,
    find_place,
    lesion_weight,
    mni_to_scan,
)
from anomalyd.pipeline.volume import FloatMap, Grid, Volume
from tiny_bundle import made_up_brain

HEAD = made_up_brain(noise=12.0)
BRAIN = HEAD.voxels > 0
CENTRE_LPS_MM = np.array([31.0, 22.0, 10.0])


def bean(volume_ml: float = 20.0) -> Shape:
    """An asymmetrical mask of left-sided voxels of 2 mm, somewhere in MNI space."""
    grid = axis_grid((24, 24, 24), 2.0, np.array([10.0, -20.0, 0.0]))
    z, y, x = np.indices(grid.shape)
    mask = ((z - 12) / 7) ** 2 + ((y - 12) / 9) ** 2 + ((x - 12) / 5) ** 2 < 1
    mask &= ~((x > 14) & (y > 14))
    points = grid.to_lps(np.argwhere(mask))
    made = Shape("bean", Volume(mask.astype(np.float32), grid), points.mean(axis=0), mask.sum() * 0.008)
    return replace(made, volume_ml=made.volume_ml * 20.0 / volume_ml)


def placed(volume_ml: float = 12.0, centre: NDArray[np.float64] = CENTRE_LPS_MM) -> Place:
    shape = bean()
    return Place(shape, centre, (volume_ml / shape.volume_ml) ** (1 / 3), is_mirrored=False)


def inserted(
    strength: str = "medium", contrast: Contrast = Contrast.T1W, sign: int = -1, push: float = 0.0
) -> Inserted:
    levels = tissue_levels(HEAD, BRAIN, contrast)
    weight = lesion_weight(placed(), HEAD.grid)
    look = Look(sign, strength, push)
    return insert_lesion(HEAD, BRAIN, weight, look, levels=levels, rng=np.random.default_rng(5))


def change(made: Inserted) -> FloatMap:
    return made.volume.voxels - HEAD.voxels


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = inserted(), inserted()
    assert first.volume.voxels.tobytes() == second.volume.voxels.tobytes()
    assert np.array_equal(first.mask, second.mask)


def test_strength_is_a_share_of_the_span_from_white_to_fluid() -> None:
    span = tissue_levels(HEAD, BRAIN, Contrast.T1W).span
    changes = []
    for strength, share in STRENGTHS.items():
        made = inserted(strength)
        changes.append(-float(np.median(change(made)[made.mask])) / span)
        assert changes[-1] == pytest.approx(share, abs=0.08), strength
    assert changes == sorted(changes)


@pytest.mark.parametrize(("contrast", "sign"), [(Contrast.T1W, -1), (Contrast.T2W, 1), (Contrast.FLAIR, 1)])
def test_the_sign_is_that_of_the_contrast(contrast: Contrast, sign: int) -> None:
    # A T1w brain upside down has the levels of a T2w one: fluid is the brightest.
    made = inserted("medium", contrast, sign) if contrast is not Contrast.T2W else _in_t2w()
    before = HEAD.voxels if contrast is not Contrast.T2W else _t2w().voxels
    assert np.sign(float(np.median((made.volume.voxels - before)[made.mask]))) == sign


def _t2w() -> Volume:
    return Volume(np.where(BRAIN, 1100.0 - HEAD.voxels, 0.0).astype(np.float32), HEAD.grid)


def _in_t2w() -> Inserted:
    volume = _t2w()
    levels = tissue_levels(volume, BRAIN, Contrast.T2W)
    weight = lesion_weight(placed(), HEAD.grid)
    return insert_lesion(volume, BRAIN, weight, Look(1, "medium"), levels=levels, rng=np.random.default_rng(5))


def test_nothing_outside_the_brain_changes_and_the_brain_stays_a_stripped_one() -> None:
    made = inserted("obvious", push=3.0)
    assert np.array_equal(made.volume.voxels[~BRAIN], HEAD.voxels[~BRAIN])
    assert float(made.volume.voxels[BRAIN].min()) > 0.0


def test_without_mass_effect_only_the_lesion_changes() -> None:
    made = inserted("obvious")
    assert not change(made)[lesion_weight(placed(), HEAD.grid) == 0].any()


def test_mass_effect_moves_the_surroundings_away() -> None:
    plain, pushed = inserted("subtle"), inserted("subtle", push=3.0)
    around = (lesion_weight(placed(), HEAD.grid) == 0) & BRAIN
    moved = np.abs(pushed.volume.voxels - plain.volume.voxels)
    assert float(moved[around].max()) > 60.0  # the wall of the ventricle, at least
    far = np.linalg.norm(HEAD.grid.to_lps(np.argwhere(BRAIN)) - CENTRE_LPS_MM, axis=1) > 70.0
    assert float(moved[BRAIN][far].max()) == 0.0


def test_a_ventricle_stays_and_is_no_lesion() -> None:
    levels = tissue_levels(HEAD, BRAIN, Contrast.T1W)
    weight = lesion_weight(placed(centre=np.array([13.0, -5.0, 0.0])), HEAD.grid)
    made = insert_lesion(HEAD, BRAIN, weight, Look(-1, "obvious"), levels=levels, rng=np.random.default_rng(5))
    x, y, z = (HEAD.grid.to_lps(np.argwhere(BRAIN))).T
    core = (np.abs(x - 9) < 3) & (np.abs(y + 5) < 20) & (np.abs(z) < 8)
    assert made.mask.any()
    assert not made.mask[BRAIN][core].any()
    assert not change(made)[BRAIN][core].any()


def test_borders_are_soft() -> None:
    weight = lesion_weight(placed(), HEAD.grid)
    assert float(weight.max()) > 0.95
    partial = ((weight > 0.1) & (weight < 0.9)).sum()
    assert partial > 0.3 * (weight >= 0.9).sum()


@pytest.mark.parametrize("volume_ml", VOLUME_RANGE_ML)
@pytest.mark.parametrize("steps_mm", [(2.0, 2.0, 2.0), (1.0, 1.0, 1.0), (5.0, 0.9, 0.9)])
def test_a_lesion_has_the_volume_that_was_asked_for_on_any_grid(
    volume_ml: float, steps_mm: tuple[float, float, float]
) -> None:
    shape = tuple(int(90 / mm) for mm in steps_mm)
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[::-1] * steps_mm
    matrix[:3, 3] = CENTRE_LPS_MM - 45.0
    grid = Grid((shape[0], shape[1], shape[2]), matrix)
    weight = lesion_weight(placed(volume_ml), grid)
    assert float(weight.sum()) * grid.voxel_volume_mm3 / 1000.0 == pytest.approx(volume_ml, rel=0.12)


def test_left_and_right_are_swapped_about_the_lesions_own_middle() -> None:
    plain = placed()
    weight, mirrored = (lesion_weight(one, HEAD.grid) for one in (plain, replace(plain, is_mirrored=True)))
    points = HEAD.grid.to_lps(np.argwhere(np.ones(HEAD.grid.shape, dtype=np.bool_)))
    for one in (weight, mirrored):
        assert np.allclose((points * one.reshape(-1, 1)).sum(axis=0) / one.sum(), CENTRE_LPS_MM, atol=0.3)
    turned = points * [-1.0, 1.0, 1.0] + [2 * CENTRE_LPS_MM[0], 0.0, 0.0]
    nearest = np.rint(HEAD.grid.to_index(turned)).astype(int)
    inside = ((nearest >= 0) & (nearest < HEAD.grid.shape)).all(axis=1)
    assert np.corrcoef(mirrored.ravel()[inside], weight[tuple(nearest[inside].T)])[0, 1] > 0.97


def test_volumes_cover_the_range_evenly_on_a_logarithmic_scale() -> None:
    volumes = np.array(draw_volumes(2000, np.random.default_rng(1)))
    low, high = VOLUME_RANGE_ML
    assert low <= volumes.min() < 1.05 * low
    assert 0.95 * high < volumes.max() <= high
    assert float(np.median(volumes)) == pytest.approx(np.sqrt(low * high), rel=0.15)


def test_places_lie_in_the_brain_and_apart() -> None:
    rng, taken = np.random.default_rng(3), np.zeros_like(BRAIN)
    for volume_ml in (30.0, 8.0, 0.6):
        _, weight = find_place((bean(),), volume_ml, BRAIN, taken, HEAD.grid, rng=rng)
        assert float(weight[BRAIN].sum()) >= MIN_INSIDE * float(weight.sum())
        assert not (weight[taken] > 0).any()
        taken |= weight > 0


def test_the_mni_brain_is_laid_on_the_scans_from_its_vertex_down() -> None:
    low_cut = BRAIN.copy()
    low_cut[: BRAIN.shape[0] // 3] = False  # a shorter field of view moves nothing
    assert np.allclose(mni_to_scan(low_cut, HEAD.grid), mni_to_scan(BRAIN, HEAD.grid), atol=2.1)
    matrix = mni_to_scan(BRAIN, HEAD.grid)
    vertex = matrix[:3, :3] @ np.array([0.0, 17.0, 78.0]) + matrix[:3, 3]
    top = HEAD.grid.to_lps(np.argwhere(BRAIN))[:, 2].max()
    assert abs(float(vertex[2]) - top) < 3.0
    assert abs(float(vertex[0])) < 1.5


def test_a_stored_slice_is_what_the_grid_says() -> None:
    flipped = HEAD.grid.index_to_lps @ np.diag([1.0, -1.0, 1.0, 1.0])
    flipped[:3, 3] += HEAD.grid.index_to_lps[:3, 1] * (HEAD.grid.shape[1] - 1)
    grid = Grid(HEAD.grid.shape, flipped)
    weight = lesion_weight(placed(), grid)
    assert np.allclose(resample(Volume(weight, grid), HEAD.grid), lesion_weight(placed(), HEAD.grid), atol=1e-3)
