"""What slices go through before the network sees them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anomalyd.pipeline.train.augment import Variety, corrupt, ghost_factors, noise_tiles, vary
from anomalyd.pipeline.train.augment_volume import augment_volume, with_ghosts

STILL = Variety(
    mirror_share=0.0, most_shift=0.0, most_turn=0.0, most_growth=0.0, elastic_pixels=0.0, contrast=0.0, gamma=0.0,
    bias=0.0, blur_share=0.0, ghost_share=0.0,
)  # fmt: skip


@pytest.fixture
def slices() -> tuple[torch.Tensor, torch.Tensor]:
    """A bright block on a darker one; brain without the outermost pixels."""
    image = torch.full((6, 1, 40, 32), 0.4)
    image[:, :, 10:20, 8:20] = 0.9
    mask = torch.zeros_like(image)
    mask[:, :, 4:36, 4:28] = 1.0
    return image * mask, mask


def varied(slices: tuple[torch.Tensor, torch.Tensor], variety: Variety) -> torch.Tensor:
    return vary(*slices, np.random.default_rng(1), variety)[0]


def test_variety_keeps_shape_and_range_and_its_seed_decides(slices: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, mask = vary(*slices, np.random.default_rng(2), Variety())
    assert first.shape == mask.shape == slices[0].shape
    assert 0.0 <= float(first.min()) <= float(first.max()) <= 1.25
    assert not first[mask == 0].any()
    assert torch.equal(first, vary(*slices, np.random.default_rng(2), Variety())[0])
    assert not torch.equal(first, vary(*slices, np.random.default_rng(3), Variety())[0])


def test_without_any_variety_slices_stay_as_they_are(slices: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert torch.allclose(varied(slices, STILL), slices[0], atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"mirror_share": 1.0}, {"most_turn": 0.1}, {"elastic_pixels": 2.0}, {"contrast": 0.1}, {"gamma": 0.1},
     {"bias": 0.1}, {"blur_share": 1.0}, {"ghost_share": 1.0}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_each_kind_of_variety_changes_something(
    change: dict[str, float], slices: tuple[torch.Tensor, torch.Tensor]
) -> None:
    assert float((varied(slices, replace(STILL, **change)) - slices[0]).abs().max()) > 0.01  # type: ignore[arg-type]  # shares are floats


def test_contrast_spreads_intensities_about_the_mean_of_the_brain(slices: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, mask = slices
    seen = varied(slices, replace(STILL, contrast=0.2))
    for k in range(len(image)):
        inside = mask[k] > 0
        assert float(seen[k][inside].mean()) == pytest.approx(float(image[k][inside].mean()), abs=1e-4)
    assert len({round(float(one.max() - one[one > 0].min()), 4) for one in seen}) > 1


def test_ghosts_are_faint_copies_at_a_fraction_of_the_image_and_leave_the_mean(
    slices: tuple[torch.Tensor, torch.Tensor],
) -> None:
    line = np.zeros(48)
    line[10] = 1.0
    seen = np.fft.ifft(np.fft.fft(line) * ghost_factors(48, 3, 0.3)).real
    assert np.argsort(seen)[-3:].tolist() != [10, 10, 10]
    assert seen.sum() == pytest.approx(1.0)
    assert {int(k) for k in np.flatnonzero(np.abs(seen) > 0.05)} == {10, 26, 42}
    everywhere = varied(slices, replace(STILL, ghost_share=1.0))
    assert float((everywhere - slices[0]).abs().mean()) < 0.05


def test_made_up_lesions_stay_in_the_brain_and_the_target_does_not_have_them() -> None:
    slices = np.full((8, 32, 32), 0.5, dtype=np.float32)
    masks = np.zeros_like(slices)
    masks[:, 6:26, 6:26] = 1.0
    tiles = noise_tiles(1, 1)
    seen = corrupt(slices * masks, masks, tiles, np.random.default_rng(5), share=0.5, most_noise=0.025)
    assert not seen[masks == 0].any()
    assert np.abs(seen - slices * masks).max() > 0.1
    assert (slices == 0.5).all()
    untouched = corrupt(slices * masks, masks, tiles, np.random.default_rng(5), share=0.0, most_noise=0.0)
    assert (untouched == slices * masks).all()


def test_volumes_are_augmented_as_published_half_of_them_not_by_ghosts() -> None:
    volume = np.zeros((12, 24, 24), dtype=np.float32)
    volume[2:10, 4:20, 4:20] = 0.6
    seen = [augment_volume(volume, 2.0, np.random.default_rng(k)) for k in range(40)]
    assert all(one.shape == volume.shape and one.dtype == np.float32 and np.isfinite(one).all() for one in seen)
    unchanged = np.mean([np.array_equal(one, volume) for one in seen])
    assert 0.03 < unchanged < 0.35  # 0.5 * 0.75 * 0.75 * 0.5 = 0.14
    assert (seen[3] == augment_volume(volume, 2.0, np.random.default_rng(3))).all()


def test_a_volumes_ghosts_lie_along_the_drawn_axis() -> None:
    volume = np.zeros((12, 24, 24), dtype=np.float32)
    volume[6, 12, 12] = 1.0
    for axis in range(3):
        where = np.argwhere(np.abs(with_ghosts(volume, axis, 4, 0.8)) > 0.05)
        assert {tuple(np.delete(one, axis)) for one in where} == {tuple(np.delete([6, 12, 12], axis))}
        assert len(where) > 2
