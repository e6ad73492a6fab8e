"""Results to the PACS of others: Orthanc and dcmtk's storescp take them, keep them once, and hold them as sent."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

from anomalyd.daemon.dispatcher.delivery import Outcome, Parcel, Verdict, send
from anomalyd.daemon.dispatcher.outbox import Courier
from anomalyd.daemon.probe import probe
from anomalyd.daemon.settings import DaemonSettings, Destination
from anomalyd.ids import AETitle
from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.rejection_note import build_rejection_note
from anomalyd.pipeline.terms import ResultKind
from anomalyd.storage import deliveries, queue
from anomalyd.storage.engine import Store
from anomalyd.storage.objects import read_result
from anomalyd.storage.tables import DeliveryState
from conftest import RequirePeer
from findings import context_of, rejection_context_of
from pacs import data_set_of
from phantoms import PhantomWriter
from rows import add_finished_job
from running_orthanc import Orthanc, running_orthanc

pytestmark = pytest.mark.peer
LIMIT_S = 40.0
HEATMAPS = 20
WaitUntil = Callable[..., None]


def destination(port: int, ae_title: str) -> Destination:
    values = {"name": "pacs", "ae_title": ae_title, "host": "127.0.0.1", "port": port, "acse_timeout": 10}
    return Destination.model_validate(values)


@contextmanager
def courier(store: Store, to: Destination) -> Iterator[Courier]:
    running = Courier(store, to, DaemonSettings(destinations=(to,)))
    running.start()
    try:
        yield running
    finally:
        running.stop()
        running.join()


def states(store: Store) -> set[DeliveryState]:
    return {row.state for row in deliveries.deliveries(store)}


@contextmanager
def process(command: list[str], out: Path, is_up: Callable[[], bool], wait_until: WaitUntil) -> Iterator[None]:
    with out.open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(is_up, LIMIT_S, f"{command[0]} answers")
        yield
    finally:
        child.terminate()
        child.wait(LIMIT_S)


@pytest.fixture
def orthanc(tmp_path: Path, requires_peer: RequirePeer) -> Iterator[Orthanc]:
    with running_orthanc(requires_peer("Orthanc"), tmp_path / "orthanc") as peer:
        yield peer


def test_orthanc_gets_every_result_once_also_when_sent_again(
    orthanc: Orthanc, store: Store, wait_until: WaitUntil
) -> None:
    made = add_finished_job(store, heatmaps=HEATMAPS)
    with courier(store, destination(orthanc.dicom, "ORTHANC")) as running:
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)
        with store.write() as connection:  # what a crash between send and commit leaves
            connection.exec_driver_sql("UPDATE delivery SET state = 'due', next_at = created_at")
        running.kick()
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)
    held = [orthanc.rest(f"/instances/{name}/simplified-tags")["SOPInstanceUID"] for name in orthanc.rest("/instances")]
    assert sorted(held) == sorted(made.uids)


def test_orthanc_says_that_it_takes_rejection_notes_and_keeps_one(orthanc: Orthanc, tmp_path: Path) -> None:
    """It serves the rejected objects all the same: withdrawing works in a PACS with IOCM alone."""
    to = destination(orthanc.dicom, "ORTHANC").model_copy(update={"send": (ResultKind.REJECTION_NOTE,)})
    assert "it takes rejection_note (Key Object Selection Document Storage)" in {
        step.text for step in probe(to, AETitle("ANOMALYD"))
    }
    context = context_of(PhantomWriter(spacing_mm=(9.0, 4.0, 4.0)).write(tmp_path / "in"))
    note = build_rejection_note(rejection_context_of(context, build_results(context)))
    path = tmp_path / "note.dcm"
    path.write_bytes(note.data)
    parcel = Parcel(1, 0, note.sop_class_uid, note.sop_instance_uid, str(ExplicitVRLittleEndian), path)
    told: list[Outcome] = []
    send(
        [parcel], to, AETitle("ANOMALYD"), parallel=1, stop=threading.Event(),
        report=lambda _parcel, outcome: told.append(outcome),
    )  # fmt: skip
    assert [outcome.verdict for outcome in told] == [Verdict.SENT]
    (name,) = orthanc.rest("/instances")
    held = orthanc.rest(f"/instances/{name}/simplified-tags")
    assert (held["SOPInstanceUID"], held["Modality"]) == (note.sop_instance_uid, "KO")


def test_storescp_holds_what_was_made_byte_for_byte(
    tmp_path: Path, requires_peer: RequirePeer, free_port: int, store: Store, wait_until: WaitUntil
) -> None:
    folder = tmp_path / "held"
    folder.mkdir()
    made = add_finished_job(store, heatmaps=HEATMAPS)
    command = [requires_peer("storescp"), "+xe", "-aet", "STORESCP", "--fork", "-od", str(folder), str(free_port)]
    with (
        process(command, tmp_path / "out", lambda: _listens(free_port), wait_until),
        courier(store, destination(free_port, "STORESCP")),
    ):
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)
    held = {dcmread(path).SOPInstanceUID: path for path in folder.iterdir()}
    assert set(held) == set(made.uids)
    for row in queue.results_of(store, made.job.id):
        sent = data_set_of(read_result(store, row.path, row.sha256))
        assert data_set_of(held[row.sop_instance_uid].read_bytes()) == sent


def test_storescp_of_implicit_vr_alone_gets_the_same_pixels(
    tmp_path: Path, requires_peer: RequirePeer, free_port: int, store: Store, wait_until: WaitUntil
) -> None:
    folder = tmp_path / "held"
    folder.mkdir()
    made = add_finished_job(store, heatmaps=3)
    command = [requires_peer("storescp"), "+xi", "-aet", "STORESCP", "-od", str(folder), str(free_port)]
    with (
        process(command, tmp_path / "out", lambda: _listens(free_port), wait_until),
        courier(store, destination(free_port, "STORESCP")),
    ):
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)
    held = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, folder.iterdir())}
    assert set(held) == set(made.uids)
    assert all(dataset.file_meta.TransferSyntaxUID.is_implicit_VR for dataset in held.values())
    assert all(dataset.PixelData == b"\x01" * 256 for dataset in held.values())


def test_a_storescp_that_refuses_the_association_is_a_refusal_in_words(
    tmp_path: Path, requires_peer: RequirePeer, free_port: int, store: Store, wait_until: WaitUntil
) -> None:
    add_finished_job(store, heatmaps=1, seg=False)
    command = [requires_peer("storescp"), "--refuse", str(free_port)]
    with (
        process(command, tmp_path / "out", lambda: _listens(free_port), wait_until),
        courier(store, destination(free_port, "STORESCP")),
    ):
        wait_until(lambda: states(store) == {DeliveryState.REFUSED}, LIMIT_S)
    assert "rejects the association" in (deliveries.deliveries(store)[0].error or "")


def test_a_storescp_that_aborts_is_tried_again_later(
    tmp_path: Path, requires_peer: RequirePeer, free_port: int, store: Store, wait_until: WaitUntil
) -> None:
    add_finished_job(store, heatmaps=2, seg=False)
    command = [requires_peer("storescp"), "--abort-after", "-od", str(tmp_path), str(free_port)]
    with (
        process(command, tmp_path / "out", lambda: _listens(free_port), wait_until),
        courier(store, destination(free_port, "STORESCP")),
    ):
        wait_until(lambda: all(row.attempts for row in deliveries.deliveries(store)), LIMIT_S)
    assert states(store) == {DeliveryState.DUE}


def _listens(port: int) -> bool:
    """Asked of the kernel, not of the peer: a connection that only looks would be an association to it."""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return any(int(line.split()[1].split(":")[1], 16) == port and line.split()[3] == "0A" for line in lines)
