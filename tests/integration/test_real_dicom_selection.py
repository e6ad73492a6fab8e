"""Every folder of shared/data/dicom is analysed or refused as its index.csv says, by the right criterion."""

import csv
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
import pytest

from anomalyd.pipeline.completeness import completeness
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.read import read_folder, read_volume
from anomalyd.pipeline.selection import Eligibility, choose
from anomalyd.pipeline.series import SeriesHeader
from anomalyd.pipeline.settings import PipelineSettings

# What `expected` of index.csv says, as the criterion that the reason names. The phantom says BRAIN and has a plausible
# T1w physics: what gives it away in the header is that it is registered as a phantom, and 60 mm of coverage.
CRITERION = {
    "analyse T1w": None,
    "analyse T1w (incomplete)": None,
    "analyse T2w (incomplete)": None,
    "analyse FLAIR": None,
    "refuse: derived map": "derived_map",
    "refuse: EPI/BOLD mosaic": "epi",
    "refuse: EPI/BOLD": "epi",
    "refuse: field map (phase)": "field_map",
    "refuse: field map": "field_map",
    "refuse: one slice": "slices",
    "refuse: 4 slices only": "slices",
    "refuse: other body part, 4 slices": "slices",
    "refuse: localizer, one slice": "localizer",
    "refuse: no head (phantom); Raw Data object": "phantom",
}


@pytest.fixture(scope="module")
def index(shared_data: Path) -> dict[str, dict[str, str]]:
    with (shared_data / "dicom" / "index.csv").open(newline="") as file:
        return {row["folder"]: row for row in csv.DictReader(file)}


FOLDERS = [
    "ge-bold", "ge-fieldmap-b0", "ge-t1-3d-truncated", "hitachi-shoulder", "philips-ir-brain-slice-jpeg-lossless",
    "philips-ir-brain-slice-jpeg-ls", "philips-ir-brain-slice-jpeg2000", "philips-ir-brain-slice-rle",
    "philips-t1-mprage-3d", "philips-t1-tse-phantom-enhanced", "siemens-prisma-flair-axial",
    "siemens-prisma-localizer-phantom", "siemens-trio-bold-mosaic", "siemens-trio-relcbf-derived-mosaic",
    "siemens-trio-t1-memprage", "siemens-trio-t2-tse-axial", "siemens-xa30-adc-enhanced",
    "siemens-xa30-fieldmap-phase-enhanced", "siemens-xa30-t1-enhanced",
]  # fmt: skip
COMPLETE = {  # provably: by frames, a count of images, or a vendor's count of slices
    "philips-t1-mprage-3d", "philips-t1-tse-phantom-enhanced", "siemens-prisma-flair-axial", "siemens-xa30-t1-enhanced",
    "siemens-xa30-adc-enhanced", "siemens-xa30-fieldmap-phase-enhanced", "ge-fieldmap-b0",
}  # fmt: skip


@lru_cache
def only_series(folder: Path) -> SeriesHeader:
    ((header, _),), _ = read_folder(folder)
    return header


def chosen(header: SeriesHeader, *contrasts: Contrast) -> Eligibility:
    return choose(header, PipelineSettings(), frozenset(contrasts or Contrast))


def test_the_index_has_no_folder_that_is_not_tried(index: dict[str, dict[str, str]]) -> None:
    assert sorted(index) == FOLDERS


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_series_is_analysed_or_refused_as_its_index_says(
    folder: str, shared_data: Path, index: dict[str, dict[str, str]]
) -> None:
    expected = index[folder]["expected"]
    found = chosen(only_series(shared_data / "dicom" / folder))
    assert (found.reason.criterion if found.reason else None) == CRITERION[expected]
    if found.ok:
        assert found.contrast is not None
        assert expected.split()[1] == found.contrast
    else:
        assert found.volume is None


@pytest.mark.parametrize("folder", FOLDERS)
def test_with_a_t1w_bundle_alone_other_contrasts_are_refused_for_want_of_one(
    folder: str, shared_data: Path, index: dict[str, dict[str, str]]
) -> None:
    found = chosen(only_series(shared_data / "dicom" / folder), Contrast.T1W)
    expected = index[folder]["expected"]
    assert found.ok == expected.startswith("analyse T1w")
    if expected.startswith(("analyse T2w", "analyse FLAIR")):
        assert found.reason is not None
        assert found.reason.text == f"no bundle for this contrast ({expected.split()[1]})"


@pytest.mark.parametrize("folder", FOLDERS)
def test_completeness_is_proven_by_counts_alone(folder: str, shared_data: Path) -> None:
    assert completeness(only_series(shared_data / "dicom" / folder)).provable == (folder in COMPLETE)


@pytest.mark.parametrize(
    ("folder", "slot", "expected"),
    [("siemens-trio-t1-memprage", 114, 176), ("siemens-trio-t2-tse-axial", 34, 56)],
)
def test_the_missing_slice_is_found_named_and_interpolated(
    folder: str, slot: int, expected: int, shared_data: Path
) -> None:
    ((header, files),), _ = read_folder(shared_data / "dicom" / folder)
    found = chosen(header)
    assert found.volume is not None
    assert found.warnings == (
        f"1 of {expected} slices is missing (Siemens protocol states {expected}): 1 interpolated, never marked",
    )
    volume = read_volume(found.volume, lambda uid: files[uid].read_bytes())
    assert volume.interpolated_slices == (slot,)
    np.testing.assert_allclose(volume.voxels[slot], (volume.voxels[slot - 1] + volume.voxels[slot + 1]) / 2, atol=1e-3)


@pytest.mark.parametrize(
    "folder",
    [
        "philips-t1-mprage-3d",
        "siemens-xa30-t1-enhanced",
        "siemens-trio-t1-memprage",
        "siemens-prisma-flair-axial",
        "siemens-trio-t2-tse-axial",
    ],
)
def test_voxels_and_places_are_those_of_the_files(folder: str, shared_data: Path) -> None:
    ((header, files),), _ = read_folder(shared_data / "dicom" / folder)
    found = chosen(header)
    assert found.volume is not None
    volume = read_volume(found.volume, lambda uid: files[uid].read_bytes())
    for k, source in enumerate(volume.sources):
        if source is None or k % 7:
            continue
        ds = pydicom.dcmread(files[source.instance_uid])
        stored, item = ds.pixel_array, ds
        position = ds.get("ImagePositionPatient")
        if source.frame is not None:
            groups = ds.PerFrameFunctionalGroupsSequence[source.frame - 1]
            stored, item = stored[source.frame - 1], groups.PixelValueTransformationSequence[0]
            position = groups.PlanePositionSequence[0].ImagePositionPatient
        values = stored * float(item.get("RescaleSlope", 1)) + float(item.get("RescaleIntercept", 0))
        np.testing.assert_allclose(volume.voxels[k], values, rtol=1e-6)
        np.testing.assert_allclose(volume.grid.to_lps(np.array([k, 0, 0])), np.array(position, float), atol=2e-3)


def test_four_lossless_codings_of_one_picture_decode_alike(shared_data: Path) -> None:
    pictures = []
    for coding in ("jpeg-lossless", "jpeg-ls", "jpeg2000", "rle"):
        ((header, files),), _ = read_folder(shared_data / "dicom" / f"philips-ir-brain-slice-{coding}")
        (path,) = files.values()
        assert header.images
        pictures.append(pydicom.dcmread(path).pixel_array)
    assert all((picture == pictures[0]).all() for picture in pictures)


def test_three_codings_in_one_series_are_copies_of_one_slice(shared_data: Path, tmp_path: Path) -> None:
    for k, coding in enumerate(("jpeg-lossless", "jpeg-ls", "jpeg2000")):
        source = shared_data / "dicom" / f"philips-ir-brain-slice-{coding}" / "0001.dcm"
        (tmp_path / f"{k}.dcm").write_bytes(source.read_bytes())
    found = chosen(only_series(tmp_path))
    assert found.reason is not None
    assert (found.reason.criterion, found.reason.value) == ("slices", 1)


def test_the_raw_data_object_beside_an_image_is_left_out(shared_data: Path) -> None:
    found = chosen(only_series(shared_data / "dicom" / "philips-t1-tse-phantom-enhanced"))
    assert found.left_out == ("object of SOP class 1.2.840.10008.5.1.4.1.1.66, no MR image",)
