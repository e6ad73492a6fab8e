"""Series as scanners send them, from files to results: what is chosen, what the results refer to, what is refused.

Several volumes in one series or in one Enhanced object are the rule at some vendors: the results must name the images
or frames of the analysed volume, by the numbers of the object that was received, and no others.
"""

import copy
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage

from anomalyd.ids import Digest
from anomalyd.pipeline.finding import Contrast, Reason
from anomalyd.pipeline.read import read_folder
from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.objects import ResultContext, ResultKind
from anomalyd.pipeline.selection import Eligibility, choose
from anomalyd.pipeline.settings import PipelineSettings
from dcmqi_reader import segment_points
from findings import BRIGHT, DARK, JOB_TIME, finding_of, read_series
from phantoms import Order, PhantomWriter, WrittenSeries

HEAD = PhantomWriter(spacing_mm=(6.0, 3.0, 4.0))
ENHANCED = replace(HEAD, enhanced=True)
PHASE = ["ORIGINAL", "PRIMARY", "P", "ND"]


def answer(folder: Path) -> Eligibility:
    ((header, _),), unreadable = read_folder(folder)
    assert not unreadable
    return choose(header, PipelineSettings(), frozenset(Contrast))


def reason(folder: Path) -> Reason:
    found = answer(folder).reason
    assert found is not None
    return found


def second_volume(first: WrittenSeries, writer: PhantomWriter, folder: Path, **attributes: object) -> WrittenSeries:
    """The same head once more, in the same series."""
    ds = pydicom.dcmread(first.files[0], stop_before_pixels=True)
    shared = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    same = {keyword: ds[keyword].value for keyword in shared} | attributes
    return replace(writer, seed="second", attributes=same).write(folder)


def changed(series: WrittenSeries, change: Callable[[int, Dataset], None]) -> None:
    for k, path in enumerate(series.files):
        ds = pydicom.dcmread(path)
        change(k, ds)
        ds.save_as(path)


def results_of(folder: Path) -> tuple[list[pydicom.FileDataset], pydicom.FileDataset]:
    """(heatmaps, SEG) of two lesions; the SEG is read back by dcmqi, voxel by voxel."""
    read = read_series(folder)
    finding = finding_of(read.volume, (DARK, BRIGHT))
    context = ResultContext(read.headers, read.volume, finding, JOB_TIME, Digest("a" * 64), Digest("b" * 64))
    results = build_results(context)
    (segmentation,) = [one for one in results if one.kind is ResultKind.SEG]
    for number, points in segment_points(segmentation.data, (1, 2), folder.parent / "dcmqi").items():
        slices, rows, columns = np.rint(finding.grid.to_index(points)).astype(int).T
        assert (finding.labels[slices, rows, columns] == number).all()
        assert len(points) == np.count_nonzero(finding.labels == number)
    heatmaps = [pydicom.dcmread(io.BytesIO(one.data)) for one in results if one.kind is ResultKind.HEATMAP]
    return heatmaps, pydicom.dcmread(io.BytesIO(segmentation.data))


def references(heatmaps: Sequence[Dataset], segmentation: Dataset) -> Iterator[tuple[Dataset, tuple[float, ...]]]:
    """(SourceImageSequence item, position of the result's plane) of every heatmap and every frame of the SEG."""
    for ds in heatmaps:
        yield ds.SourceImageSequence[0], tuple(map(float, ds.ImagePositionPatient))
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        position = tuple(map(float, groups.PlanePositionSequence[0].ImagePositionPatient))
        yield groups.DerivationImageSequence[0].SourceImageSequence[0], position


def assert_refers_to_files(folder: Path, wanted: Callable[[Dataset], bool]) -> None:
    """Every reference is to a wanted image of the folder, at the place of the result's plane; each is named once."""
    files = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, folder.rglob("*.dcm"))}
    heatmaps, segmentation = results_of(folder)
    for reference, position in references(heatmaps, segmentation):
        source = files[reference.ReferencedSOPInstanceUID]
        assert wanted(source)
        assert tuple(map(float, source.ImagePositionPatient)) == position
    named = [
        one.ReferencedSOPInstanceUID for one in segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    ]
    assert sorted(named) == sorted(uid for uid, ds in files.items() if wanted(ds))


def assert_refers_to_frames(path: Path, wanted: Callable[[Dataset], bool], sop_class: str) -> None:
    """The same for an Enhanced object; wanted: of the frame's functional groups."""
    ds = pydicom.dcmread(path)
    heatmaps, segmentation = results_of(path.parent)
    seen = set()
    for reference, position in references(heatmaps, segmentation):
        assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (sop_class, ds.SOPInstanceUID)
        groups = ds.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
        assert wanted(groups)
        assert tuple(map(float, groups.PlanePositionSequence[0].ImagePositionPatient)) == position
        seen.add(reference.ReferencedFrameNumber)
    assert len(seen) == sum(map(wanted, ds.PerFrameFunctionalGroupsSequence))


def into_each_frame(ds: Dataset, keyword: str) -> None:
    """A shared functional group becomes one of every frame."""
    shared = ds.SharedFunctionalGroupsSequence[0]
    for groups in ds.PerFrameFunctionalGroupsSequence:
        setattr(groups, keyword, copy.deepcopy(list(shared[keyword].value)))
    del shared[keyword]


def frames_added(path: Path, change: Callable[[Dataset], None], *, seed: int = 1) -> None:
    """Every frame a second time with its groups changed and its values turned over; then all in any order."""
    ds = pydicom.dcmread(path)
    pixels = ds.pixel_array
    others = copy.deepcopy(list(ds.PerFrameFunctionalGroupsSequence))
    for groups in others:
        change(groups)
    groups_of_all = [*ds.PerFrameFunctionalGroupsSequence, *others]
    every = np.concatenate([pixels, pixels.max() - pixels])
    order = np.random.default_rng(seed).permutation(len(every))
    ds.PerFrameFunctionalGroupsSequence = [groups_of_all[k] for k in order]
    ds.NumberOfFrames, ds.PixelData = len(every), every[order].tobytes()
    ds.save_as(path)


def test_of_several_echoes_in_one_series_the_first_is_analysed_and_named(tmp_path: Path) -> None:
    first = HEAD.write(tmp_path / "in" / "a")
    second_volume(first, HEAD, tmp_path / "in" / "b", EchoTime="5.34", EchoNumbers=2)
    assert answer(tmp_path / "in").left_out == (f"{len(first.files)} images of another volume: TE 5.34",)
    assert_refers_to_files(tmp_path / "in", lambda ds: float(ds.EchoTime) < 5)


def test_of_magnitude_and_phase_the_magnitude_is_analysed_and_named(tmp_path: Path) -> None:
    first = HEAD.write(tmp_path / "in" / "a")
    second_volume(first, HEAD, tmp_path / "in" / "b", ImageType=PHASE)
    assert_refers_to_files(tmp_path / "in", lambda ds: "M" in ds.ImageType)


def test_an_interleaved_acquisition_is_one_stack(tmp_path: Path) -> None:
    """First every second slice, then those between: numbers and times run that way, positions tell the truth."""
    series = HEAD.write(tmp_path / "in")
    count = len(series.files)

    def renumbered(k: int, ds: Dataset) -> None:
        ds.InstanceNumber = k // 2 + 1 if k % 2 == 0 else (count + 1) // 2 + k // 2 + 1
        ds.AcquisitionNumber = 1 + k % 2

    changed(series, renumbered)
    assert_refers_to_files(tmp_path / "in", lambda _: True)


@pytest.mark.parametrize("shape", [(25, 67, 53), (25, 67, 52), (25, 66, 53)], ids=str)
def test_odd_numbers_of_rows_and_columns(shape: tuple[int, int, int], tmp_path: Path) -> None:
    """An odd number of pixels: bits of a SEG run over the border of bytes, a heatmap needs a byte of padding."""
    replace(HEAD, spacing_mm=(7.0, 3.5, 3.9), shape=shape).write(tmp_path / "in")
    heatmaps, segmentation = results_of(tmp_path / "in")
    assert (segmentation.Rows, segmentation.Columns) == shape[1:]
    for ds in heatmaps:
        assert ds.pixel_array.shape == (*shape[1:], 3)
        assert len(ds.PixelData) % 2 == 0


def test_of_magnitude_and_phase_frames_in_any_order_the_frames_of_the_magnitude_are_named(tmp_path: Path) -> None:
    (path,) = ENHANCED.write(tmp_path / "in").files
    ds = pydicom.dcmread(path)
    into_each_frame(ds, "MRImageFrameTypeSequence")
    ds.save_as(path)

    def phase(groups: Dataset) -> None:
        groups.MRImageFrameTypeSequence[0].ComplexImageComponent = "PHASE"

    frames_added(path, phase)
    assert_refers_to_frames(
        path, lambda groups: groups.MRImageFrameTypeSequence[0].ComplexImageComponent == "MAGNITUDE", ds.SOPClassUID
    )


def test_of_two_stacks_at_the_same_places_one_is_analysed_and_the_other_named(tmp_path: Path) -> None:
    (path,) = ENHANCED.write(tmp_path / "in").files

    def other_stack(groups: Dataset) -> None:
        groups.FrameContentSequence[0].StackID = "2"

    frames_added(path, other_stack)
    (left_out,) = answer(tmp_path / "in").left_out
    assert left_out.endswith("stack 2")
    assert_refers_to_frames(path, lambda groups: groups.FrameContentSequence[0].StackID == "1", EnhancedMRImageStorage)


def test_a_small_stack_across_is_split_off_and_a_large_one_refuses_the_object(tmp_path: Path) -> None:
    for count in (3, 40):
        (path,) = ENHANCED.write(tmp_path / str(count) / "in").files
        ds = pydicom.dcmread(path)
        pixels = ds.pixel_array
        across = copy.deepcopy(list(ds.PerFrameFunctionalGroupsSequence)[:count])
        into_each_frame(ds, "PlaneOrientationSequence")
        for k, groups in enumerate(across):
            groups.PlaneOrientationSequence = [Dataset()]
            groups.PlaneOrientationSequence[0].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
            groups.PlanePositionSequence[0].ImagePositionPatient = [-60 + 5.0 * k, -100, 100]
            groups.FrameContentSequence[0].StackID = "2"
        ds.PerFrameFunctionalGroupsSequence = [*across, *ds.PerFrameFunctionalGroupsSequence]
        every = np.concatenate([pixels[: len(across)], pixels])
        ds.NumberOfFrames, ds.PixelData = len(every), every.tobytes()
        ds.save_as(path)
    assert_refers_to_frames(
        tmp_path / "3" / "in" / "enhanced.dcm",
        lambda groups: groups.FrameContentSequence[0].StackID == "1",
        EnhancedMRImageStorage,
    )
    assert reason(tmp_path / "40" / "in").criterion == "orientation"


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_a_legacy_converted_object_is_analysed_and_named_by_its_class(order: Order, tmp_path: Path) -> None:
    """Converted from classic images: timing in the unassigned attributes, geometry in each frame."""
    writer = replace(ENHANCED, order=order, groups_per_frame=True)
    (path,) = writer.write(tmp_path / "in").files
    ds = pydicom.dcmread(path)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = LegacyConvertedEnhancedMRImageStorage
    shared = ds.SharedFunctionalGroupsSequence[0]
    for name in ("MRTimingAndRelatedParametersSequence", "MREchoSequence", "MRModifierSequence"):
        del shared[name]
    left = Dataset()
    left.ScanningSequence, left.SequenceVariant, left.MRAcquisitionType = ["GR", "IR"], ["SK", "SP", "MP"], "3D"
    left.RepetitionTime, left.EchoTime, left.InversionTime, left.FlipAngle = "2300", "2.98", "900", "9"
    shared.UnassignedSharedConvertedAttributesSequence = [left]
    ds.save_as(path)
    assert_refers_to_frames(path, lambda _: True, LegacyConvertedEnhancedMRImageStorage)


def _sheared(k: int, ds: Dataset) -> None:
    x, y, z = ds.ImagePositionPatient
    ds.ImagePositionPatient = [x, round(float(y) + 0.9 * k, 4), z]


def _two_frames_of_reference(k: int, ds: Dataset) -> None:
    if k % 2:
        ds.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.77"


@pytest.mark.parametrize(
    ("change", "criterion"),
    [(_sheared, "shear"), (_two_frames_of_reference, "frame_of_reference")],
    ids=["sheared, as of a tilted gantry", "two frames of reference"],
)
def test_what_is_no_single_upright_stack_is_refused_in_words(
    change: Callable[[int, Dataset], None], criterion: str, tmp_path: Path
) -> None:
    changed(HEAD.write(tmp_path / "in"), change)
    refused = reason(tmp_path / "in")
    assert refused.criterion == criterion
    assert refused.text


def test_two_images_at_one_place_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    first = HEAD.write(tmp_path / "in" / "a")
    second_volume(first, HEAD, tmp_path / "in" / "b")
    refused = reason(tmp_path / "in")
    assert (refused.criterion, refused.value) == ("duplicate_positions", len(first.files))


def test_a_single_slice_is_refused(tmp_path: Path) -> None:
    count = HEAD.grid().shape[0]
    replace(HEAD, missing=tuple(range(1, count)), expected_count="absent").write(tmp_path / "in")
    assert (reason(tmp_path / "in").criterion, reason(tmp_path / "in").value) == ("slices", 1)


@pytest.mark.parametrize(
    "mark",
    [
        lambda ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]),
        lambda ds: ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 36),
    ],
    ids=["ImageType", "private count of tiles"],
)
def test_a_mosaic_is_refused_by_either_sign_of_it(mark: Callable[[Dataset], None], tmp_path: Path) -> None:
    changed(HEAD.write(tmp_path / "in"), lambda _, ds: mark(ds))
    assert reason(tmp_path / "in").criterion == "mosaic"


def test_a_score_map_that_a_pacs_sends_back_is_refused_whatever_the_rules_say(tmp_path: Path) -> None:
    """It is an MR image: with a rule that includes all MR it would be analysed, its own result as well, and so on."""
    HEAD.write(tmp_path / "in")
    read = read_series(tmp_path / "in")
    finding = finding_of(read.volume, (DARK,))
    context = ResultContext(read.headers, read.volume, finding, JOB_TIME, Digest("a" * 64), Digest("b" * 64))
    (tmp_path / "back").mkdir()
    for one in build_results(context, (ResultKind.SCORE_MAP,)):
        (tmp_path / "back" / f"{one.instance_number}.dcm").write_bytes(one.data)
    ((header, _),), _ = read_folder(tmp_path / "back", frozenset({"Modality"}))
    including = PipelineSettings.model_validate({"include": [{"attribute": "Modality", "matches": "MR"}]})
    refused = choose(header, including, frozenset(Contrast)).reason
    assert refused is not None
    assert refused.criterion == "own_result"
