"""Every kind of result, of every source that we have or can make: nothing that the source itself is free of.

Real series that selection refuses are used all the same, each volume in them: their headers are what scanners send.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from anomalyd.errors import Ineligible
from anomalyd.ids import Digest, InstanceUID
from anomalyd.pipeline.candidates import Candidate, candidates_of, planes_of, stacks_of
from anomalyd.pipeline.completeness import stack_of
from anomalyd.pipeline.finding import Contrast, Sign
from anomalyd.pipeline.geometry import index_to_lps
from anomalyd.pipeline.part10 import open_part10, read_header
from anomalyd.pipeline.read import read_folder, read_volume
from anomalyd.pipeline.results.build import BUILDERS, build_results
from anomalyd.pipeline.results.notice import build_notice
from anomalyd.pipeline.results.objects import (
    NoticeContext,
    Rejected,
    RejectionContext,
    ResultContext,
    ResultKind,
    ResultObject,
)
from anomalyd.pipeline.results.rejection_note import build_rejection_note
from anomalyd.pipeline.selection import VolumeChoice
from anomalyd.pipeline.series import SeriesHeader
from anomalyd.pipeline.volume import Grid, SliceSource
from conftest import RequirePeer
from findings import JOB_TIME, Ball, ReadSeries, context_of, finding_of
from phantoms import PhantomWriter
from validity import assert_valid

pytestmark = pytest.mark.peer

PLAIN = PhantomWriter(spacing_mm=(8.0, 4.0, 3.0))
CODE = pydicom.Dataset()
CODE.CodeValue, CODE.CodingSchemeDesignator, CODE.CodeMeaning = "1", "99TEST", "MR head"
MADE: Mapping[str, PhantomWriter] = {
    "sagittal, big endian": replace(PLAIN, plane="sagittal", transfer_syntax=ExplicitVRBigEndian),
    "coronal, deflated": replace(PLAIN, plane="coronal", transfer_syntax=DeflatedExplicitVRLittleEndian),
    "double oblique, JPEG-LS": replace(PLAIN, plane="oblique", transfer_syntax=JPEGLSLossless),
    "reversed, JPEG 2000": replace(PLAIN, order="reversed", transfer_syntax=JPEG2000Lossless),
    "odd, RLE": replace(PLAIN, shape=(24, 59, 67), transfer_syntax=RLELossless),
    "T2w, implicit": replace(PLAIN, contrast=Contrast.T2W, transfer_syntax=ImplicitVRLittleEndian),
    "flipped FLAIR": replace(PLAIN, contrast=Contrast.FLAIR, flips=("rows", "columns")),
    "oblique Enhanced": replace(PLAIN, plane="oblique", enhanced=True, order="shuffled", groups_per_frame=True),
    "Enhanced, JPEG-LS": replace(PLAIN, plane="coronal", enhanced=True, transfer_syntax=JPEGLSLossless),
    "Korean": replace(
        PLAIN, character_set=("", "ISO 2022 IR 149"), attributes={"PatientName": "Hong^Gildong=洪^吉洞=홍^길동"}
    ),
    "Chinese": replace(PLAIN, character_set=("GB18030",), attributes={"PatientName": "Wang^XiaoDong=王^小东="}),
    "Greek": replace(PLAIN, character_set=("ISO_IR 192",), attributes={"PatientName": "Παπαδόπουλος^Δημήτρης"}),
    "much of the study stated": replace(
        PLAIN,
        attributes={
            "ProcedureCodeSequence": [CODE],
            "StudyDescription": "Head",
            "PregnancyStatus": 4,
            "Allergies": "none",
            "AdmittingDiagnosesDescription": "headache",
            "PatientIdentityRemoved": "NO",
            "InstitutionName": "Made",
        },
    ),
    "little stated": replace(
        PLAIN,
        attributes=dict.fromkeys(
            ("BodyPartExamined", "PatientPosition", "StudyDescription", "PatientAge", "SeriesNumber", "ContentTime")
        ),
    ),
}
REAL: Mapping[str, int] = {
    "ge-fieldmap-b0": 2,
    "philips-t1-mprage-3d": 1,
    "philips-t1-tse-phantom-enhanced": 1,
    "siemens-prisma-flair-axial": 1,
    "siemens-trio-t1-memprage": 1,
    "siemens-trio-t2-tse-axial": 1,
    "siemens-xa30-adc-enhanced": 1,
    "siemens-xa30-fieldmap-phase-enhanced": 1,
    "siemens-xa30-t1-enhanced": 1,
}
"""Volumes in each that a result could refer to: with a frame of reference and more than one slice."""


@pytest.mark.parametrize("name", MADE)
def test_results_of_made_series(name: str, tmp_path: Path, requires_peer: RequirePeer) -> None:
    series = MADE[name].write(tmp_path / "series")
    context = context_of(series)
    results = build_results(context, tuple(BUILDERS))
    assert {one.kind for one in results} == set(BUILDERS)
    assert_valid(series.files, (*results, *said_of(context, results)), tmp_path / "results", requires_peer)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_results_of_each_volume_in_each_real_series(
    name: str, shared_data: Path, tmp_path: Path, requires_peer: RequirePeer
) -> None:
    seen = 0
    for series, files in volumes(shared_data / "dicom" / name):
        context = with_balls(series, two_balls(series))
        results = build_results(context, tuple(BUILDERS))
        assert {one.kind for one in results} == set(BUILDERS)
        sources = [files[uid] for uid, _ in series.choice.instances]
        assert_valid(sources, (*results, *said_of(context, results)), tmp_path / str(seen), requires_peer)
        assert_frames_named(results, sources)
        seen += 1
    assert seen == REAL[name]


def test_the_others_state_no_frame_of_reference_or_have_one_slice(shared_data: Path) -> None:
    """No result can be placed there: refused in words, or nothing to choose."""
    others = [path for path in (shared_data / "dicom").iterdir() if path.is_dir() and path.name not in REAL]
    assert len(others) == 10
    for folder in others:
        for series, _ in volumes(folder):
            with pytest.raises(Ineligible, match="FrameOfReferenceUID"):
                build_results(with_balls(series, ()))


@pytest.mark.parametrize("reason", ["a localizer: series or protocol name says scout", "no bundle for this contrast"])
def test_a_notice_of_each_real_series(
    reason: str, shared_data: Path, tmp_path: Path, requires_peer: RequirePeer
) -> None:
    """Also of those that no other result can be of."""
    told = 0
    for folder in sorted(path for path in (shared_data / "dicom").iterdir() if path.is_dir()):
        for number, (header, files) in enumerate(read_folder(folder)[0]):
            sources = [files[instance.instance_uid] for instance in header.instances]
            headers = [read_header(open_part10(path))[0] for path in sources]
            notice = build_notice(NoticeContext(headers, None, reason, JOB_TIME, Digest("a" * 64), Digest("b" * 64)))
            lacking = [name for name in ("PatientSex", "ReferringPhysicianName") if name not in headers[0]]
            assert_valid(sources, [notice], tmp_path / f"{folder.name}-{number}", requires_peer, *lacking)
            told += 1
    assert told >= 19


def said_of(context: ResultContext, results: Sequence[ResultObject]) -> Iterator[ResultObject]:
    """What may be told of the same series: that it was not judged, not chosen, that its results are withdrawn."""
    same = (JOB_TIME, context.instance_set, context.settings)
    for model in (context.model, None):
        yield build_notice(NoticeContext(context.headers, model, "a reason", *same))
    gone = [Rejected(one.sop_class_uid, one.sop_instance_uid, one.series_uid) for one in results]
    yield build_rejection_note(RejectionContext(context.headers[0], gone, context.model, *same))


def volumes(folder: Path) -> Iterator[tuple[ReadSeries, dict[InstanceUID, Path]]]:
    """Each volume of a folder that is a stack of slices, whatever it shows."""
    for header, files in read_folder(folder)[0]:
        for stack in stacks_of(planes_of(header)[0]):
            for candidate in candidates_of(stack):
                if candidate.places > 1 and not candidate.has_shared_places:
                    choice = _choice(header, candidate)
                    volume = read_volume(choice, lambda uid, files=files: files[uid].read_bytes())  # type: ignore[misc]
                    headers = tuple(read_header(open_part10(files[uid]))[0] for uid, _ in choice.instances)
                    yield ReadSeries(choice, volume, headers, ()), files


def _choice(header: SeriesHeader, candidate: Candidate) -> VolumeChoice:
    stack, first = stack_of(candidate), candidate.first
    slots: list[SliceSource | None] = [None] * stack.count
    for plane, slot in zip(candidate.planes, stack.slots, strict=True):
        slots[int(slot)] = SliceSource(plane.instance.instance_uid, plane.frame.number)
    affine = index_to_lps(
        first.frame.orientation or (), first.frame.pixel_spacing or (1.0, 1.0), candidate.positions_lps, stack
    )
    shape = (stack.count, first.instance.pixels.rows, first.instance.pixels.columns)
    return VolumeChoice(header.study_uid, header.series_uid, Grid(shape, affine), tuple(slots))


def two_balls(series: ReadSeries) -> tuple[Ball, Ball]:
    x, y, z = (float(value) for value in series.volume.grid.to_lps(np.array(series.volume.grid.shape) / 2))
    return ((x - 20, y, z), 12.0, Sign.HYPO), ((x + 15, y, z), 15.0, Sign.HYPER)


def with_balls(series: ReadSeries, balls: Sequence[Ball]) -> ResultContext:
    finding = finding_of(series.volume, balls)
    return ResultContext(series.headers, series.volume, finding, JOB_TIME, Digest("a" * 64), Digest("b" * 64))


def assert_frames_named(results: tuple[ResultObject, ...], sources: list[Path]) -> None:
    """Each heatmap and each frame of the SEG lies where the image or frame lies that it names."""
    places: dict[tuple[str, int | None], tuple[float, ...]] = {}
    for ds in (pydicom.dcmread(path, stop_before_pixels=True) for path in sources):
        if "PerFrameFunctionalGroupsSequence" in ds:
            for number, groups in enumerate(ds.PerFrameFunctionalGroupsSequence, start=1):
                places[ds.SOPInstanceUID, number] = _mm(groups.PlanePositionSequence[0].ImagePositionPatient)
        else:
            places[ds.SOPInstanceUID, None] = _mm(ds.ImagePositionPatient)
    named = 0
    for result in results:
        ds = pydicom.dcmread(io.BytesIO(result.data))
        planes = []
        if result.kind is ResultKind.HEATMAP:
            planes = [(ds.SourceImageSequence[0], ds.ImagePositionPatient)]
        if result.kind is ResultKind.SEG:
            planes = [
                (
                    groups.DerivationImageSequence[0].SourceImageSequence[0],
                    groups.PlanePositionSequence[0].ImagePositionPatient,
                )
                for groups in ds.PerFrameFunctionalGroupsSequence
            ]
        for reference, position in planes:
            place = places[reference.ReferencedSOPInstanceUID, reference.get("ReferencedFrameNumber")]
            assert _mm(position) == pytest.approx(place, abs=1e-6)
            named += 1
    assert named > len(sources)


def _mm(position: object) -> tuple[float, ...]:
    return tuple(float(value) for value in position)  # type: ignore[attr-defined]
