"""Independent readers and validators take the result objects: dicom3tools, dcmqi, highdicom.

dciodvfy and dcentvfy may complain of what the source already has, and of nothing else (RESULTS 8).
"""

import re
import subprocess
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest

from anomalyd.ids import Digest
from anomalyd.pipeline.finding import Sign
from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.objects import ResultContext, ResultKind, ResultObject
from anomalyd.pipeline.terms import DEFAULT_KINDS
from conftest import RequirePeer
from dcmqi_reader import segment_points
from findings import BRIGHT, DARK, JOB_TIME, ReadSeries, context_of, finding_of, only, read_series
from phantoms import PATIENT_MARKERS, PLANES, PhantomWriter, Plane

pytestmark = pytest.mark.peer

EXTENDED = (  # a Secondary Capture with the geometry of its slice is a Standard Extended SOP class (RESULTS 3)
    "Slice Thickness", "Spacing Between Slices", "Image Position (Patient)", "Image Orientation (Patient)",
    "Frame of Reference UID", "Position Reference Indicator", "this is a Standard Extended SOP Class",
    "Unrecognized defined term <99ANOMALYD>",  # there is no standard code for a score of ours (RESULTS 4)
)  # fmt: skip
BETWEEN = (
    "ProcedureCodeSequence",  # an empty sequence of Type 3 is an error in the source and dropped here (Philips)
    "Element=<AccessionNumber> IE",  # in each set with an SR: dcentvfy counts it to its series there (RESULTS 8)
)
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


def written(results: Sequence[ResultObject], folder: Path) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{one.kind}-{one.instance_number}.dcm" for one in results]
    for path, one in zip(paths, results, strict=True):
        path.write_bytes(one.data)
    return paths


def complaints(program: str, *paths: Path) -> set[str]:
    """Lines of stderr, without the files' names and without the line that names the kind of object."""
    run = subprocess.run([program, *paths], capture_output=True, text=True, errors="replace", check=False)
    lines = (re.sub(r"</\S+>", "FILE", line) for line in run.stderr.splitlines())
    return {line for line in lines if line.startswith(("Error", "Warning"))}


def assert_valid(sources: Sequence[Path], results: Sequence[ResultObject], folder: Path, peer: RequirePeer) -> None:
    dciodvfy, dcentvfy = peer("dciodvfy"), peer("dcentvfy")
    paths = written(results, folder)
    known = complaints(dciodvfy, sources[0])
    for path in some_of_each(results, paths):
        fresh = complaints(dciodvfy, path) - known
        assert not {line for line in fresh if not any(words in line for words in EXTENDED)}, path.name
    some = [*sources[::8], *some_of_each(results, paths, every=8)]  # it compares each with each
    between = complaints(dcentvfy, *some) - complaints(dcentvfy, *sources[::8])
    assert not {line for line in between if not any(words in line for words in BETWEEN)}


def some_of_each(results: Sequence[ResultObject], paths: Sequence[Path], every: int | None = None) -> list[Path]:
    """Of each kind the first and the last, or every n-th."""
    chosen: list[Path] = []
    for kind in dict.fromkeys(one.kind for one in results):
        of_kind = [path for path, one in zip(paths, results, strict=True) if one.kind is kind]
        chosen += of_kind[::every] if every else dict.fromkeys((of_kind[0], of_kind[-1]))
    return chosen


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_no_complaint_that_the_source_does_not_have(
    writer: PhantomWriter, tmp_path: Path, requires_peer: RequirePeer
) -> None:
    series = writer.write(tmp_path / "series")
    results = build_results(context_of(series))
    assert {one.kind for one in results} == set(DEFAULT_KINDS)
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
