"""The inbox: acknowledged means in log and index; duplicates, conflicts, late images, the disk floor, replay."""

import hashlib
import itertools
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom.dsutils import encode

from anomalyd.ids import Digest
from anomalyd.storage.alarms import open_alarms
from anomalyd.storage.audit import AuditEvent, AuditKind
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.inbox import Acknowledge, Inbox
from anomalyd.storage.overview import bytes_without_rows
from anomalyd.storage.peek import peek
from anomalyd.storage.received import DiskFloorReached, NotStored, ReceivedInstance, Sender, Verdict
from anomalyd.storage.replay import Replayed
from anomalyd.storage.segments import SegmentLog
from anomalyd.storage.series import instances_of, read_instance, series_row
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.tables import SeriesState

SENDER = Sender("SCANNER", "ANOMALYD", "10.1.2.3", "a-1")
_moment = itertools.count()


def data_set(number: int = 1, *, content: bytes = b"\1\2", series: str = "1.2.3.1", **changes: Any) -> bytes:
    ds = Dataset()
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = f"1.2.3.1.{number}"
    ds.StudyDate = "20260131"
    ds.AccessionNumber = "ACC-7"
    ds.Modality = "MR"
    ds.PatientName = "Marker^Patient"
    ds.PatientID = "MARKER-ID"
    ds.StudyInstanceUID = "1.2.3"
    ds.SeriesInstanceUID = series
    ds.PixelData = content
    ds["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    raw = encode(ds, is_implicit_vr=False, is_little_endian=True)
    assert raw is not None
    return raw


def received(raw: bytes, at: datetime | None = None) -> ReceivedInstance:
    at = at or datetime(2026, 1, 31, 12, tzinfo=UTC) + timedelta(milliseconds=next(_moment))
    return ReceivedInstance(
        sender=SENDER,
        received_at=at,
        transfer_syntax=ExplicitVRLittleEndian,
        sha256=Digest(hashlib.sha256(raw).hexdigest()),
        peeked=peek(raw, ExplicitVRLittleEndian),
        data=[raw[:100], raw[100:]],
    )


OpenInbox = Callable[..., Inbox]


@pytest.fixture
def open_inbox(store: Store) -> Iterator[OpenInbox]:
    opened: list[Inbox] = []

    def open_one(use: Store = store, **options: Any) -> Inbox:
        inbox = Inbox(use, disk_floor=options.pop("disk_floor", 0), **options)
        assert inbox.open(threading.Event()) is not None
        opened.append(inbox)
        return inbox

    yield open_one
    for inbox in opened:
        inbox.close()


@pytest.fixture
def inbox(open_inbox: OpenInbox) -> Inbox:
    return open_inbox()


def audit_rows(store: Store) -> list[tuple[Any, ...]]:
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM audit ORDER BY seq").fetchall()
    return [tuple(row) for row in rows]


def kinds(store: Store) -> list[str]:
    return [row[2] for row in audit_rows(store)]


def test_what_is_accepted_is_found_again_byte_for_byte(inbox: Inbox, store: Store) -> None:
    raw = data_set()
    assert inbox.accept(received(raw)) is Verdict.STORED
    [row] = instances_of(store, "1.2.3", "1.2.3.1")  # type: ignore[arg-type]  # UIDs in plain text
    part10 = read_instance(store, row)
    assert part10.endswith(raw)
    assert row.sha256 == hashlib.sha256(raw).hexdigest()


def test_a_record_is_a_part_10_file_with_its_source(inbox: Inbox, store: Store, tmp_path: Path) -> None:
    inbox.accept(received(data_set()))
    [row] = instances_of(store, "1.2.3", "1.2.3.1")  # type: ignore[arg-type]  # UIDs in plain text
    file = tmp_path / "slice.dcm"
    file.write_bytes(read_instance(store, row))
    ds = dcmread(file)
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == "1.2.3.1.1"
    assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert ds.file_meta.SourceApplicationEntityTitle == "SCANNER"
    assert str(ds.file_meta.ImplementationVersionName).startswith("ANOMALYD_")


def test_the_same_bytes_again_are_a_duplicate_and_no_second_row(inbox: Inbox, store: Store) -> None:
    raw = data_set()
    verdicts = [inbox.accept(received(raw)) for _ in range(3)]
    assert verdicts == [Verdict.STORED, Verdict.DUPLICATE, Verdict.DUPLICATE]
    assert len(instances_of(store, "1.2.3", "1.2.3.1")) == 1  # type: ignore[arg-type]  # UIDs in plain text
    assert kinds(store) == ["received", "duplicate", "duplicate"]


def test_the_same_bytes_in_one_group_are_stored_once(inbox: Inbox, store: Store) -> None:
    raw = data_set()
    with ThreadPoolExecutor(16) as senders:
        verdicts = list(senders.map(lambda _: inbox.accept(received(raw)), range(16)))
    assert sorted(verdicts) == [Verdict.DUPLICATE] * 15 + [Verdict.STORED]
    assert len(instances_of(store, "1.2.3", "1.2.3.1")) == 1  # type: ignore[arg-type]  # UIDs in plain text


def test_other_content_under_a_known_uid_is_kept_beside_the_first_and_raises_an_alarm(
    inbox: Inbox, store: Store
) -> None:
    first, second = data_set(), data_set(content=b"\3\4")
    assert [inbox.accept(received(raw)) for raw in (first, second, second, first)] == [
        Verdict.STORED,
        Verdict.CONFLICTING,
        Verdict.DUPLICATE,
        Verdict.DUPLICATE,
    ]
    [row] = instances_of(store, "1.2.3", "1.2.3.1")  # type: ignore[arg-type]  # UIDs in plain text
    assert read_instance(store, row).endswith(first)
    assert kinds(store) == ["received", "conflict", "alarm", "duplicate", "duplicate"]
    [alarm] = open_alarms(store)
    assert "1.2.3.1.1" in alarm.text
    with store.read() as connection:
        places = connection.exec_driver_sql('SELECT segment, "offset", length FROM instance ORDER BY id').fetchall()
    assert SegmentLog(store.root).read(*places[1]).endswith(second)


@pytest.mark.parametrize("state", ["closed", "queued", "ineligible"])
def test_a_late_image_sets_its_series_back_to_receiving(inbox: Inbox, store: Store, state: str) -> None:
    inbox.accept(received(data_set(1)))
    with store.write() as connection:
        reason = '{"text": "x"}' if state == "ineligible" else None
        connection.exec_driver_sql("UPDATE series SET state = ?, reason = ?", (state, reason))
    inbox.accept(received(data_set(1)))
    series = series_row(store, "1.2.3", "1.2.3.1")  # type: ignore[arg-type]  # UIDs in plain text
    assert series is not None
    assert series.state == state, "a duplicate opens nothing"
    inbox.accept(received(data_set(2)))
    series = series_row(store, "1.2.3", "1.2.3.1")  # type: ignore[arg-type]  # UIDs in plain text
    assert series is not None
    assert (series.state, series.arrivals, series.reason) == (SeriesState.RECEIVING, 2, None)


def test_the_study_row_holds_the_text_and_the_audit_only_hashes(inbox: Inbox, store: Store) -> None:
    inbox.accept(received(data_set()))
    with store.read() as connection:
        study = connection.exec_driver_sql("SELECT patient_name, patient_id, accession_number FROM study").one()
    assert tuple(study) == ("Marker^Patient", "MARKER-ID", "ACC-7")
    text = repr(audit_rows(store))
    assert "MARKER" not in text.upper()
    assert str(store.keyed_hash("MARKER-ID")) in text


def test_a_refusal_has_an_audit_row_and_a_record(inbox: Inbox, store: Store) -> None:
    at = datetime(2026, 1, 31, tzinfo=UTC)
    inbox.note(AuditEvent(kind=AuditKind.REJECTED, at=at, calling_ae="X", detail={"status": 0xA900}))
    [row] = audit_rows(store)
    assert row[1:3] == ("2026-01-31T00:00:00.000000Z", "rejected")
    [record] = SegmentLog(store.root).scan()
    assert "42e9" not in repr(record)  # facts hold the status as number


def test_a_probe_leaves_no_rows(inbox: Inbox, store: Store) -> None:
    inbox.probe()
    assert audit_rows(store) == []


def test_below_the_disk_floor_nothing_is_accepted(open_inbox: OpenInbox, store: Store) -> None:
    inbox = open_inbox(disk_floor=shutil.disk_usage(store.root).total * 2)
    with pytest.raises(DiskFloorReached):
        inbox.accept(received(data_set()))
    with pytest.raises(DiskFloorReached):
        inbox.check_room()
    assert instances_of(store, "1.2.3", "1.2.3.1") == ()  # type: ignore[arg-type]  # UIDs in plain text


def test_a_failed_flush_is_told_and_a_second_one_makes_the_door_not_ready(
    inbox: Inbox, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:  # no disk breaks on demand
        patch.setattr(os, "fdatasync", broken)
        for is_still_ready in (True, False):
            with pytest.raises(NotStored, match="Input/output error"):
                inbox.accept(received(data_set()))
            assert inbox.is_ready is is_still_ready
    inbox.probe()
    assert inbox.is_ready
    assert inbox.accept(received(data_set())) is Verdict.STORED
    assert len(instances_of(store, "1.2.3", "1.2.3.1")) == 1  # type: ignore[arg-type]  # UIDs in plain text


def test_an_index_that_cannot_be_written_is_told(open_inbox: OpenInbox, tmp_path: Path) -> None:
    with_url = StorageSettings(root=tmp_path / "other", disk_floor=0)
    store = open_store(with_url)
    inbox = open_inbox(store)
    inbox.accept(received(data_set(1)))
    with store.write() as connection:
        connection.exec_driver_sql("ALTER TABLE series RENAME TO hidden")
    with pytest.raises(NotStored):
        inbox.accept(received(data_set(2)))
    assert not inbox.is_ready, "from the first refusal on"
    with store.write() as connection:
        connection.exec_driver_sql("ALTER TABLE hidden RENAME TO series")
    inbox.probe()
    assert inbox.accept(received(data_set(2))) is Verdict.DUPLICATE, "it was in the log, and is indexed now"
    assert len(instances_of(store, "1.2.3", "1.2.3.1")) == 2  # type: ignore[arg-type]  # UIDs in plain text
    inbox.close()
    store.close()


def _forget_index(store: Store) -> None:
    store.close()
    for path in store.root.glob("anomalyd.db*"):
        path.unlink()
    (store.root / "audit.head").unlink()


def _mixed_work(inbox: Inbox) -> None:
    inbox.accept(received(data_set(1)))
    inbox.accept(received(data_set(1)))
    inbox.accept(received(data_set(1, content=b"\5\6")))
    inbox.note(AuditEvent(kind=AuditKind.REJECTED, at=datetime(2026, 2, 1, tzinfo=UTC), calling_ae="X"))
    inbox.accept(received(data_set(2, series="1.2.3.2")))
    inbox.probe()
    inbox.accept(received(data_set(3)))


@pytest.mark.parametrize("lost_after", [0, 1, 2, 3, 5])
def test_replay_rebuilds_index_and_audit_chain_as_they_were(
    open_inbox: OpenInbox, tmp_path: Path, lost_after: int
) -> None:
    settings = StorageSettings(root=tmp_path / "other", disk_floor=0)
    store = open_store(settings, index_sync="normal")
    inbox = open_inbox(store)
    snapshot = tmp_path / "snapshot.db"
    moment = iter(range(100))

    def keep_a_state() -> None:  # as a power cut would leave the database: all but its newest commits
        if next(moment) == lost_after:
            with sqlite3.connect(store.root / "anomalyd.db") as live, sqlite3.connect(snapshot) as copy:
                live.backup(copy)

    keep_a_state()
    for step in (1, 2, 3, 4, 5, 6, 7):
        work: Callable[[], object] = [
            lambda: inbox.accept(received(data_set(1))),
            lambda: inbox.accept(received(data_set(1))),
            lambda: inbox.accept(received(data_set(1, content=b"\5\6"))),
            lambda: inbox.note(AuditEvent(kind=AuditKind.REJECTED, at=datetime(2026, 2, 1, tzinfo=UTC), address="X")),
            lambda: inbox.accept(received(data_set(2, series="1.2.3.2"))),
            inbox.probe,
            lambda: inbox.accept(received(data_set(3))),
        ][step - 1]
        work()
        keep_a_state()
    before = _everything(store)
    inbox.close()
    store.close()
    for path in store.root.glob("anomalyd.db*"):
        path.unlink()
    shutil.copy(snapshot, store.root / "anomalyd.db")

    again = open_store(settings, index_sync="normal")
    open_inbox(again)
    assert _everything(again) == before
    again.close()


def _everything(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    tables = ("study", "series", "instance", "audit", "alarm")
    with store.read() as connection:
        return {
            table: [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1").fetchall()]  # noqa: S608 - names above
            for table in tables
        }


def test_a_second_start_replays_nothing(open_inbox: OpenInbox, store: Store) -> None:
    first = open_inbox()
    first.accept(received(data_set()))
    first.close()
    second = Inbox(store, disk_floor=0)
    assert second.open(threading.Event()) == Replayed(0, 0, 0)
    assert second.accept(received(data_set())) is Verdict.DUPLICATE
    second.close()


def test_a_torn_tail_is_cut_and_counted(open_inbox: OpenInbox, store: Store) -> None:
    inbox = open_inbox()
    inbox.accept(received(data_set()))
    inbox.close()
    with SegmentLog(store.root).path(1).open("ab") as file:
        file.write(b"ANOMSEG1 torn")
    second = Inbox(store, disk_floor=0)
    assert second.open(threading.Event()) == Replayed(0, 13, 0)
    second.close()


def test_a_damaged_middle_raises_an_alarm(open_inbox: OpenInbox, tmp_path: Path) -> None:
    settings = StorageSettings(root=tmp_path / "other", disk_floor=0)
    store = open_store(settings)
    inbox = open_inbox(store)
    for number in (1, 2, 3):
        inbox.accept(received(data_set(number)))
    inbox.close()
    [_, second, _] = SegmentLog(store.root).scan()
    with SegmentLog(store.root).path(1).open("r+b") as file:
        file.seek(second.place.offset + 700)
        file.write(b"rot")
    _forget_index(store)
    again = open_store(settings)
    replaying = Inbox(again, disk_floor=0)
    assert replaying.open(threading.Event()) == Replayed(2, 0, 1)
    assert [alarm.kind for alarm in open_alarms(again)] == ["store_damaged"]
    replaying.close()
    again.close()


def test_groups_form_while_the_disk_is_busy(open_inbox: OpenInbox, store: Store) -> None:
    woken = itertools.count()
    inbox = open_inbox(on_commit=lambda: next(woken))
    with ThreadPoolExecutor(8) as senders:
        verdicts = list(senders.map(lambda n: inbox.accept(received(data_set(n, content=bytes(2 * n)))), range(1, 81)))
    assert verdicts == [Verdict.STORED] * 80
    assert next(woken) <= 80
    rows = instances_of(store, "1.2.3", "1.2.3.1")  # type: ignore[arg-type]  # UIDs in plain text
    assert len(rows) == 80
    for row in rows:
        read_instance(store, row)


def test_instances_too_large_for_one_group_go_one_after_the_other(
    open_inbox: OpenInbox, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomalyd.storage.inbox.GROUP_BYTES", 1000)
    inbox = open_inbox()
    with ThreadPoolExecutor(8) as senders:
        list(senders.map(lambda n: inbox.accept(received(data_set(n, content=bytes(900)))), range(1, 33)))
    inbox.close()
    assert len(instances_of(store, "1.2.3", "1.2.3.1")) == 32  # type: ignore[arg-type]  # UIDs in plain text


def test_after_flush_the_rows_follow_and_duplicates_are_still_seen(open_inbox: OpenInbox, store: Store) -> None:
    inbox = open_inbox(acknowledge=Acknowledge.AFTER_FLUSH)
    sent = [data_set(n, content=content) for n in range(1, 30) for content in (b"\1\2", b"\3\4", b"\1\2", b"\3\4")]
    verdicts = [inbox.accept(received(raw)) for raw in sent]
    assert verdicts == [Verdict.STORED, Verdict.CONFLICTING, Verdict.DUPLICATE, Verdict.DUPLICATE] * 29
    inbox.probe()
    assert len(instances_of(store, "1.2.3", "1.2.3.1")) == 29  # type: ignore[arg-type]  # UIDs in plain text


def test_after_flush_a_busy_database_delays_no_sender(open_inbox: OpenInbox, store: Store) -> None:
    inbox = open_inbox(acknowledge=Acknowledge.AFTER_FLUSH)
    with store.write():  # another writer, at work
        for number in range(1, 9):
            assert inbox.accept(received(data_set(number))) is Verdict.STORED
            assert inbox.accept(received(data_set(number))) is Verdict.DUPLICATE
    inbox.probe()
    assert len(instances_of(store, "1.2.3", "1.2.3.1")) == 8  # type: ignore[arg-type]  # UIDs in plain text


def test_images_without_rows_are_counted_in_bytes(open_inbox: OpenInbox, store: Store) -> None:
    inbox = open_inbox(acknowledge=Acknowledge.AFTER_FLUSH, segment_bytes=1500)
    inbox.accept(received(data_set(1)))
    inbox.probe()
    assert bytes_without_rows(store) == 0
    with store.write():  # another writer, at work
        for number in (2, 3, 4):  # in segments of their own
            inbox.accept(received(data_set(number, content=bytes(1000))))
        assert 3000 < bytes_without_rows(store) < 6000
    inbox.probe()
    assert bytes_without_rows(store) == 0


def test_closing_commits_what_waits(open_inbox: OpenInbox, store: Store) -> None:
    inbox = open_inbox()
    with ThreadPoolExecutor(8) as senders:
        running = [senders.submit(inbox.accept, received(data_set(n))) for n in range(1, 20)]
        for one in running:
            one.result()
        inbox.close()
    assert not inbox.is_ready
    assert replace(SENDER) == SENDER
    assert len(instances_of(store, "1.2.3", "1.2.3.1")) == 19  # type: ignore[arg-type]  # UIDs in plain text
