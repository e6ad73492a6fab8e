"""Kinds of result that are made only where a destination asks for them: the same scores, the same places."""

import io
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.read import read_folder
from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.objects import SOP_CLASSES, ResultContext, ResultKind
from anomalyd.pipeline.results.score_map import STEPS_PER_UNIT
from anomalyd.pipeline.selection import choose
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.pipeline.terms import DEFAULT_KINDS
from findings import context_of, only
from phantoms import PhantomWriter

OPTIONS = tuple(kind for kind in ResultKind if kind not in DEFAULT_KINDS)
MADE_ONCE_ASKED = (ResultKind.SCORE_MAP, ResultKind.PARAMETRIC_MAP, ResultKind.LABELMAP)
COARSE = (9.0, 4.0, 4.0)
SERIES = {
    "classic, a slice missing": PhantomWriter(spacing_mm=(5.0, 4.0, 4.0), order="shuffled", missing=(9,)),
    "enhanced": PhantomWriter(spacing_mm=COARSE, enhanced=True, order="reversed", plane="coronal"),
}


@pytest.fixture(params=list(SERIES.values()), ids=list(SERIES))
def context(request: pytest.FixtureRequest, tmp_path: Path) -> ResultContext:
    writer: PhantomWriter = request.param
    return context_of(writer.write(tmp_path / "series"))


def opened(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))


def references(dataset: Dataset) -> list[tuple[str, int | None, tuple[float, ...]]]:
    """Image or frame that each frame names, with its own place."""
    named = []
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        place = tuple(map(float, groups.PlanePositionSequence[0].ImagePositionPatient))
        named.append((source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber"), place))
    return named


def expected_references(context: ResultContext) -> list[tuple[str, int | None, tuple[float, ...]]]:
    grid = context.volume.grid
    return [
        (source.instance_uid, source.frame, tuple(map(float, grid.to_lps(np.array([k, 0, 0])))))
        for k, source in enumerate(context.volume.sources)
        if source is not None
    ]


def assert_same_places(
    found: list[tuple[str, int | None, tuple[float, ...]]], context: ResultContext, *, some: bool = False
) -> None:
    expected = {(uid, frame): place for uid, frame, place in expected_references(context)}
    assert some or len(found) == len(expected)
    for uid, frame, place in found:
        assert place == pytest.approx(expected[uid, frame], abs=1e-4)


def test_the_parametric_map_holds_the_very_scores(context: ResultContext) -> None:
    (made,) = build_results(context, {ResultKind.PARAMETRIC_MAP})
    dataset = opened(made.data)
    slices: dict[tuple[str, int | None], int] = {
        (one.instance_uid, one.frame): k for k, one in enumerate(context.volume.sources) if one is not None
    }
    order = [slices[uid, frame] for uid, frame, _ in references(dataset)]
    assert sorted(order) == sorted(slices.values())
    scores = np.frombuffer(dataset.FloatPixelData, dtype="<f4").reshape(-1, dataset.Rows, dataset.Columns)
    assert np.array_equal(scores, context.finding.score_map[order])
    assert_same_places(references(dataset), context)
    (mapping,) = dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1.0, 0.0)
    assert "RESEARCH USE ONLY" in dataset.ContentDescription
    assert dataset.SeriesDescription == "anomalyd PARAMETRIC MAP (research)"


def test_the_label_map_holds_the_lesions_under_the_tracking_uids_of_the_seg(context: ResultContext) -> None:
    results = build_results(context, {ResultKind.LABELMAP, ResultKind.SEG})
    made = only(results, ResultKind.LABELMAP)
    segmentation = highdicom.seg.segread(io.BytesIO(made.data))
    volume = segmentation.get_volume(combine_segments=True)
    inside = np.argwhere(volume.array)
    points = volume.map_indices_to_reference(inside)
    slices, rows, columns = np.rint(context.finding.grid.to_index(points)).astype(int).T
    labels = np.zeros_like(context.finding.labels)
    labels[slices, rows, columns] = volume.array[tuple(inside.T)]
    assert np.array_equal(labels, context.finding.labels)
    assert_same_places(references(opened(made.data)), context, some=True)
    tracked = {
        segment.SegmentNumber: segment.TrackingUID for segment in opened(made.data).SegmentSequence[1:]
    }  # the first is the background
    binary = opened(only(results, ResultKind.SEG).data)
    assert tracked == {segment.SegmentNumber: segment.TrackingUID for segment in binary.SegmentSequence}
    assert made.series_uid != binary.SeriesInstanceUID


def test_the_score_map_is_grey_images_of_the_scores_in_steps(context: ResultContext) -> None:
    results = build_results(context, {ResultKind.SCORE_MAP})
    found = []
    for result, (uid, frame, _) in zip(results, expected_references(context), strict=True):
        dataset = opened(result.data)
        (source,) = dataset.SourceImageSequence
        assert (source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber")) == (uid, frame)
        found.append((uid, frame, tuple(map(float, dataset.ImagePositionPatient))))
        k = next(
            i for i, one in enumerate(context.volume.sources) if one and (one.instance_uid, one.frame) == (uid, frame)
        )
        steps = dataset.pixel_array.astype(np.float64) / STEPS_PER_UNIT
        assert np.abs(steps - context.finding.score_map[k]).max() <= 0.5 / STEPS_PER_UNIT + 1e-6
        assert "RESEARCH USE ONLY" in dataset.ImageComments
    assert_same_places(found, context)


def test_a_score_map_that_comes_back_to_the_daemon_is_not_analysed(context: ResultContext, tmp_path: Path) -> None:
    """A PACS rule that routes MR images here would else make results of results."""
    (tmp_path / "back").mkdir()
    for result in build_results(context, {ResultKind.SCORE_MAP}):
        (tmp_path / "back" / f"{result.instance_number}.dcm").write_bytes(result.data)
    ((header, _),) = read_folder(tmp_path / "back")[0]
    answer = choose(header, PipelineSettings(), frozenset(Contrast))
    assert answer.volume is None
    assert answer.reason is not None


@pytest.mark.parametrize("kind", MADE_ONCE_ASKED)
def test_an_option_has_a_series_of_its_own_and_the_same_bytes_each_time(tmp_path: Path, kind: ResultKind) -> None:
    context = context_of(PhantomWriter(spacing_mm=COARSE).write(tmp_path / "series"))
    assert kind in OPTIONS
    first, again = build_results(context, {kind}), build_results(context, {kind})
    assert [one.data for one in first] == [one.data for one in again]
    numbers = {opened(one.data).SeriesNumber for one in (*build_results(context), *first)}
    assert len(numbers) == len(set(DEFAULT_KINDS) - {ResultKind.NOT_ANALYSED}) + 1
    for one in first:
        dataset = opened(one.data)
        assert (dataset.SOPClassUID, dataset.SOPInstanceUID) == (SOP_CLASSES[kind], one.sop_instance_uid)
        assert dataset.SeriesInstanceUID == one.series_uid
        assert dataset.SeriesDescription.endswith("(research)")
