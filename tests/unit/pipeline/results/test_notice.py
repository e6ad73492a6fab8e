"""The notice of a scan that was not analysed: why, in a series of its own; it tells nothing of the patient."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from anomalyd import __version__
from anomalyd.pipeline.results.notice import SIDE, build_notice, notice_picture
from anomalyd.pipeline.terms import ResultKind
from findings import notice_context_of
from phantoms import PATIENT_MARKERS, PhantomWriter

WHY = "registration similarity 0.2, at least 0.7 is needed"


@pytest.mark.parametrize("is_enhanced", [False, True], ids=["classic", "enhanced"])
def test_it_says_why_and_which_images(is_enhanced: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    series = PhantomWriter(spacing_mm=(6.0, 4.0, 4.0), enhanced=is_enhanced).write(tmp_path)
    made = build_notice(notice_context_of(series, WHY))
    assert made.data == build_notice(notice_context_of(series, WHY)).data
    notice = pydicom.dcmread(io.BytesIO(made.data))
    assert notice.SOPClassUID == SecondaryCaptureImageStorage
    assert (notice.SOPInstanceUID, notice.SeriesInstanceUID) == (made.sop_instance_uid, made.series_uid)
    assert notice.StudyInstanceUID == series.study_uid
    assert notice.SeriesInstanceUID != series.series_uid
    assert notice.ImageComments.startswith(f"RESEARCH USE ONLY. Not analysed: {WHY}.")
    assert (notice.BurnedInAnnotation, notice.SeriesNumber) == ("NO", 308)
    referenced = {one.ReferencedSOPInstanceUID for one in notice.ReferencedImageSequence}
    assert referenced == {pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in series.files}
    assert len(notice.ReferencedImageSequence) == len(referenced)


def test_a_series_that_was_not_chosen_has_one_without_a_bundle_and_without_a_geometry(tmp_path: Path) -> None:
    series = PhantomWriter(spacing_mm=(6.0, 4.0, 4.0)).write(tmp_path)
    context = notice_context_of(series, "one slice, at least 20 are needed", model=None)
    for header in context.headers:
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"):
            del header[keyword]
    made = build_notice(context)
    assert made.data == build_notice(replace(context, headers=context.headers[::-1])).data
    notice = pydicom.dcmread(io.BytesIO(made.data))
    assert (made.kind, notice.SeriesNumber) == (ResultKind.INELIGIBLE, 310)
    assert notice.ImageComments == (
        f"RESEARCH USE ONLY. Not analysed: one slice, at least 20 are needed. anomalyd {__version__}."
    )
    assert notice.SeriesInstanceUID != build_notice(notice_context_of(series, WHY)).series_uid
    assert len(notice.ReferencedImageSequence) == len(series.files)


def test_it_is_legible_and_the_same_for_every_patient(tmp_path: Path) -> None:
    writers = (
        PhantomWriter(spacing_mm=(6.0, 4.0, 4.0)),
        PhantomWriter(spacing_mm=(6.0, 4.0, 4.0), attributes=PATIENT_MARKERS),
    )
    pictures = []
    for number, writer in enumerate(writers):
        context = notice_context_of(writer.write(tmp_path / str(number)), WHY)
        pictures.append(notice_picture(3, context))
    assert np.array_equal(pictures[0], pictures[1])
    assert pictures[0].shape == (SIDE, SIDE, 3)
    assert not pictures[0][-1].any()  # nothing runs out of the page
    assert not pictures[0][:, -2:].any()
    assert np.count_nonzero(pictures[0].max(axis=2) > 160) > 3000  # pixels of text


def test_a_long_reason_makes_a_longer_page(tmp_path: Path) -> None:
    series = PhantomWriter(spacing_mm=(6.0, 4.0, 4.0)).write(tmp_path)
    notice = pydicom.dcmread(io.BytesIO(build_notice(notice_context_of(series, "out of the limits; " * 60)).data))
    assert notice.Rows > SIDE
    assert not notice.pixel_array[-1].any()
