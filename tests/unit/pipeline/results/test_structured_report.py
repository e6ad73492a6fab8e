"""The structured report as highdicom reads it: numbers, places, references, and what it says when nothing was found."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.sr import Comprehensive3DSR, MeasurementReport, srread
from matplotlib.path import Path as Polygon
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from scipy import ndimage

from anomalyd.ids import Digest, InstanceUID, SeriesUID
from anomalyd.pipeline.finding import Laterality
from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.objects import Earlier, ResultContext, ResultKind
from anomalyd.pipeline.results.outline import worst_slices
from anomalyd.pipeline.results.own_codes import ANOMALY_SCORE, CENTROID, NOTHING_FOUND, SCAN_SCORE
from anomalyd.pipeline.results.version import version_line
from findings import context_of, only
from phantoms import PhantomWriter

COARSE = (9.0, 4.0, 4.0)


@pytest.fixture
def context(tmp_path: Path) -> ResultContext:
    made = context_of(PhantomWriter(spacing_mm=COARSE, order="shuffled", plane="oblique").write(tmp_path / "series"))
    first, second = made.finding.lesions
    lesions = (replace(first, laterality=Laterality.LEFT), replace(second, laterality=Laterality.BOTH))
    return replace(made, finding=replace(made.finding, lesions=lesions), warnings=("one slice | 1 lost",))


def read(context: ResultContext) -> tuple[Comprehensive3DSR, Dataset]:
    """The report as highdicom reads it; and the SEG, an empty data set where there is none."""
    results = build_results(context, {ResultKind.SEG, ResultKind.SR})
    report = srread(io.BytesIO(only(results, ResultKind.SR).data))
    assert isinstance(report, Comprehensive3DSR)
    return report, pydicom.dcmread(io.BytesIO(results[0].data)) if len(results) > 1 else Dataset()


def content_of(report: Comprehensive3DSR) -> MeasurementReport:
    content = report.content
    assert isinstance(content, MeasurementReport)
    return content


def test_each_lesion_has_its_numbers_its_side_and_its_segment(context: ResultContext) -> None:
    report, segmentation = read(context)
    groups = content_of(report).get_volumetric_roi_measurement_groups()
    assert len(groups) == len(context.finding.lesions) == 2
    sides = ["Left", "Bilateral"]
    for group, lesion, segment, side in zip(
        groups, context.finding.lesions, segmentation.SegmentSequence, sides, strict=True
    ):
        (volume,) = group.get_measurements(codes.SCT.Volume)
        assert volume.value == pytest.approx(lesion.volume_mm3)
        assert volume.unit == codes.UCUM.CubicMillimeter
        scores = {one.derivation: one.value for one in group.get_measurements(ANOMALY_SCORE)}
        assert scores == {
            codes.SCT.Mean: pytest.approx(lesion.mean_score),
            codes.SCT.Maximum: pytest.approx(lesion.max_score),
        }
        centre = [group.get_measurements(name)[0].value for name in CENTROID]
        assert centre == pytest.approx(lesion.centroid_lps_mm)
        assert (group.tracking_uid, group.tracking_identifier) == (segment.TrackingUID, segment.TrackingID)
        referred = group.referenced_segment
        assert referred is not None
        assert referred.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert referred.referenced_segment_numbers == [lesion.number]
        (site,) = group.finding_sites
        assert site.value == codes.SCT.Brain
        assert site.laterality is not None
        assert site.laterality.meaning == side


def test_the_centroid_is_a_point_in_the_frame_of_reference_of_the_source(context: ResultContext) -> None:
    report, _ = read(context)
    points = [
        item
        for group in content_of(report).get_volumetric_roi_measurement_groups()
        for item in group[0].ContentSequence
        if item.ValueType == "SCOORD3D"
    ]
    assert [tuple(point.GraphicData) for point in points] == [
        pytest.approx(lesion.centroid_lps_mm, abs=1e-4) for lesion in context.finding.lesions
    ]
    assert {point.ReferencedFrameOfReferenceUID for point in points} == {context.headers[0].FrameOfReferenceUID}


def test_a_lesion_whose_side_is_not_known_states_none(context: ResultContext) -> None:
    lesions = tuple(replace(lesion, laterality=None) for lesion in context.finding.lesions)
    report, _ = read(replace(context, finding=replace(context.finding, lesions=lesions)))
    for group in content_of(report).get_volumetric_roi_measurement_groups():
        assert group.finding_sites[0].laterality is None


@pytest.mark.parametrize("is_enhanced", [False, True], ids=["classic", "enhanced"])
def test_the_outline_lies_around_the_lesion_on_the_image_with_the_highest_score(
    tmp_path: Path,
    is_enhanced: bool,  # noqa: FBT001 - a parameter
) -> None:
    writer = PhantomWriter(spacing_mm=(4, 3, 2), enhanced=is_enhanced, order="shuffled", flips=("columns",))
    context = context_of(writer.write(tmp_path / "series"))
    report, _ = read(context)
    finding = context.finding
    places = {(source.instance_uid, source.frame): k for k, source in enumerate(context.volume.sources) if source}
    for group, lesion in zip(content_of(report).get_planar_roi_measurement_groups(), finding.lesions, strict=True):
        region = group.roi
        assert region is not None
        image = region.ContentSequence[0].ReferencedSOPSequence[0]
        k = places[image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber")]
        inside = finding.labels == lesion.number
        assert finding.score_map[k][inside[k]].max() == pytest.approx(lesion.max_score)
        outline = Polygon(np.reshape(region.GraphicData, (-1, 2)))
        rows, columns = np.indices(inside[k].shape)
        within = outline.contains_points(np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1))
        assert np.array_equal(within.reshape(inside[k].shape), inside[k])
        assert list(region.GraphicData[:2]) == list(region.GraphicData[-2:])


def test_the_outline_is_of_the_part_that_holds_the_peak_and_its_outer_edge(context: ResultContext) -> None:
    labels = np.zeros_like(context.finding.labels)
    scores = np.zeros_like(context.finding.score_map)
    ring = np.zeros(labels.shape[1:], dtype=np.bool_)
    ring[10:17, 10:17] = True
    ring[12:15, 12:15] = False
    labels[5][ring] = 1
    labels[5, 20:30, 20:30] = 1  # larger, in the same slice, with a lower score
    scores[5][labels[5] == 1] = 3.0
    scores[5, 10, 13] = 4.0
    finding = replace(context.finding, labels=labels, score_map=scores, lesions=context.finding.lesions[:1])
    (worst,) = worst_slices(finding)
    assert worst.index == 5
    rows, columns = np.indices(ring.shape)
    within = Polygon(worst.outline).contains_points(np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1))
    assert np.array_equal(within.reshape(ring.shape), ndimage.binary_fill_holes(ring))


def test_the_scan_has_its_score_rank_model_threshold_and_warnings(context: ResultContext) -> None:
    report, _ = read(context)
    finding = context.finding
    (group,) = content_of(report).get_image_measurement_groups()
    assert group.get_measurements(SCAN_SCORE)[0].value == pytest.approx(finding.score)
    (rank,) = group.get_measurements(codes.DCM.PercentileRankingOfMeasurement)
    assert (rank.value, rank.unit) == (finding.score_percentile, codes.UCUM.Percent)
    texts = [item.TextValue for item in group[0].ContentSequence if item.ValueType == "TEXT"]
    assert version_line(finding.model) in texts
    assert any(finding.model.digest in text for text in texts)
    assert any("RESEARCH USE ONLY" in text for text in texts)
    assert any(finding.threshold_text in text for text in texts)
    assert "Warning: one slice | 1 lost" in texts
    assert "Healthy reference: people of 19 to 52 years." in texts
    assert group.finding_type is None


def test_the_observer_is_the_installation_whatever_the_series(context: ResultContext) -> None:
    here = observer_of(context)
    assert observer_of(replace(context, instance_set=Digest("c" * 64))) == here
    assert observer_of(replace(context, device_serial="another")) != here


def observer_of(context: ResultContext) -> str:
    """Device Observer UID (PS3.16 TID 1004)."""
    report, _ = read(context)
    (uid,) = (one.UID for one in report.ContentSequence if one.ValueType == "UIDREF" and "Observer" in one.name.meaning)
    return str(uid)


def test_nothing_found_is_said_in_a_report_without_a_segment(context: ResultContext) -> None:
    nothing = replace(context.finding, lesions=(), labels=np.zeros_like(context.finding.labels))
    report, segmentation = read(replace(context, finding=nothing))
    assert not segmentation
    content = content_of(report)
    assert not content.get_volumetric_roi_measurement_groups()
    assert not content.get_planar_roi_measurement_groups()
    (group,) = content.get_image_measurement_groups()
    assert group.finding_type == NOTHING_FOUND
    comments = [item.TextValue for item in group[0].ContentSequence if item.ValueType == "TEXT"]
    assert any("no candidate above threshold" in text for text in comments)


def test_it_is_complete_preliminary_unverified_and_names_what_was_looked_at(context: ResultContext) -> None:
    report, segmentation = read(context)
    assert (report.Modality, report.SeriesDescription) == ("SR", "anomalyd SR (research)")
    assert report.SeriesNumber == segmentation.SeriesNumber + 2
    assert (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag) == (
        "COMPLETE", "PRELIMINARY", "UNVERIFIED",
    )  # fmt: skip
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    named = {
        series.SeriesInstanceUID: {one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence}
        for series in study.ReferencedSeriesSequence
    }
    assert named == {
        context.headers[0].SeriesInstanceUID: {header.SOPInstanceUID for header in context.headers},
        segmentation.SeriesInstanceUID: {segmentation.SOPInstanceUID},
    }


def test_it_names_the_report_that_it_takes_the_place_of(context: ResultContext) -> None:
    assert "PredecessorDocumentsSequence" not in read(context)[0]
    earlier = Earlier(SeriesUID("2.25.11"), InstanceUID("2.25.12"))
    report = read(replace(context, predecessor=earlier))[0]
    (study,) = report.PredecessorDocumentsSequence
    assert study.StudyInstanceUID == report.StudyInstanceUID
    (series,) = study.ReferencedSeriesSequence
    (document,) = series.ReferencedSOPSequence
    assert (series.SeriesInstanceUID, document.ReferencedSOPInstanceUID) == ("2.25.11", "2.25.12")
    assert document.ReferencedSOPClassUID == report.SOPClassUID
