"""From the segment log to the tables: what each record does to index and audit log, at commit and at replay alike.

Everything here comes from the record, never from the clock: rows that a power cut took from the end of an unflushed
index are rebuilt as they were, so the audit chain comes out with the same hashes (GATEWAY 4).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection

from anomalyd.ids import SeriesUID, StudyUID
from anomalyd.storage.alarms import AlarmKind, NewAlarm, raise_alarm
from anomalyd.storage.audit_chain import append_many
from anomalyd.storage.audit_events import AuditEvent, AuditKind, Outcome
from anomalyd.storage.clock import to_text
from anomalyd.storage.engine import Store
from anomalyd.storage.peek import Peeked
from anomalyd.storage.received import ReceivedInstance, Verdict
from anomalyd.storage.records import Place
from anomalyd.storage.tables import InstanceState

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_KeyedHash = Callable[[str | None], str | None]
_POSITION: Final = "log_indexed_up_to"
"""Key in `meta`: where in the log the first record without rows begins, as `segment:offset`."""


@dataclass(frozen=True, slots=True, eq=False)
class IndexEntry:
    """One record on its way to the tables; `peeked` where it holds an instance."""

    place: Place
    received_us: int
    facts: Mapping[str, Any]
    payload_length: int
    """Of the Part 10 file."""
    data_length: int
    """Of the data set in it."""
    peeked: Peeked | None

    @property
    def at(self) -> datetime:
        """When it was received."""
        return from_microseconds(self.received_us)


def to_microseconds(at: datetime) -> int:
    """Microseconds since 1970 in UTC."""
    return (at - _EPOCH) // _MICROSECOND


def from_microseconds(us: int) -> datetime:
    """The instant in UTC."""
    return _EPOCH + us * _MICROSECOND


def instance_facts(instance: ReceivedInstance, verdict: Verdict) -> dict[str, Any]:
    """Facts of a record that holds an instance: nothing of the patient, that is read from the data set again."""
    sender, peeked = instance.sender, instance.peeked
    return {
        "verdict": verdict.value,
        "sop_class": peeked.sop_class,
        "instance_uid": peeked.instance_uid,
        "study_uid": peeked.study_uid,
        "series_uid": peeked.series_uid,
        "transfer_syntax": instance.transfer_syntax,
        "sha256": instance.sha256,
        "calling_ae": sender.calling_ae,
        "called_ae": sender.called_ae,
        "address": sender.address,
        "association": sender.association,
    }


_EVENT_FIELDS: Final = tuple(field.name for field in fields(AuditEvent) if field.name != "at")


def note_facts(event: AuditEvent) -> dict[str, Any]:
    """Facts of a record that holds no instance: the audit row that it makes."""
    values = ((name, getattr(event, name)) for name in _EVENT_FIELDS)
    return {name: value for name, value in values if value is not None}


def duplicate_event(store: Store, instance: ReceivedInstance) -> AuditEvent:
    """The same bytes again."""
    facts = instance_facts(instance, Verdict.DUPLICATE)
    return _instance_event(
        store.keyed_hash,
        AuditKind.DUPLICATE,
        at=instance.received_at,
        facts=facts,
        length=instance.length,
        peeked=instance.peeked,
    )


def position(connection: Connection) -> Place:
    """Where replay has to begin."""
    row = connection.exec_driver_sql("SELECT value FROM meta WHERE key = ?", (_POSITION,)).first()
    if row is None:
        return Place(1, 0)
    segment, _, offset = row[0].partition(":")
    return Place(int(segment), int(offset))


def versions_of(connection: Connection, instance_uids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """(data-set SHA-256, state) of each version that is kept of these instances."""
    marks = ", ".join("?" * len(instance_uids))
    rows = connection.exec_driver_sql(
        f"SELECT instance_uid, sha256, state FROM instance WHERE instance_uid IN ({marks}) AND state <> 'purged'",  # noqa: S608 - only question marks
        tuple(instance_uids),
    )
    found: dict[str, list[tuple[str, str]]] = {}
    for uid, sha256, state in rows:
        found.setdefault(uid, []).append((sha256, state))
    return found


def verdict_on(versions: Sequence[tuple[str, str]], sha256: str) -> Verdict:
    """What an arriving instance is beside the versions that are kept."""
    if any(kept == sha256 for kept, _ in versions):
        return Verdict.DUPLICATE
    if any(state == InstanceState.STORED for _, state in versions):
        return Verdict.CONFLICTING
    return Verdict.STORED


def judged_again(connection: Connection, entries: Sequence[IndexEntry]) -> list[IndexEntry]:
    """Entries of a replay with the verdicts that hold now; usually those in the records.

    They differ where a group was flushed, its index commit failed, and its senders came again before the crash.
    """
    uids = [entry.peeked.instance_uid for entry in entries if entry.peeked]
    versions = versions_of(connection, uids) if uids else {}
    judged = []
    for entry in entries:
        if entry.peeked is None:
            judged.append(entry)
            continue
        kept = versions.setdefault(entry.peeked.instance_uid, [])
        verdict = verdict_on(kept, entry.facts["sha256"])
        if verdict is not Verdict.DUPLICATE:
            kept.append((entry.facts["sha256"], verdict.value))
            judged.append(replace(entry, facts={**entry.facts, "verdict": verdict.value}))
    return judged


def apply(store: Store, connection: Connection, entries: Sequence[IndexEntry], end: Place) -> None:
    """Rows of index and audit for records in the order of the log, and the new position, in one transaction."""
    keyed_hash = cache(store.keyed_hash)  # a group is of one or two patients
    events: list[AuditEvent] = []
    arrived: list[IndexEntry] = []
    for entry in entries:
        if entry.peeked is None:
            event = _noted_event(entry)
            if event.kind is AuditKind.DUPLICATE:
                _index_instances(keyed_hash, connection, arrived)
                arrived = []
                _keep_receiving(connection, event)
            events.append(event)
            continue
        arrived.append(entry)
        kind = AuditKind.CONFLICT if entry.facts["verdict"] == Verdict.CONFLICTING else AuditKind.RECEIVED
        events.append(
            _instance_event(
                keyed_hash, kind, at=entry.at, facts=entry.facts, length=entry.data_length, peeked=entry.peeked
            )
        )
        if kind is AuditKind.CONFLICT:
            append_many(connection, events)
            events = []
            raise_alarm(connection, _conflict_alarm(entry))
    _index_instances(keyed_hash, connection, arrived)
    append_many(connection, events)
    connection.exec_driver_sql(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (_POSITION, f"{end.segment}:{end.offset}"),
    )


_STUDY = """
INSERT INTO study (study_uid, patient_name, patient_id, accession_number, study_date,
                   patient_hash, accession_hash, first_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (study_uid) DO UPDATE SET
    patient_name = excluded.patient_name, patient_id = excluded.patient_id,
    accession_number = excluded.accession_number, study_date = excluded.study_date,
    patient_hash = excluded.patient_hash, accession_hash = excluded.accession_hash, purged_at = NULL
WHERE study.purged_at IS NOT NULL
"""
# A late image sets a series back to receiving, whatever was decided about it.
_SERIES = """
INSERT INTO series (study_uid, series_uid, state, first_at, last_at, arrivals, calling_ae, called_ae, address)
VALUES (?, ?, 'receiving', ?, ?, ?, ?, ?, ?)
ON CONFLICT (study_uid, series_uid) DO UPDATE SET
    last_at = excluded.last_at, arrivals = series.arrivals + excluded.arrivals, calling_ae = excluded.calling_ae,
    called_ae = excluded.called_ae, address = excluded.address
"""
_REOPEN = ", state = 'receiving', closed_at = NULL, close_rule = NULL, reason = NULL"
_INSTANCE = """
INSERT INTO instance (series_id, instance_uid, sop_class, transfer_syntax, sha256, state, segment, "offset", length,
                      received_at, calling_ae, called_ae, address, association)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def _index_instances(keyed_hash: _KeyedHash, connection: Connection, entries: Sequence[IndexEntry]) -> None:
    by_series: dict[tuple[StudyUID, SeriesUID], list[IndexEntry]] = {}
    for entry in entries:
        if entry.peeked is not None:
            by_series.setdefault((entry.peeked.study_uid, entry.peeked.series_uid), []).append(entry)
    rows: list[tuple[Any, ...]] = []
    for (study_uid, series_uid), members in by_series.items():
        _upsert_study(keyed_hash, connection, members[0])
        series_id = _upsert_series(connection, study_uid, series_uid, members)
        rows.extend(_instance_row(series_id, entry) for entry in members)
    if rows:
        connection.exec_driver_sql(_INSTANCE, sorted(rows, key=_by_place))


def _by_place(row: tuple[Any, ...]) -> tuple[int, int]:
    return row[6], row[7]


def _upsert_study(keyed_hash: _KeyedHash, connection: Connection, entry: IndexEntry) -> None:
    peeked = entry.peeked
    if peeked is None:
        return
    values = (
        peeked.study_uid,
        peeked.patient_name,
        peeked.patient_id,
        peeked.accession_number,
        peeked.study_date,
        keyed_hash(peeked.patient_id),
        keyed_hash(peeked.accession_number),
        to_text(entry.at),
    )
    connection.exec_driver_sql(_STUDY, values)


def _upsert_series(
    connection: Connection, study_uid: StudyUID, series_uid: SeriesUID, members: Sequence[IndexEntry]
) -> int:
    newest = members[-1]
    is_reopening = any(entry.facts["verdict"] == Verdict.STORED for entry in members)
    sender = newest.facts
    row = connection.exec_driver_sql(
        _SERIES + (_REOPEN if is_reopening else "") + " RETURNING id",
        (
            study_uid,
            series_uid,
            to_text(members[0].at),
            to_text(newest.at),
            len(members),
            sender["calling_ae"],
            sender["called_ae"],
            sender["address"],
        ),
    ).one()
    return int(row[0])


def _instance_row(series_id: int, entry: IndexEntry) -> tuple[Any, ...]:
    facts = entry.facts
    return (
        series_id,
        facts["instance_uid"],
        facts["sop_class"],
        facts["transfer_syntax"],
        facts["sha256"],
        facts["verdict"],
        entry.place.segment,
        entry.place.offset,
        entry.payload_length,
        to_text(entry.at),
        facts["calling_ae"],
        facts["called_ae"],
        facts["address"],
        facts["association"],
    )


def _keep_receiving(connection: Connection, event: AuditEvent) -> None:
    """A sender that repeats itself is still sending: the series waits for it, but is not opened again."""
    connection.exec_driver_sql(
        "UPDATE series SET last_at = ? WHERE study_uid = ? AND series_uid = ? AND state = 'receiving'",
        (to_text(event.at), event.study_uid, event.series_uid),
    )


def _instance_event(
    keyed_hash: _KeyedHash, kind: AuditKind, *, at: datetime, facts: Mapping[str, Any], length: int, peeked: Peeked
) -> AuditEvent:
    return AuditEvent(
        kind=kind,
        at=at,
        outcome=Outcome.MINOR if kind is AuditKind.CONFLICT else Outcome.SUCCESS,
        study_uid=peeked.study_uid,
        series_uid=peeked.series_uid,
        instance_uid=peeked.instance_uid,
        patient_hash=keyed_hash(peeked.patient_id),
        accession_hash=keyed_hash(peeked.accession_number),
        calling_ae=facts["calling_ae"],
        called_ae=facts["called_ae"],
        address=facts["address"],
        detail={
            "sop_class": facts["sop_class"],
            "transfer_syntax": facts["transfer_syntax"],
            "sha256": facts["sha256"],
            "bytes": length,
            "association": facts["association"],
        },
    )


def _noted_event(entry: IndexEntry) -> AuditEvent:
    known = {name: entry.facts[name] for name in _EVENT_FIELDS if name in entry.facts}
    known["kind"] = AuditKind(known["kind"])
    known["outcome"] = Outcome(known["outcome"])
    return AuditEvent(at=entry.at, **known)


def _conflict_alarm(entry: IndexEntry) -> NewAlarm:
    facts = entry.facts
    return NewAlarm(
        kind=AlarmKind.CONFLICTING_INSTANCE,
        subject=f"series {facts['series_uid']}",
        text=(
            f"instance {facts['instance_uid']} came again from {facts['calling_ae']} with other content; "
            "the first version is kept and analysed, the second is stored beside it"
        ),
        next_step="find out at the sender why one SOP Instance UID has two contents",
        at=entry.at,
        study_uid=StudyUID(facts["study_uid"]),
        series_uid=SeriesUID(facts["series_uid"]),
    )
