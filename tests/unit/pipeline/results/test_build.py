"""Result objects of a finding: which, how many, with what identity; the same bytes for the same input."""

import dataclasses
import io
from datetime import timedelta, timezone
from pathlib import Path

import pydicom
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from anomalyd.errors import Broken, Ineligible
from anomalyd.ids import Digest
from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.header import read_source
from anomalyd.pipeline.results.objects import ResultContext, ResultKind, ResultObject
from anomalyd.pipeline.results.seg import build_segmentation
from anomalyd.pipeline.results.version import version_line
from findings import DARK, JOB_TIME, context_of, only
from phantoms import PhantomWriter

COARSE = (9.0, 4.0, 4.0)


def seg_of(results: tuple[ResultObject, ...]) -> Dataset:
    return opened(only(results, ResultKind.SEG))


def opened(result: ResultObject) -> Dataset:
    return pydicom.dcmread(io.BytesIO(result.data))


def of_kind(results: tuple[ResultObject, ...], kind: ResultKind) -> list[Dataset]:
    return [opened(result) for result in results if result.kind is kind]


@pytest.fixture
def context(tmp_path: Path) -> ResultContext:
    return context_of(PhantomWriter(spacing_mm=COARSE, order="shuffled").write(tmp_path / "series"))


def test_heatmaps_come_first_one_for_each_slice_then_one_seg_then_the_report(context: ResultContext) -> None:
    results = build_results(context)
    slices = context.volume.grid.shape[0]
    others = [ResultKind.SUMMARY, ResultKind.SEG, ResultKind.SR]
    assert [result.kind for result in results] == [ResultKind.HEATMAP] * slices + others
    assert [result.instance_number for result in results] == [*range(1, slices + 1), 1, 1, 1]
    assert len({result.sop_instance_uid for result in results}) == slices + 3
    assert len({result.series_uid for result in results}) == 4
    for result in results:
        dataset = opened(result)
        assert (dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.SOPClassUID) == (
            result.sop_instance_uid,
            result.series_uid,
            result.sop_class_uid,
        )


def test_nothing_found_makes_heatmaps_and_a_report_and_no_seg(tmp_path: Path) -> None:
    healthy = context_of(PhantomWriter(spacing_mm=COARSE).write(tmp_path / "healthy", lesion_at=None), ())
    results = build_results(healthy)
    assert {result.kind for result in results} == {ResultKind.HEATMAP, ResultKind.SUMMARY, ResultKind.SR}
    assert len(results) == healthy.volume.grid.shape[0] + 2
    with pytest.raises(Broken, match="no segmentation"):
        build_segmentation(read_source(healthy.headers, healthy.volume), healthy)


def test_a_slice_that_was_interpolated_gets_no_heatmap_and_no_segment_frame(tmp_path: Path) -> None:
    gap = round((DARK[0][2] + 100.5) / 4.0)
    series = PhantomWriter(spacing_mm=(4.0, 4.0, 4.0), missing=(gap,)).write(tmp_path)
    context = context_of(series)
    assert context.volume.interpolated_slices == (gap,)
    results = build_results(context)
    heatmaps = of_kind(results, ResultKind.HEATMAP)
    assert len(heatmaps) == context.volume.grid.shape[0] - 1
    positions = {tuple(map(float, ds.ImagePositionPatient)) for ds in heatmaps}
    (segmentation,) = of_kind(results, ResultKind.SEG)
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        assert tuple(map(float, groups.PlanePositionSequence[0].ImagePositionPatient)) in positions
    for dataset in (segmentation.SegmentSequence[0].SegmentDescription, heatmaps[0].ImageComments):
        assert "1 interpolated, never marked" in dataset


def test_the_same_input_gives_the_same_bytes(context: ResultContext) -> None:
    backwards = dataclasses.replace(context, headers=context.headers[::-1])
    assert [r.data for r in build_results(context)] == [r.data for r in build_results(backwards)]


@pytest.mark.parametrize("field", ["instance_set", "settings"])
def test_another_instance_set_or_setting_has_other_uids(context: ResultContext, field: str) -> None:
    digest = Digest("9" * 64)
    other = (
        dataclasses.replace(context, instance_set=digest)
        if field == "instance_set"
        else dataclasses.replace(context, settings=digest)
    )
    uids, others = ({r.sop_instance_uid for r in build_results(c)} for c in (context, other))
    assert not uids & others


def test_a_later_job_changes_times_and_no_uid(context: ResultContext) -> None:
    later = dataclasses.replace(context, job_time=JOB_TIME + timedelta(days=1))
    first, second = build_results(context), build_results(later)
    assert [r.sop_instance_uid for r in first] == [r.sop_instance_uid for r in second]
    assert opened(first[0]).ContentDate == "20260105"
    assert opened(second[0]).ContentDate == "20260106"


def test_every_date_and_time_comes_from_the_job(context: ResultContext) -> None:
    results = build_results(context)
    for dataset in (opened(results[0]), *(opened(only(results, kind)) for kind in (ResultKind.SEG, ResultKind.SR))):
        assert {dataset.InstanceCreationDate, dataset.ContentDate, dataset.SeriesDate} == {"20260105"}
        assert {dataset.InstanceCreationTime, dataset.ContentTime, dataset.SeriesTime} == {"112233.456789"}
        moments = [one.get("ContributionDateTime") for one in dataset.ContributingEquipmentSequence]
        assert set(moments) <= {"20260105112233.456789+0000", None}


def test_times_are_those_of_the_zone_that_the_source_states(tmp_path: Path) -> None:
    writer = PhantomWriter(spacing_mm=COARSE, attributes={"TimezoneOffsetFromUTC": "+0930"})
    context = context_of(writer.write(tmp_path), job_time=JOB_TIME.astimezone(timezone(timedelta(hours=-5))))
    results = build_results(context)
    for dataset in (opened(results[0]), *(opened(only(results, kind)) for kind in (ResultKind.SEG, ResultKind.SR))):
        assert dataset.TimezoneOffsetFromUTC == "+0930"
        assert (dataset.ContentDate, dataset.ContentTime) == ("20260105", "205233.456789")


@pytest.mark.parametrize(
    ("number", "expected"),
    [(3, (301, 302)), (0, (1, 2)), (None, (90001, 90002)), (2_000_000_000, (90001, 90002))],
)
def test_series_numbers_follow_that_of_the_source(
    tmp_path: Path, number: int | None, expected: tuple[int, int]
) -> None:
    context = context_of(PhantomWriter(spacing_mm=COARSE, attributes={"SeriesNumber": number}).write(tmp_path))
    results = build_results(context)
    assert (seg_of(results).SeriesNumber, opened(results[0]).SeriesNumber) == expected


def test_descriptions_say_research_in_every_series(context: ResultContext) -> None:
    results = build_results(context)
    heatmap, segmentation = opened(results[0]), seg_of(results)
    assert heatmap.SeriesDescription == "anomalyd HEATMAP (research)"
    assert segmentation.SeriesDescription == "anomalyd SEG (research)"
    assert "RESEARCH USE ONLY" in heatmap.ImageComments
    assert "RESEARCH USE ONLY" in heatmap.DerivationDescription
    assert "RESEARCH USE ONLY" in segmentation.ContentDescription
    assert (heatmap.Modality, segmentation.Modality) == ("OT", "SEG")


def test_one_version_line_stands_in_every_place(context: ResultContext) -> None:
    line = version_line(context.finding.model)
    results = build_results(context)
    for dataset in (opened(results[0]), seg_of(results), opened(only(results, ResultKind.SR))):
        assert dataset.SoftwareVersions == line
        ours = [one for one in dataset.ContributingEquipmentSequence if one.get("Manufacturer") == "anomalyd"]
        assert [one.SoftwareVersions for one in ours] == [line]
    assert line in opened(results[0]).DerivationDescription
    for segment in seg_of(results).SegmentSequence:
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmVersion == line
        assert segment.SegmentAlgorithmName == "anomalyd"


def test_a_series_without_frame_of_reference_is_ineligible_in_words(context: ResultContext) -> None:
    for header in context.headers:
        del header.FrameOfReferenceUID
    with pytest.raises(Ineligible, match="FrameOfReferenceUID") as caught:
        build_results(context)
    assert caught.value.criterion == "frame_of_reference"


def test_a_finding_whose_lesions_are_not_in_its_mask_is_broken(context: ResultContext) -> None:
    without = context.finding.labels.copy()
    without[without == 2] = 0
    broken = dataclasses.replace(context, finding=dataclasses.replace(context.finding, labels=without))
    with pytest.raises(Broken, match="do not match"):
        build_results(broken)


def test_orientations_that_differ_by_rounding_become_one_and_more_is_refused(context: ResultContext) -> None:
    cosines = list(context.headers[3].ImageOrientationPatient)
    context.headers[3].ImageOrientationPatient = [cosines[0], "0.00000000001", *cosines[2:]]
    orientations = {tuple(ds.ImageOrientationPatient) for ds in of_kind(build_results(context), ResultKind.HEATMAP)}
    assert len(orientations) == 1
    context.headers[3].ImageOrientationPatient = [cosines[0], "0.01", *cosines[2:]]
    with pytest.raises(Ineligible, match="orientation"):
        build_results(context)


def test_segments_are_the_lesions_in_their_order_with_sign_and_tracking(context: ResultContext) -> None:
    segmentation = seg_of(build_results(context))
    assert [s.SegmentLabel for s in segmentation.SegmentSequence] == ["Anomaly 1 (darker)", "Anomaly 2 (brighter)"]
    assert [s.TrackingID for s in segmentation.SegmentSequence] == ["anomaly-1", "anomaly-2"]
    assert len({s.TrackingUID for s in segmentation.SegmentSequence}) == 2
    for segment in segmentation.SegmentSequence:
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "52988006"
        assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
        assert segment.AnatomicRegionSequence[0].CodeValue == "12738006"
        assert len(segment.RecommendedDisplayCIELabValue) == 3  # without it OHIF loads for ever (USERS V5)


@pytest.mark.parametrize("is_enhanced", [False, True])
def test_the_seg_names_every_source_image(tmp_path: Path, is_enhanced: bool) -> None:  # noqa: FBT001 - a parameter
    writer = PhantomWriter(spacing_mm=COARSE, enhanced=is_enhanced, order="reversed", groups_per_frame=is_enhanced)
    context = context_of(writer.write(tmp_path))
    segmentation = seg_of(build_results(context))
    (series,) = segmentation.ReferencedSeriesSequence
    named = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert named == {header.SOPInstanceUID for header in context.headers}
    assert {item.ReferencedSOPClassUID for item in series.ReferencedInstanceSequence} == {
        context.headers[0].SOPClassUID
    }
    assert series.SeriesInstanceUID == context.headers[0].SeriesInstanceUID
    positions = _positions(context)
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        position = tuple(map(float, groups.PlanePositionSequence[0].ImagePositionPatient))
        frame = source.get("ReferencedFrameNumber")
        assert positions[source.ReferencedSOPInstanceUID, frame] == position
        assert (frame is not None) == is_enhanced


def test_enhanced_heatmaps_name_frame_and_its_place(tmp_path: Path) -> None:
    context = context_of(PhantomWriter(spacing_mm=COARSE, enhanced=True, order="shuffled").write(tmp_path))
    positions = _positions(context)
    for dataset in of_kind(build_results(context), ResultKind.HEATMAP):
        (source,) = dataset.SourceImageSequence
        place = positions[source.ReferencedSOPInstanceUID, source.ReferencedFrameNumber]
        assert place == tuple(map(float, dataset.ImagePositionPatient))


def test_values_of_20_characters_are_rounded_to_what_the_standard_allows(context: ResultContext) -> None:
    with disable_value_validation():  # as real scanners send them
        for header in context.headers:
            header.ImagePositionPatient = [f"{float(value):.14f}" for value in header.ImagePositionPatient]
    heatmaps = of_kind(build_results(context), ResultKind.HEATMAP)
    assert max(len(str(value)) for ds in heatmaps for value in ds.ImagePositionPatient) <= 16
    placed = {tuple(map(float, ds.ImagePositionPatient)) for ds in heatmaps}
    assert placed == {tuple(map(float, header.ImagePositionPatient)) for header in context.headers}


def _positions(context: ResultContext) -> dict[tuple[str, int | None], tuple[float, ...]]:
    """Of each image or frame, read from the headers."""
    positions: dict[tuple[str, int | None], tuple[float, ...]] = {}
    for header in context.headers:
        if "PerFrameFunctionalGroupsSequence" in header:
            for number, groups in enumerate(header.PerFrameFunctionalGroupsSequence, start=1):
                place = groups.PlanePositionSequence[0].ImagePositionPatient
                positions[header.SOPInstanceUID, number] = tuple(map(float, place))
        else:
            positions[header.SOPInstanceUID, None] = tuple(map(float, header.ImagePositionPatient))
    return positions
