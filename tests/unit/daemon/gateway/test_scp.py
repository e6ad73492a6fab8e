"""The door over real sockets: what is stored, refused, rejected; on pynetdicom's classes and on ours."""

import json
import shutil
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage, SecondaryCaptureImageStorage

from anomalyd.daemon.gateway.contexts import LOSSLESS, UNCOMPRESSED, WANTED
from anomalyd.storage.peek import peek
from anomalyd.storage.segments import SegmentLog
from doors import MakeDoor, OpenDoor
from images import MARKER, image, uid_of
from raw_scu import (
    ABORT,
    MR_CONTEXT,
    P_DATA,
    VERIFICATION,
    Ended,
    RawAssociation,
    Rejected,
    associate_request,
    comment_of,
    echo_message,
    element,
    pdu,
    pdv,
    status_of,
    store_command,
    store_message,
)
from waiting import wait_until

SUCCESS, NO_SPACE, MISMATCH, UNREADABLE, NOT_SUPPORTED = 0x0000, 0xA700, 0xA900, 0xC000, 0x0122
FAST_ONLY = pytest.mark.parametrize("is_fast", [True], ids=["fast"], indirect=True)
BOTH = ((VERIFICATION, ExplicitVRLittleEndian), *MR_CONTEXT)


def payloads(door: OpenDoor) -> list[bytes]:
    with door.store.read() as connection:
        rows = connection.exec_driver_sql('SELECT segment, "offset", length FROM instance ORDER BY id').fetchall()
    return [SegmentLog(door.store.root).read(*row) for row in rows]


# What is taken


@pytest.mark.parametrize("pdu_bytes", [128, 4096, 16384, 1 << 20])
def test_bytes_are_kept_as_received(door: OpenDoor, pdu_bytes: int) -> None:
    raw = image(pixels=bytes(range(256)) * 400)
    with RawAssociation(door.port) as scu:
        assert scu.ask(store_message(raw, uid_of(1), pdu_bytes=pdu_bytes)) == SUCCESS
        scu.release()
    [stored] = payloads(door)
    assert stored.endswith(raw)
    assert door.kinds() == ["received"]


@pytest.mark.parametrize("sop_class", sorted(WANTED))
@pytest.mark.parametrize("syntax", [*UNCOMPRESSED, *LOSSLESS])
def test_each_mr_class_is_taken_in_each_transfer_syntax(door: OpenDoor, sop_class: str, syntax: str) -> None:
    raw = image(syntax=syntax, SOPClassUID=sop_class)
    with RawAssociation(door.port, contexts=[(sop_class, syntax)]) as scu:
        assert scu.accepted == {1: 0}
        assert scu.store(raw, uid_of(1), sop_class=sop_class) == SUCCESS
    row = door.audit()[0]
    assert json.loads(row["detail"])["transfer_syntax"] == syntax
    assert payloads(door)[0].endswith(raw)


def test_echo_and_store_share_an_association(door: OpenDoor) -> None:
    with RawAssociation(door.port, contexts=BOTH) as scu:
        for number in range(3):
            assert scu.ask(echo_message()) == SUCCESS
            assert scu.store(image(number), uid_of(number), context_id=3) == SUCCESS
        scu.release()
    assert door.stored() == 3


def test_the_same_image_again_is_success_and_no_second_row(door: OpenDoor) -> None:
    with RawAssociation(door.port) as scu:
        assert [scu.store(image(), uid_of(1)) for _ in range(3)] == [SUCCESS] * 3
    assert door.stored() == 1
    assert door.kinds() == ["received", "duplicate", "duplicate"]


def test_other_content_under_the_same_uid_is_success_and_kept_beside(door: OpenDoor) -> None:
    with RawAssociation(door.port) as scu:
        assert scu.store(image(), uid_of(1)) == SUCCESS
        assert scu.store(image(pixels=b"\7\7"), uid_of(1)) == SUCCESS
    assert door.stored() == 2
    assert door.kinds() == ["received", "conflict", "alarm"]


def test_many_associations_at_once_lose_nothing(door: OpenDoor) -> None:
    def send(sender: int) -> None:
        with RawAssociation(door.port, calling=f"SCANNER{sender}") as scu:
            for number in range(20):
                uid = uid_of(100 * sender + number)
                raw = image(100 * sender + number, pixels=bytes([sender]) * 30_000)
                assert scu.store(raw, uid) == SUCCESS
            scu.release()

    with ThreadPoolExecutor(8) as senders:
        list(senders.map(send, range(1, 9)))
    assert door.stored() == 160
    assert len(payloads(door)) == 160, "every one is checked by its hash when it is read"
    wait_until(lambda: door.door.visitors() == 0, limit_s=10, what="all associations are gone")
    assert door.door.budget.used == 0


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_image_larger_than_the_memory_for_it_is_spilled_and_whole(make_door: MakeDoor, syntax: str) -> None:
    door = make_door(gateway={"bytes_in_flight": "10 MB"})
    raw = image(syntax=syntax, pixels=bytes(range(256)) * (80 << 10))  # 20 MB
    with RawAssociation(door.port, contexts=[(MRImageStorage, syntax)]) as scu:
        assert scu.store(raw, uid_of(1)) == SUCCESS
        assert scu.store(image(2, syntax=syntax), uid_of(2)) == SUCCESS
    assert payloads(door)[0].endswith(raw)
    wait_until(lambda: door.door.budget.used == 0, limit_s=10, what="the memory is given back")


# What is refused


REFUSED: dict[str, tuple[Callable[[], bytes], int]] = {
    "another SOP Instance UID than the command's": (lambda: image(2), MISMATCH),
    "another SOP class than the command's": (
        lambda: image(SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1"),
        MISMATCH,
    ),
    "no StudyInstanceUID": (lambda: image(StudyInstanceUID=None), UNREADABLE),
    "no SeriesInstanceUID": (lambda: image(SeriesInstanceUID=None), UNREADABLE),
    "no SOPInstanceUID": (lambda: image(SOPInstanceUID=None), UNREADABLE),
    "cut off in its header": (lambda: image()[:60], UNREADABLE),
    "noise": (lambda: bytes(range(256)) * 40, UNREADABLE),
    "another transfer syntax than negotiated": (lambda: image(syntax=ImplicitVRLittleEndian), UNREADABLE),
    "file meta information in front": (lambda: bytes(128) + b"DICM" + image(), UNREADABLE),
    "a study UID with a path in it": (lambda: image().replace(b"1.2.826.0.1.3\0", b"../../../etc/a"), UNREADABLE),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_data_set_is_refused_by_its_status_and_the_association_goes_on(door: OpenDoor, case: str) -> None:
    make, expected = REFUSED[case]
    with RawAssociation(door.port) as scu:
        scu.socket.sendall(store_message(make(), uid_of(1)))
        response = scu.response()
        assert status_of(response) == expected
        assert 0 < len(comment_of(response)) <= 64
        assert MARKER not in comment_of(response)
        assert scu.store(image(5), uid_of(5)) == SUCCESS
        scu.release()
    assert door.kinds() == ["rejected", "received"]
    row = door.audit()[0]
    assert json.loads(row["detail"])["status"] == f"0x{expected:04X}"
    assert row["calling_ae"] == "SCANNER"
    assert door.stored() == 1


@pytest.mark.parametrize(
    ("is_fast", "data"),
    [(True, b""), (True, None), (False, b"")],  # pynetdicom's own classes ignore a request without a data set
    ids=["fast, empty PDV", "fast, no data set", "stock, empty PDV"],
    indirect=["is_fast"],
)
def test_an_empty_object_is_refused(door: OpenDoor, data: bytes | None) -> None:
    with RawAssociation(door.port) as scu:
        if data is None:
            message = pdu(P_DATA, pdv(store_command(uid_of(1), data=0x0101), 1, 3))
        else:
            message = pdu(P_DATA, pdv(store_command(uid_of(1)), 1, 3)) + pdu(P_DATA, pdv(data, 1, 2))
        assert scu.ask(message) == UNREADABLE
        assert scu.store(image(5), uid_of(5)) == SUCCESS
    assert door.kinds() == ["rejected", "received"]


@FAST_ONLY  # pynetdicom's own classes abort, or do not answer
@pytest.mark.parametrize("bad", ["../../etc/passwd", "1." + "2" * 70, "", "MARKER^Patient", "1.2.3\0.4"])
def test_a_bad_uid_in_the_command_is_refused_and_not_repeated(door: OpenDoor, bad: str) -> None:
    with RawAssociation(door.port) as scu:
        assert scu.store(image(1), bad) == UNREADABLE
        assert scu.store(image(5), uid_of(5)) == SUCCESS
    row = door.audit()[0]
    assert (row["kind"], row["instance_uid"]) == ("rejected", None)
    assert not bad or bad not in repr(row)


def test_an_object_above_max_instance_bytes_is_thrown_away_while_it_arrives(make_door: MakeDoor) -> None:
    door = make_door(gateway={"max_instance_bytes": "1 MB"})
    with RawAssociation(door.port) as scu:
        scu.socket.sendall(store_message(image(pixels=bytes(3_000_000)), uid_of(1)))
        response = scu.response()
        assert (status_of(response), comment_of(response)) == (NO_SPACE, "larger than max_instance_bytes")
        assert scu.store(image(2), uid_of(2)) == SUCCESS
    assert door.kinds() == ["rejected", "received"]
    wait_until(lambda: door.door.budget.used == 0, limit_s=10, what="the memory is given back")


def test_beyond_the_budget_of_bytes_in_flight_nothing_is_kept(make_door: MakeDoor, is_fast: bool) -> None:  # noqa: FBT001 - a fixture's value
    door = make_door(gateway={"bytes_in_flight": "2 MB"})
    hungry = store_message(image(1, pixels=bytes(1_500_000)), uid_of(1))
    with RawAssociation(door.port) as first, RawAssociation(door.port) as second:
        if is_fast:
            first.socket.sendall(hungry[:-1000])
            wait_until(lambda: door.door.budget.used > 1_000_000, limit_s=10, what="the first image is nearly there")
            assert second.store(image(2, pixels=bytes(1_500_000)), uid_of(2)) == NO_SPACE
            first.socket.sendall(hungry[-1000:])
            assert status_of(first.response()) == SUCCESS
        else:
            assert first.store(image(2, pixels=bytes(2_500_000)), uid_of(2)) == NO_SPACE
        assert second.store(image(3), uid_of(3)) == SUCCESS
    wait_until(lambda: door.door.budget.used == 0, limit_s=10, what="the memory is given back")


def test_an_image_that_breaks_off_leaves_nothing(door: OpenDoor) -> None:
    message = store_message(image(pixels=bytes(500_000)), uid_of(1), pdu_bytes=16384)
    for cut in (3, 100, 1000, len(message) - 1):
        scu = RawAssociation(door.port)
        scu.socket.sendall(message[:cut])
        scu.socket.close()
    wait_until(lambda: door.door.visitors() == 0, limit_s=10, what="all associations are gone")
    wait_until(lambda: door.door.budget.used == 0, limit_s=10, what="their memory is given back")
    assert door.stored() == 0


# Other SOP classes


def test_unwanted_classes_are_refused_at_negotiation(door: OpenDoor) -> None:
    contexts = [(SecondaryCaptureImageStorage, ExplicitVRLittleEndian), *MR_CONTEXT]
    with RawAssociation(door.port, contexts=contexts) as scu:
        assert scu.accepted == {1: 3, 3: 0}
        assert scu.store(image(), uid_of(1), context_id=3) == SUCCESS


def test_unwanted_classes_get_a_final_status_where_that_is_configured(make_door: MakeDoor) -> None:
    door = make_door(unwanted_sop_classes="status")
    contexts = [(SecondaryCaptureImageStorage, ExplicitVRLittleEndian), *MR_CONTEXT]
    raw = image(SOPClassUID=SecondaryCaptureImageStorage, pixels=bytes(300_000))
    with RawAssociation(door.port, contexts=contexts) as scu:
        assert scu.accepted == {1: 0, 3: 0}
        assert scu.store(raw, uid_of(1), sop_class=SecondaryCaptureImageStorage) == NOT_SUPPORTED
        assert scu.store(image(2), uid_of(2), context_id=3) == SUCCESS
        assert scu.store(image(3), uid_of(3), context_id=1) == NOT_SUPPORTED, "MR in a context for something else"
        scu.release()
    assert door.kinds() == ["rejected", "received", "rejected"]
    assert json.loads(door.audit()[0]["detail"])["sop_class"] == SecondaryCaptureImageStorage


# Who may send


@pytest.mark.parametrize(
    ("accept_from", "calling", "called", "reason"),
    [
        ([], "SCANNER", "ANOMALYD", (1, 1, 3)),
        (["MR1"], "SCANNER", "ANOMALYD", (1, 1, 3)),
        (["MR1"], "MR1", "OTHER", (1, 1, 7)),
        (["any"], "SCANNER", "OTHER", (1, 1, 7)),
        ([{"ae_title": "MR1", "address": "10.0.0.0/8"}], "MR1", "ANOMALYD", (1, 1, 1)),
        ([{"ae_title": "any", "address": "10.0.0.1"}], "MR1", "ANOMALYD", (1, 1, 1)),
        ([{"ae_title": "MR1", "called": "TEST"}], "MR1", "ANOMALYD", (1, 1, 7)),
        (["any"], "ECHO", "ANOMALYD", None),
        ([], "ECHO", "ANOMALYD", None),
        (["MR1"], "MR1", "ANOMALYD", None),
        ([{"ae_title": "MR1", "called": "TEST"}], "MR1", "TEST", None),
        ([{"ae_title": "MR1", "address": "127.0.0.0/8"}], "MR1", "ANOMALYD", None),
        (
            [{"ae_title": "MR1", "address": "10.0.0.1"}, {"ae_title": "MR1", "address": "127.0.0.1"}],
            "MR1",
            "ANOMALYD",
            None,
        ),
    ],
)
def test_accept_from_decides_who_may_send(
    make_door: MakeDoor, accept_from: list[object], calling: str, called: str, reason: tuple[int, int, int] | None
) -> None:
    door = make_door(accept_from=accept_from)
    if reason is None:
        with RawAssociation(door.port, calling=calling, called=called) as scu:
            scu.release()
        assert door.kinds() == []
        return
    with pytest.raises(Rejected) as caught:
        RawAssociation(door.port, calling=calling, called=called)
    assert caught.value.reason == reason
    wait_until(lambda: door.kinds() == ["association_rejected"], limit_s=10, what="the audit row")
    row = door.audit()[0]
    assert (row["calling_ae"], row["called_ae"], row["address"]) == (calling, called, "127.0.0.1")
    detail = json.loads(row["detail"])
    assert (detail["result"], detail["source"], detail["reason"]) == reason


def test_one_association_too_many_is_a_passing_state(make_door: MakeDoor) -> None:
    door = make_door(max_associations=2)
    with RawAssociation(door.port) as first, RawAssociation(door.port):
        with pytest.raises(Rejected) as caught:
            RawAssociation(door.port)
        assert caught.value.reason == (2, 3, 2)
        with RawAssociation(door.port, calling="ECHO", contexts=BOTH) as own:
            assert own.ask(echo_message()) == SUCCESS, "a full door is not a dead one"
        first.release()
        wait_until(lambda: door.door.visitors() < 2, limit_s=10, what="a place is free")
        with RawAssociation(door.port) as third:
            assert third.store(image(), uid_of(1)) == SUCCESS


def test_below_the_disk_floor_associations_are_rejected_for_now(make_door: MakeDoor) -> None:
    door = make_door(disk_floor=shutil.disk_usage("/").total * 2)
    with pytest.raises(Rejected) as caught:
        RawAssociation(door.port)
    assert caught.value.reason == (2, 3, 1)
    wait_until(lambda: door.kinds() == ["association_rejected"], limit_s=10, what="the audit row")


def test_at_the_disk_floor_open_associations_get_a700_and_stay(
    make_door: MakeDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = make_door()
    with RawAssociation(door.port) as scu:
        assert scu.store(image(1), uid_of(1)) == SUCCESS
        monkeypatch.setattr(door.inbox, "_disk_floor", 1 << 60)  # filling the disk of the test machine is no way
        scu.socket.sendall(store_message(image(2, pixels=bytes(2_000_000)), uid_of(2)))
        response = scu.response()
        assert (status_of(response), comment_of(response)) == (NO_SPACE, "disk floor reached")
        monkeypatch.setattr(door.inbox, "_disk_floor", 0)
        assert scu.store(image(2), uid_of(2)) == SUCCESS
    assert door.kinds() == ["received", "rejected", "received"]


def test_a_closing_door_lets_open_associations_finish(door: OpenDoor) -> None:
    with RawAssociation(door.port) as scu:
        door.door.close()
        with pytest.raises(Rejected) as caught:
            RawAssociation(door.port)
        assert caught.value.reason == (2, 3, 1)
        door.servers[0].shutdown()
        assert scu.store(image(), uid_of(1)) == SUCCESS
        scu.release()


# Peers that stall, lie, or break the protocol


def test_a_peer_that_stalls_in_a_pdu_is_let_go(make_door: MakeDoor) -> None:
    door = make_door(max_associations=3, gateway={"stall_timeout": 1}, idle_timeout=3)
    message = store_message(image(pixels=bytes(400_000)), uid_of(1))
    stalled = [RawAssociation(door.port) for _ in range(3)]
    for scu, sent in zip(stalled, (106, len(message) // 2, len(message) - 1), strict=True):
        scu.socket.sendall(message[:sent])
    wait_until(lambda: door.door.visitors() == 0, limit_s=10, what="all places are free again")
    for scu in stalled:
        scu.socket.close()
    with RawAssociation(door.port) as scu:
        assert scu.store(image(2), uid_of(2)) == SUCCESS


def test_a_connection_that_asks_for_nothing_is_closed(make_door: MakeDoor) -> None:
    door = make_door(gateway={"acse_timeout": 0.5})
    with socket.create_connection(("127.0.0.1", door.port), 10) as silent:
        assert silent.recv(1) == b""


def test_an_idle_association_is_aborted(make_door: MakeDoor) -> None:
    door = make_door(idle_timeout=0.5)
    with RawAssociation(door.port) as scu:
        kind, _ = scu.read_pdu()
        assert kind == ABORT
    wait_until(lambda: door.door.visitors() == 0, limit_s=10, what="its place is free")


@FAST_ONLY  # pynetdicom's own classes read whatever length the peer writes
def test_a_pdu_longer_than_agreed_is_never_allocated(door: OpenDoor) -> None:
    with RawAssociation(door.port) as scu:
        scu.socket.sendall(struct.pack(">BBL", P_DATA, 0, 0xFFFFFFFF))
        kind, _ = scu.read_pdu()
        assert kind == ABORT


BROKEN = {
    "PDV longer than its PDU": pdu(P_DATA, struct.pack(">LBB", 5000, 1, 3) + b"xx"),
    "PDV of length zero": pdu(P_DATA, struct.pack(">LBB", 0, 1, 3)),
    "PDV cut off": pdu(P_DATA, b"\0\0\0"),
    "data set without a command": pdu(P_DATA, pdv(b"data", 1, 2)),
    "command that is no command": pdu(P_DATA, pdv(b"\xff" * 40, 1, 3)),
    "command without a field": pdu(P_DATA, pdv(element(0x0800, b"\1\0"), 1, 3)),
    "context that was not accepted": store_message(image(), uid_of(1), context_id=99),
    "unknown PDU type": pdu(0x77, b"1234"),
    "second association request": associate_request(),
}


STOCK_WAITS = ("PDV of length zero", "PDV cut off", "PDV longer than its PDU")
THREADS_OF_PYNETDICOM_DIE = "ignore::pytest.PytestUnhandledThreadExceptionWarning"


@pytest.mark.filterwarnings(THREADS_OF_PYNETDICOM_DIE)
@pytest.mark.parametrize(
    ("is_fast", "case"),
    [*((True, case) for case in BROKEN), *((False, case) for case in BROKEN if case not in STOCK_WAITS)],
    indirect=["is_fast"],
)
def test_whoever_breaks_the_protocol_is_let_go_and_nobody_else_is_hurt(make_door: MakeDoor, case: str) -> None:
    door = make_door(idle_timeout=2)
    with RawAssociation(door.port) as bystander, RawAssociation(door.port) as scu:
        scu.socket.sendall(BROKEN[case])
        with pytest.raises((Ended, ConnectionError)):
            scu.response()
        assert bystander.store(image(7), uid_of(7)) == SUCCESS
    wait_until(lambda: door.door.visitors() == 0, limit_s=10, what="both places are free")
    assert door.stored() == 1


def test_noise_in_place_of_dicom_hurts_nobody(door: OpenDoor) -> None:
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\0" * 5000, b"\x01\0\xff\xff\xff\xff", b""):
        with socket.create_connection(("127.0.0.1", door.port), 10) as peer:
            peer.sendall(noise)
    with RawAssociation(door.port) as scu:
        assert scu.store(image(), uid_of(1)) == SUCCESS


@FAST_ONLY  # pynetdicom's own classes say nothing of it
@pytest.mark.parametrize("title", [b"\\MR1", b"\x1b[31mMR1", b"MR\nlevel=x", b" " * 16, b"MR1\0"])
def test_a_request_with_a_title_that_is_none_has_a_row_without_it(make_door: MakeDoor, title: bytes) -> None:
    door = make_door(accept_from=["MR1"])
    request = associate_request("TITLE_OF_16_BYTE").replace(b"TITLE_OF_16_BYTE", title.ljust(16))
    with socket.create_connection(("127.0.0.1", door.port), 10) as peer:
        peer.sendall(request)
        assert peer.recv(1) in (b"\x07", b"\x03"), "A-ABORT, or A-ASSOCIATE-RJ"
    wait_until(lambda: len(door.audit()) == 1, limit_s=10, what="the audit row")
    (row,) = door.audit()
    assert (row["kind"], row["address"]) in {("connection_refused", "127.0.0.1"), ("association_rejected", "127.0.0.1")}
    assert not set(row["detail"] + (row["calling_ae"] or "")) & set("\x1b\n\0")


def test_hundreds_of_short_associations_leave_no_thread_behind(door: OpenDoor) -> None:
    def one(number: int) -> None:
        with RawAssociation(door.port) as scu:
            assert scu.store(image(number), uid_of(number)) == SUCCESS
            if number % 3:
                scu.release()

    before = threading.active_count()
    for number in range(120):
        one(number)
    wait_until(lambda: threading.active_count() <= before, limit_s=20, what="all threads have ended")
    assert door.stored() == 120


def test_no_patient_text_leaves_the_places_for_it(door: OpenDoor, capfd: pytest.CaptureFixture[str]) -> None:
    with RawAssociation(door.port) as scu:
        for data in (image(1), image(2), image(1, pixels=b"\7\7"), image(3)[:150], image(3, StudyInstanceUID=None)):
            scu.store(data, uid_of(1 if data != image(2) else 2))
        scu.release()
    out = "".join(capfd.readouterr())
    assert MARKER not in out
    assert "association.rejected" not in out
    assert MARKER not in repr(door.audit())
    assert not any(MARKER in str(path) for path in door.store.root.rglob("*"))
    [*records] = SegmentLog(door.store.root).scan()
    assert MARKER not in repr(records)
    assert peek(image(1), ExplicitVRLittleEndian).patient_name == f"{MARKER}^Name"
