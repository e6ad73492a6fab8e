"""Storage commitment at the door: reports of a PACS are kept, requests of senders are answered from the index."""

import json
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time by pynetdicom
    StorageCommitmentPushModel,
    Verification,
)

from anomalyd.daemon.commitment_messages import Request, request_data_set
from anomalyd.daemon.dispatcher.reporting import Reporting
from anomalyd.daemon.settings import DaemonSettings
from anomalyd.storage import commitment_requests, confirmations, deliveries
from anomalyd.storage.alarms import open_alarms
from asking_scanner import asked, asking, listening
from committing_pacs import CommittingPacs
from doors import MakeDoor, OpenDoor
from images import image, uid_of
from raw_scu import MR_CONTEXT, RawAssociation, store_message
from rows import add_finished_job
from waiting import wait_until

LIMIT_S = 15.0
PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104, "confirm": "commitment"}
NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0112, 0x0119


def stored(door: OpenDoor, *numbers: int) -> None:
    with RawAssociation(door.port, contexts=MR_CONTEXT) as scanner:
        for number in numbers:
            assert scanner.ask(store_message(image(number), uid_of(number))) == 0x0000
        scanner.release()


def details(door: OpenDoor, kind: str) -> list[dict[str, Any]]:
    return [json.loads(row["detail"]) for row in door.audit() if row["kind"] == kind]


# What senders ask us


def test_a_sender_is_told_on_its_own_association_what_is_kept_and_what_is_not(door: OpenDoor) -> None:
    stored(door, 1, 2)
    reports: list[Dataset] = []
    with asking(door.port, reports=reports) as association:
        other = "1.2.840.10008.5.1.4.1.1.2"
        objects = ((MRImageStorage, uid_of(1)), (other, uid_of(2)), (MRImageStorage, "1.2.3.4.5"))
        assert asked(association, *objects) == 0x0000
        wait_until(lambda: reports, limit_s=LIMIT_S, what="a report")
        assert asked(association, (MRImageStorage, uid_of(2)), uid="1.2.3.100") == 0x0000  # and once more
        wait_until(lambda: len(reports) == 2, limit_s=LIMIT_S, what="the second report")
    wait_until(lambda: len(details(door, "commitment_reported")) == 2, limit_s=LIMIT_S, what="audit rows")
    assert reports[0].TransactionUID == "1.2.3.99"
    assert [item.ReferencedSOPInstanceUID for item in reports[0].ReferencedSOPSequence] == [uid_of(1)]
    failed = {item.ReferencedSOPInstanceUID: item.FailureReason for item in reports[0].FailedSOPSequence}
    assert failed == {uid_of(2): CLASS_CONFLICT, "1.2.3.4.5": NO_SUCH_INSTANCE}
    assert "FailedSOPSequence" not in reports[1]
    assert [row["objects"] for row in details(door, "commitment_requested")] == [3, 1]
    assert details(door, "commitment_reported")[0]["committed"] == 1


def test_a_sender_that_left_and_has_no_address_is_not_told_and_the_audit_says_so(door: OpenDoor) -> None:
    stored(door, 1)
    with asking(door.port) as association:
        association.bind(evt.EVT_N_EVENT_REPORT, lambda event: event.assoc.abort())
        assert asked(association, (MRImageStorage, uid_of(1))) == 0x0000
    wait_until(lambda: details(door, "commitment_reported"), limit_s=LIMIT_S, what="the audit row")
    assert "error" in details(door, "commitment_reported")[0]


# pynetdicom forgets to close the socket of a refused connection
unclosed_by_pynetdicom = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@unclosed_by_pynetdicom
def test_a_sender_with_an_address_is_told_there_as_soon_as_it_can_be_reached(
    make_door: MakeDoor, free_port: int
) -> None:
    address = {"host": "127.0.0.1", "port": free_port}
    peers = [{"ae_title": "SCANNER", "report_to": address}]
    door = make_door(accept_from=peers)
    with asking(door.port) as association:
        assert asked(association, (MRImageStorage, "1.2.3.4.5")) == 0x0000
    daemon = DaemonSettings.model_validate({"accept_from": peers, "delivery": {"back_off_first": 0.1}})
    reporting = Reporting(door.store, daemon)
    reporting.sweep()  # nobody listens there yet
    wait_until(lambda: details(door, "commitment_reported"), limit_s=LIMIT_S, what="a try")
    assert "cannot be reached" in details(door, "commitment_reported")[0]["error"]
    reports: list[Dataset] = []
    with listening(free_port, reports):

        def is_told() -> bool:
            reporting.sweep()
            return bool(reports)

        wait_until(is_told, limit_s=LIMIT_S, what="a report")
        wait_until(lambda: not _open(door), limit_s=LIMIT_S, what="it is noted")
    assert reports[0].FailedSOPSequence[0].FailureReason == NO_SUCH_INSTANCE
    assert details(door, "commitment_reported")[-1]["how"] == "new association"
    assert len(reports) == 1


@unclosed_by_pynetdicom
def test_a_sender_that_cannot_be_told_for_too_long_raises_an_alarm(make_door: MakeDoor, free_port: int) -> None:
    peers = [{"ae_title": "SCANNER", "report_to": {"host": "127.0.0.1", "port": free_port}}]
    door = make_door(accept_from=peers)
    with asking(door.port) as association:
        assert asked(association, (MRImageStorage, "1.2.3.4.5")) == 0x0000
    daemon = DaemonSettings.model_validate({"accept_from": peers, "confirmation": {"give_up_after": 0.001}})
    Reporting(door.store, daemon).sweep()
    wait_until(lambda: open_alarms(door.store), limit_s=LIMIT_S, what="an alarm")
    assert open_alarms(door.store)[0].kind == "commitment_not_told"
    assert not _open(door)


def _open(door: OpenDoor) -> bool:
    with door.store.read() as connection:
        wanted = "SELECT count(*) FROM commitment_request WHERE ended_at IS NULL"
        return bool(connection.exec_driver_sql(wanted).scalar_one())


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning")
@pytest.mark.parametrize(
    ("objects", "action", "status"),
    [((("1.2.840.1", "1.2.3"),), 2, 0x0123), ((), 1, 0x0115), ((("1.2.840.1", "Doe^John"),), 1, 0x0115)],
    ids=["another action", "no object", "no UID"],
)
def test_what_is_no_request_is_refused(
    objects: tuple[tuple[str, str], ...], action: int, status: int, door: OpenDoor
) -> None:
    with asking(door.port) as association:
        assert asked(association, *objects, action=action) == status
    assert "commitment_requested" not in door.kinds()
    assert "Doe" not in json.dumps(door.audit())


# What a PACS tells us


@pytest.fixture
def waiting(make_door: MakeDoor) -> tuple[OpenDoor, str, tuple[str, ...]]:
    """A door of a daemon that has asked its PACS; the transaction, and what it is about."""
    door = make_door(accept_from=["SCANNER"], destinations=[PACS])
    made = add_finished_job(door.store)
    ids = [row.id for row in deliveries.due(door.store)]
    deliveries.mark_sent(door.store, ids)
    patience = confirmations.Patience()
    confirmations.mark_asked(door.store, ids, "storage commitment", patience, transaction_uid="2.25.77")
    return door, "2.25.77", made.uids


def _request(uid: str, uids: tuple[str, ...]) -> Dataset:
    return request_data_set(Request(uid, tuple(("1.2.840.10008.5.1.4.1.1.7", one) for one in uids)))


@pytest.mark.parametrize("with_roles", [True, False], ids=["with roles", "a PACS that proposes none"])
def test_a_pacs_that_may_not_send_may_report(
    with_roles: bool,  # noqa: FBT001 - a parameter of the test
    waiting: tuple[OpenDoor, str, tuple[str, ...]],
    free_port: int,
) -> None:
    door, uid, uids = waiting
    with CommittingPacs(free_port, gateway=door.port, with_roles=with_roles, lost={uids[0]}) as pacs:
        for one in uids:
            pacs.pacs.objects[one] = None  # type: ignore[assignment]  # only whether it is there counts
        assert pacs.report(_request("2.25.78", uids)) == 0x0115  # a transaction that nobody asked for
        assert confirmations.destinations_due(door.store) == ()
        assert pacs.report(_request(uid, uids)) == 0x0000
    assert confirmations.destinations_due(door.store) == ("pacs",)
    applied = confirmations.apply_reports(
        door.store, "pacs", confirmations.Patience().answer_within, confirmations.Patience()
    )
    assert (applied.confirmed, applied.missing) == (len(uids) - 1, 1)


def test_a_reporting_pacs_may_do_nothing_else(waiting: tuple[OpenDoor, str, tuple[str, ...]]) -> None:
    door, _, _ = waiting
    with asking(door.port, "PACS", with_role=True) as association:
        accepted = {context.abstract_syntax for context in association.accepted_contexts}
        assert accepted == {StorageCommitmentPushModel, Verification}
    with asking(door.port, "PACS") as association:
        assert asked(association, (MRImageStorage, "1.2.3")) == 0x0124
    assert "commitment_requested" not in door.kinds()


def test_who_is_neither_sender_nor_pacs_is_rejected(waiting: tuple[OpenDoor, str, tuple[str, ...]]) -> None:
    door, _, _ = waiting
    with asking(door.port, "STRANGER") as association:
        assert association.is_rejected


def test_a_destination_that_is_not_asked_may_not_come_in(make_door: MakeDoor) -> None:
    door = make_door(accept_from=["SCANNER"], destinations=[{**PACS, "confirm": "query"}])
    with asking(door.port, "PACS") as association:
        assert association.is_rejected


def test_a_sender_may_ask_beside_its_images(door: OpenDoor) -> None:
    """One association for all, as some scanners do: verification, images, commitment, report."""
    reports: list[Dataset] = []
    with asking(door.port, reports=reports) as association:
        for number in range(1, 6):
            ds = Dataset()
            ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, uid_of(number)
            ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = "1.2.3", "1.2.3.4", "X"
            assert association.send_c_echo().Status == 0x0000
            ds.file_meta = _meta(uid_of(number))
            assert association.send_c_store(ds).Status == 0x0000
        assert asked(association, *((MRImageStorage, uid_of(number)) for number in range(1, 6))) == 0x0000
        wait_until(lambda: reports, limit_s=LIMIT_S, what="a report")
    assert len(reports[0].ReferencedSOPSequence) == 5
    assert "FailedSOPSequence" not in reports[0]


def _meta(uid: str) -> Any:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, UID(uid)
    return meta


def test_the_same_transaction_again_is_answered_again(make_door: MakeDoor, free_port: int) -> None:
    peers = [{"ae_title": "SCANNER", "report_to": {"host": "127.0.0.1", "port": free_port}}]
    door = make_door(accept_from=peers)
    for _ in range(2):
        with asking(door.port) as association:
            assert asked(association, (MRImageStorage, "1.2.3.4.5")) == 0x0000
        (row,) = commitment_requests.due(door.store)
        commitment_requests.mark_told(door.store, row, commitment_requests.judge(door.store, row.objects))
        assert not _open(door)
