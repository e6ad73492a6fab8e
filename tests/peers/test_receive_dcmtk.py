"""storescu and echoscu of dcmtk send to a real gateway process: every coding, rejections, statuses."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from anomalyd.storage.segments import SegmentLog
from anomalyd.storage.verify import verify
from conftest import RequirePeer
from phantoms import PhantomWriter
from running import RunningDaemon

pytestmark = pytest.mark.peer
COARSE = (12.0, 3.0, 3.0)
LIMIT_S = 60.0


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path / "daemon", roles=("gateway",), daemon={"accept_from": ["STORESCU"]}) as daemon:
        yield daemon


def dcmtk(
    program: str, gateway: RunningDaemon, *arguments: str, called: str = "ANOMALYD"
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [program, "-aet", "STORESCU", "-aec", called, *arguments[:-1], "127.0.0.1", str(gateway.port), *arguments[-1:]],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def stored(gateway: RunningDaemon) -> dict[str, bytes]:
    """Part 10 files by SOP Instance UID; the store is verified on the way."""
    gateway.stop()
    store = gateway.open_store()
    verdict = verify(store)
    assert verdict.is_whole, verdict.problems
    with store.read() as connection:
        rows = connection.exec_driver_sql('SELECT instance_uid, segment, "offset", length FROM instance').fetchall()
    store.close()
    return {uid: SegmentLog(gateway.store_root).read(*place) for uid, *place in rows}


# Not big endian: storescu proposes it beside little endian in one context, and we prefer that (unit tests have it).
CODINGS = {
    "implicit little endian": (ImplicitVRLittleEndian, "-xi"),
    "explicit little endian": (ExplicitVRLittleEndian, "-xe"),
    "deflated": (DeflatedExplicitVRLittleEndian, "-xd"),
    "JPEG lossless": (JPEGLosslessSV1, "-xs"),
    "JPEG-LS lossless": (JPEGLSLossless, "-xt"),
    "JPEG 2000 lossless": (JPEG2000Lossless, "-xv"),
    "RLE": (RLELossless, "-xr"),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_storescu_sends_in_every_coding(
    gateway: RunningDaemon, requires_peer: RequirePeer, tmp_path: Path, coding: str
) -> None:
    syntax, option = CODINGS[coding]
    if syntax == JPEGLosslessSV1:
        requires_peer("dcmcjpeg")
    series = PhantomWriter(spacing_mm=COARSE, transfer_syntax=syntax).write(tmp_path / "series")
    run = dcmtk(requires_peer("storescu"), gateway, option, "+sd", str(series.folder))
    assert run.returncode == 0, run.stderr
    received = stored(gateway)
    assert len(received) == len(series.files)
    sent = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, series.files)}
    for uid, part10 in received.items():
        file = tmp_path / "received.dcm"
        file.write_bytes(part10)
        dataset = pydicom.dcmread(file)
        assert dataset.file_meta.TransferSyntaxUID == syntax
        assert dataset.file_meta.SourceApplicationEntityTitle == "STORESCU"
        assert dataset.PatientName == sent[uid].PatientName
        assert (dataset.pixel_array == sent[uid].pixel_array).all()
        dump = subprocess.run([requires_peer("dcmdump"), str(file)], capture_output=True, text=True, check=True)
        assert uid in dump.stdout


def test_storescu_sends_an_enhanced_object(gateway: RunningDaemon, requires_peer: RequirePeer, tmp_path: Path) -> None:
    series = PhantomWriter(spacing_mm=COARSE, enhanced=True).write(tmp_path / "series")
    run = dcmtk(requires_peer("storescu"), gateway, "-R", "+sd", str(series.folder))
    assert run.returncode == 0, run.stderr
    assert len(stored(gateway)) == 1


def test_storescu_may_send_twice(gateway: RunningDaemon, requires_peer: RequirePeer, tmp_path: Path) -> None:
    series = PhantomWriter(spacing_mm=COARSE).write(tmp_path / "series")
    for _ in range(2):
        run = dcmtk(requires_peer("storescu"), gateway, "-R", "+sd", str(series.folder))
        assert run.returncode == 0, run.stderr
    assert len(stored(gateway)) == len(series.files)


def test_echoscu_is_answered(gateway: RunningDaemon, requires_peer: RequirePeer) -> None:
    assert dcmtk(requires_peer("echoscu"), gateway, "-v", "--repeat", "3", "-d").returncode == 0


def test_another_called_title_is_rejected_in_words(gateway: RunningDaemon, requires_peer: RequirePeer) -> None:
    run = dcmtk(requires_peer("echoscu"), gateway, "-v", "-d", called="NOBODY")
    assert run.returncode != 0
    assert "Called AE Title Not Recognized" in run.stdout + run.stderr


def test_an_object_without_study_fails_at_storescu(
    gateway: RunningDaemon, requires_peer: RequirePeer, tmp_path: Path
) -> None:
    series = PhantomWriter(spacing_mm=COARSE).write(tmp_path / "series")
    broken = pydicom.dcmread(series.files[0])
    del broken.StudyInstanceUID
    broken.save_as(series.files[0])
    run = dcmtk(requires_peer("storescu"), gateway, "-v", "-R", str(series.files[0]))
    assert run.returncode == 192, run.stderr  # dcmtk: C000, cannot understand
    assert stored(gateway) == {}


def test_a_secondary_capture_among_the_images_does_not_stop_them(tmp_path: Path, requires_peer: RequirePeer) -> None:
    series = PhantomWriter(spacing_mm=COARSE).write(tmp_path / "series")
    capture = pydicom.dcmread(series.files[0])
    capture.SOPClassUID = capture.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    capture.SOPInstanceUID = capture.file_meta.MediaStorageSOPInstanceUID = UID("1.2.826.0.1.99")
    capture.save_as(series.folder / "0000-capture.dcm")
    program = requires_peer("storescu")
    with RunningDaemon(tmp_path / "status", roles=("gateway",), daemon={"unwanted_sop_classes": "status"}) as gateway:
        # -nh: a failed object does not halt the rest; the exit code says nothing then (GATEWAY 6)
        run = dcmtk(program, gateway, "-v", "-nh", "-R", "+sd", str(series.folder))
        assert "0x0122" in run.stdout + run.stderr or "SOPClassNotSupported" in run.stdout + run.stderr
        assert len(stored(gateway)) == len(series.files)
