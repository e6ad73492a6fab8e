"""The summary: the slices with the highest score on one picture; a series that tells nothing of the patient."""

import copy
import dataclasses
import io
from pathlib import Path

import numpy as np
import pydicom
import pytest

from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.header import read_source
from anomalyd.pipeline.results.objects import ResultContext, ResultKind
from anomalyd.pipeline.results.summary import APART_MM, SLICES, slices_of, summary_picture
from findings import BRIGHT, DARK, context_of, only
from phantoms import PATIENT_MARKERS, PLANES, PhantomWriter, Plane


def made(context: ResultContext) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(only(build_results(context, {ResultKind.SUMMARY}), ResultKind.SUMMARY).data))


@pytest.mark.parametrize("plane", PLANES)
def test_it_shows_the_slices_with_the_highest_score_and_names_them(plane: Plane, tmp_path: Path) -> None:
    context = context_of(PhantomWriter(plane=plane, spacing_mm=(3.0, 3.0, 3.0), order="shuffled").write(tmp_path))
    source = read_source(context.headers, context.volume)
    shown = slices_of(source, context.finding)
    peaks = context.finding.score_map.max(axis=(1, 2))
    assert int(np.argmax(peaks)) in shown
    assert shown == sorted(shown)
    assert len(shown) == SLICES
    assert np.diff(shown).min() * 3.0 >= APART_MM
    for lesion in context.finding.lesions:  # each is on some slice that is shown
        assert any((context.finding.labels[k] == lesion.number).any() for k in shown)
    by_index = {image.index: image.instance_uid for image in source.slices}
    references = made(context).SourceImageSequence
    assert [one.ReferencedSOPInstanceUID for one in references] == [by_index[k] for k in shown]
    assert {one.SpatialLocationsPreserved for one in references} == {"NO"}


def test_it_is_one_image_of_a_series_of_its_own_without_a_place_in_space(tmp_path: Path) -> None:
    context = context_of(PhantomWriter(spacing_mm=(6.0, 3.0, 3.0), attributes={"SeriesNumber": 4}).write(tmp_path))
    summary = made(context)
    assert (summary.SeriesNumber, summary.InstanceNumber) == (405, 1)
    assert summary.SeriesDescription == "anomalyd SUMMARY (research)"
    assert "RESEARCH USE ONLY" in summary.ImageComments
    assert summary.BurnedInAnnotation == "NO"
    assert not {"FrameOfReferenceUID", "ImagePositionPatient", "PositionReferenceIndicator"} & set(summary.dir())
    assert summary.pixel_array.shape == (summary.Rows, summary.Columns, 3)
    assert 500 < summary.Columns < 1400


def test_lesions_are_coloured_and_a_scan_without_any_has_a_summary_too(tmp_path: Path) -> None:
    series = PhantomWriter(spacing_mm=(6.0, 3.0, 3.0)).write(tmp_path)
    found, nothing = (context_of(series, balls) for balls in ((DARK, BRIGHT), ()))

    def coloured(context: ResultContext) -> int:
        picture = summary_picture(read_source(context.headers, context.volume), context)[130:, :-120].astype(int)
        return int((picture[..., 0] - picture[..., 2] > 60).sum())

    assert coloured(found) > 500
    assert coloured(nothing) == 0


def test_enhanced_frames_are_named(tmp_path: Path) -> None:
    context = context_of(PhantomWriter(spacing_mm=(6.0, 3.0, 3.0), enhanced=True).write(tmp_path))
    shown = slices_of(read_source(context.headers, context.volume), context.finding)
    assert [one.ReferencedFrameNumber for one in made(context).SourceImageSequence] == [k + 1 for k in shown]


def test_its_pixels_do_not_depend_on_the_patient(tmp_path: Path) -> None:
    context = context_of(PhantomWriter(spacing_mm=(6.0, 3.0, 3.0)).write(tmp_path))
    others = copy.deepcopy(list(context.headers))
    for other in others:
        for keyword, value in PATIENT_MARKERS.items():
            setattr(other, keyword, value)
    assert made(context).PixelData == made(dataclasses.replace(context, headers=others)).PixelData
