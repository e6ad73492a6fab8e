"""NIfTI in and out, against nibabel as an independent reader."""

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from anomalyd.errors import Ineligible, Refused
from anomalyd.pipeline.nifti import read_nifti, write_nifti
from anomalyd.pipeline.volume import Grid

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
ORDERS = list(permutations(range(3)))
FLIPS = list(product((1.0, -1.0), repeat=3))


def loaded(path: Path) -> nib.spatialimages.SpatialImage:
    image = nib.load(path)
    assert isinstance(image, nib.spatialimages.SpatialImage)
    return image


def nibabels_grid(path: Path) -> NDArray[np.float64]:
    """(slice, row, column) -> LPS mm as nibabel reads it."""
    affine: NDArray[np.float64] = np.asarray(loaded(path).affine, dtype=np.float64)
    return (LPS @ affine)[:, [2, 1, 0, 3]]


def nibabels_voxels(path: Path) -> NDArray[np.float64]:
    voxels: NDArray[np.float64] = np.asarray(loaded(path).get_fdata(), dtype=np.float64)
    return voxels.T


def rotation(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    """(3, 3) rotation about x, then y, then z."""
    total = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = [a for a in range(3) if a != axis]
        one = np.eye(3)
        one[first, first] = one[second, second] = np.cos(angle)
        one[first, second], one[second, first] = -np.sin(angle), np.sin(angle)
        total = one @ total
    return total


def grid_of(
    order: tuple[int, ...], flips: tuple[float, ...], spacing: tuple[float, ...], turn: tuple[float, ...]
) -> Grid:
    axes = np.eye(3)[:, list(order)] * flips
    affine = np.eye(4)
    affine[:3, :3] = rotation((turn[0], turn[1], turn[2])) @ axes * spacing
    affine[:3, 3] = (-31.5, 12.25, 77.0)
    return Grid((4, 5, 6), affine)


def asymmetric(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("order", ORDERS)
def test_all_48_axis_orders_come_back_voxel_exact(
    order: tuple[int, ...], flips: tuple[float, ...], tmp_path: Path
) -> None:
    grid = grid_of(order, flips, (3.0, 1.5, 0.75), (0, 0, 0))
    write_nifti(tmp_path / "a.nii.gz", asymmetric(grid.shape), grid)
    back = read_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(back.voxels, asymmetric(grid.shape))
    np.testing.assert_allclose(back.grid.index_to_lps, grid.index_to_lps, atol=1e-5)
    np.testing.assert_array_equal(nibabels_voxels(tmp_path / "a.nii.gz"), back.voxels)
    np.testing.assert_allclose(nibabels_grid(tmp_path / "a.nii.gz"), grid.index_to_lps, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ORDERS),
    st.sampled_from(FLIPS),
    st.tuples(*[st.floats(0.2, 9.0)] * 3),
    st.tuples(*[st.floats(-180, 180)] * 3),
)
def test_oblique_grids_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    order: tuple[int, ...],
    flips: tuple[float, ...],
    spacing: tuple[float, ...],
    turn: tuple[float, ...],
) -> None:
    path = tmp_path_factory.mktemp("oblique") / "a.nii"
    grid = grid_of(order, flips, spacing, turn)
    write_nifti(path, asymmetric(grid.shape), grid)
    np.testing.assert_allclose(read_nifti(path).grid.index_to_lps, grid.index_to_lps, atol=1e-4)
    np.testing.assert_allclose(nibabels_grid(path), grid.index_to_lps, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.booleans(),
    st.sampled_from([nib.nifti1.Nifti1Image, nib.nifti2.Nifti2Image]),
    st.sampled_from("<>"),
)
def test_a_quaternion_is_read_as_nibabel_reads_it(
    tmp_path_factory: pytest.TempPathFactory,
    turn: tuple[float, ...],
    flip: bool,  # noqa: FBT001 - drawn by hypothesis
    image_class: type[nib.nifti1.Nifti1Image],
    order: str,
) -> None:
    path = tmp_path_factory.mktemp("quaternion") / "a.nii"
    affine = np.eye(4)
    affine[:3, :3] = rotation((turn[0], turn[1], turn[2])) * (1.0, 2.0, -3.0 if flip else 3.0)
    image = image_class(asymmetric((3, 4, 5)), None, image_class.header_class(endianness=order))
    image.set_qform(affine, 1)
    image.set_sform(None, 0)
    image.to_filename(path)
    volume = read_nifti(path)
    # The float32 quaternion leaves sqrt(1 - b2 - c2 - d2) good to 1e-3 only, near half turns.
    np.testing.assert_allclose(volume.grid.index_to_lps, nibabels_grid(path), atol=5e-3)
    np.testing.assert_array_equal(volume.voxels, asymmetric((3, 4, 5)).T)


def test_the_sform_wins_over_a_differing_qform(tmp_path: Path) -> None:
    image = nib.nifti1.Nifti1Image(asymmetric((3, 4, 5)), np.diag([1.0, 2.0, 3.0, 1.0]))
    image.set_qform(np.diag([2.0, 2.0, 3.0, 1.0]), 1)
    image.set_sform(np.diag([1.0, 2.0, 3.0, 1.0]), 2)
    image.to_filename(tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii").grid.spacing_mm == (3.0, 2.0, 1.0)


def test_without_any_orientation_nibabels_default_is_taken_with_a_warning(tmp_path: Path) -> None:
    nib.nifti1.Nifti1Image(asymmetric((3, 4, 5)), None).to_filename(tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.grid.index_to_lps, nibabels_grid(tmp_path / "a.nii"))
    assert "no orientation" in volume.warnings[0]


def test_integers_are_scaled(tmp_path: Path) -> None:
    image = nib.nifti1.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    image.to_filename(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(
        read_nifti(tmp_path / "a.nii.gz").voxels, nibabels_voxels(tmp_path / "a.nii.gz"), atol=1e-6
    )


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int8, np.int16, np.uint16, np.bool_])
def test_every_type_of_result_comes_back_and_twice_the_same_bytes(dtype: type, tmp_path: Path) -> None:
    grid = grid_of((0, 1, 2), (1, 1, 1), (1, 1, 1), (0, 0, 0))
    array: NDArray[np.generic] = (np.arange(120).reshape(4, 5, 6) % 2).astype(dtype)
    write_nifti(tmp_path / "a.nii.gz", array, grid)
    write_nifti(tmp_path / "b.nii.gz", array, grid)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz").voxels, array)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_one_volume_in_four_dimensions_is_read_and_several_are_refused(tmp_path: Path) -> None:
    nib.nifti1.Nifti1Image(asymmetric((3, 4, 5, 1)), np.eye(4)).to_filename(tmp_path / "one.nii")
    nib.nifti1.Nifti1Image(asymmetric((3, 4, 5, 2)), np.eye(4)).to_filename(tmp_path / "two.nii")
    assert read_nifti(tmp_path / "one.nii").voxels.shape == (5, 4, 3)
    with pytest.raises(Ineligible, match="3 x 4 x 5 x 2") as refused:
        read_nifti(tmp_path / "two.nii")
    assert refused.value.criterion == "dimensions"


def test_what_is_not_finite_becomes_zero_with_a_warning(tmp_path: Path) -> None:
    array = asymmetric((3, 4, 5))
    array[0, 0, 0], array[1, 1, 1] = np.nan, np.inf
    nib.nifti1.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    assert np.isfinite(volume.voxels).all()
    assert volume.warnings == ("2 voxels are not finite and were set to 0",)


def test_a_sheared_grid_is_refused(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.3
    image = nib.nifti1.Nifti1Image(asymmetric((3, 4, 5)), affine)
    image.set_sform(affine, 1)
    image.to_filename(tmp_path / "a.nii")
    with pytest.raises(Ineligible) as refused:
        read_nifti(tmp_path / "a.nii")
    assert refused.value.criterion == "shear"


def test_colours_are_refused(tmp_path: Path) -> None:
    colours = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.nifti1.Nifti1Image(colours, np.eye(4)).to_filename(tmp_path / "a.nii")
    with pytest.raises(Ineligible) as refused:
        read_nifti(tmp_path / "a.nii")
    assert refused.value.criterion == "datatype"


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x1f\x8b garbage", b"\x5c\x01\x00\x00" + bytes(400)])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_what_is_no_nifti_is_refused_in_words(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=name):
        read_nifti(tmp_path / name)


@pytest.mark.parametrize("keep", [100, 348, 352, 400, 600])
def test_a_truncated_file_is_refused_in_words(keep: int, tmp_path: Path) -> None:
    nib.nifti1.Nifti1Image(asymmetric((6, 6, 6)), np.eye(4)).to_filename(tmp_path / "whole.nii")
    (tmp_path / "a.nii").write_bytes((tmp_path / "whole.nii").read_bytes()[:keep])
    with pytest.raises(Refused):
        read_nifti(tmp_path / "a.nii")


def test_an_array_of_another_shape_is_not_written(tmp_path: Path) -> None:
    grid = grid_of((0, 1, 2), (1, 1, 1), (1, 1, 1), (0, 0, 0))
    with pytest.raises(ValueError, match="does not lie on grid"):
        write_nifti(tmp_path / "a.nii", np.zeros((1, 2, 3), np.float32), grid)
