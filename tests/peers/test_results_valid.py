"""Independent readers and validators take the result objects: dicom3tools, dcmqi, highdicom.

dciodvfy and dcentvfy may complain of what the source already has, and of nothing else (RESULTS 8).
"""

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest

from anomalyd.ids import Digest, InstanceUID, SeriesUID
from anomalyd.pipeline.finding import Sign
from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.notice import build_notice
from anomalyd.pipeline.results.objects import Earlier, ResultContext, ResultKind, ResultObject
from anomalyd.pipeline.results.rejection_note import build_rejection_note
from anomalyd.pipeline.terms import DEFAULT_KINDS
from conftest import RequirePeer
from dcmqi_reader import segment_points
from findings import (
    BRIGHT,
    DARK,
    JOB_TIME,
    ReadSeries,
    context_of,
    finding_of,
    notice_context_of,
    only,
    read_series,
    rejection_context_of,
)
from phantoms import PATIENT_MARKERS, PLANES, PhantomWriter, Plane
from validity import assert_valid

pytestmark = pytest.mark.peer

COARSE = (6.0, 3.0, 3.0)
WRITERS = {
    "axial": PhantomWriter(spacing_mm=COARSE),
    "oblique, a slice missing": PhantomWriter(spacing_mm=COARSE, plane="oblique", order="shuffled", missing=(9,)),
    "enhanced": PhantomWriter(spacing_mm=COARSE, enhanced=True, order="reversed"),
    "enhanced, per frame": PhantomWriter(spacing_mm=COARSE, enhanced=True, groups_per_frame=True, plane="sagittal"),
    "japanese": PhantomWriter(
        spacing_mm=COARSE,
        character_set=("", "ISO 2022 IR 87"),
        attributes={"PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"},
    ),
    "no character set": PhantomWriter(spacing_mm=COARSE, character_set=(), attributes=PATIENT_MARKERS),
    "invalid sex, in another time zone": PhantomWriter(
        spacing_mm=COARSE, attributes={"PatientSex": "U", "TimezoneOffsetFromUTC": "-0500"}
    ),
}
REAL = (
    "philips-t1-mprage-3d",
    "siemens-xa30-t1-enhanced",
    "siemens-prisma-flair-axial",
    "siemens-trio-t1-memprage",
    "siemens-trio-t2-tse-axial",
)


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_no_complaint_that_the_source_does_not_have(
    writer: PhantomWriter, tmp_path: Path, requires_peer: RequirePeer
) -> None:
    series = writer.write(tmp_path / "series")
    earlier = Earlier(SeriesUID("2.25.11"), InstanceUID("2.25.12"))
    results = build_results(replace(context_of(series), predecessor=earlier))
    results += (build_notice(notice_context_of(series, "the scan does not fit the template")),)
    results += (build_notice(notice_context_of(series, "a localizer", model=None)),)
    results += (build_rejection_note(rejection_context_of(context_of(series), results)),)
    assert {one.kind for one in results} == {*DEFAULT_KINDS, ResultKind.INELIGIBLE, ResultKind.REJECTION_NOTE}
    assert_valid(series.files, results, tmp_path / "results", requires_peer)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_no_complaint_on_real_series(name: str, shared_data: Path, tmp_path: Path, requires_peer: RequirePeer) -> None:
    context = real_context(read_series(shared_data / "dicom" / name))
    results = build_results(context)
    sources = sorted((shared_data / "dicom" / name).glob("*.dcm"))
    assert_valid(sources, results, tmp_path / "results", requires_peer)
    assert_dcmqi_reads(results, context, tmp_path)
    assert_highdicom_reads(results, context)


@pytest.mark.parametrize("is_enhanced", [False, True], ids=["classic", "enhanced"])
@pytest.mark.parametrize("plane", PLANES)
def test_dcmqi_and_highdicom_read_back_every_voxel(plane: Plane, is_enhanced: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    writer = PhantomWriter(
        plane=plane, enhanced=is_enhanced, order="shuffled", flips=("columns",), spacing_mm=(5, 2, 3)
    )
    context = context_of(writer.write(tmp_path / "series"))
    results = build_results(context)
    assert_dcmqi_reads(results, context, tmp_path)
    assert_highdicom_reads(results, context)


def assert_dcmqi_reads(results: Sequence[ResultObject], context: ResultContext, folder: Path) -> None:
    """segimage2itkimage gives the voxels that were put in, at their LPS points (ITK images are LPS)."""
    finding = context.finding
    found = segment_points(
        only(results, ResultKind.SEG).data, [lesion.number for lesion in finding.lesions], folder / "dcmqi"
    )
    for number, points in found.items():
        indices = finding.grid.to_index(points)
        assert np.abs(indices - np.rint(indices)).max() < 0.02
        slices, rows, columns = np.rint(indices).astype(int).T
        assert (finding.labels[slices, rows, columns] == number).all()
        assert len(points) == np.count_nonzero(finding.labels == number)


def assert_highdicom_reads(results: Sequence[ResultObject], context: ResultContext) -> None:
    segmentation = highdicom.seg.segread(BytesIO(only(results, ResultKind.SEG).data))
    labels = np.zeros_like(context.finding.labels)
    volume = segmentation.get_volume(combine_segments=True)
    inside = np.argwhere(volume.array)
    points = volume.map_indices_to_reference(inside)
    slices, rows, columns = np.rint(context.finding.grid.to_index(points)).astype(int).T
    labels[slices, rows, columns] = volume.array[tuple(inside.T)]
    assert np.array_equal(labels, context.finding.labels)


def real_context(read: ReadSeries) -> ResultContext:
    """Two balls near the middle of a real head."""
    middle = read.volume.grid.to_lps(np.array(read.volume.grid.shape) / 2)
    balls = [
        ((float(middle[0]) + x, float(middle[1]) + y, float(middle[2]) + z), radius_mm, sign)
        for (x, y, z), radius_mm, sign in ((DARK[0], 9.0, Sign.HYPO), (BRIGHT[0], 12.0, Sign.HYPER))
    ]
    finding = finding_of(read.volume, balls)
    digests = Digest("a" * 64), Digest("b" * 64)
    return ResultContext(read.headers, read.volume, finding, JOB_TIME, *digests, warnings=read.warnings)
