"""Asking the audit log: by patient or order (hashed before they are compared), study, series, event, time."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, or_, select

from anomalyd.ids import StudyUID
from anomalyd.storage import tables as t
from anomalyd.storage.audit_events import AuditKind
from anomalyd.storage.clock import from_text, to_text
from anomalyd.storage.engine import Store

_PAGE_ROWS = 1000
_PER_IMAGE = {
    AuditKind.RECEIVED, AuditKind.DUPLICATE, AuditKind.SENDING, AuditKind.SENT, AuditKind.CONFIRMED,
    AuditKind.RETRIED, AuditKind.REFUSED_BY_PEER, AuditKind.GAVE_UP, AuditKind.REVIVED, AuditKind.DELIVERY_CLOSED,
    AuditKind.MISSING, AuditKind.UNANSWERED,
}  # fmt: skip
"""Kinds that come once per image or result."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row of the audit log; `hash` chains it to the row before."""

    seq: int
    at: datetime
    kind: str
    outcome: str
    study_uid: str | None
    series_uid: str | None
    instance_uid: str | None
    job_id: int | None
    patient_hash: str | None
    accession_hash: str | None
    calling_ae: str | None
    called_ae: str | None
    address: str | None
    destination: str | None
    bundle: str | None
    detail: Mapping[str, Any]
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """What is asked for; every condition that is given must hold. patient_id and accession are clear text."""

    patient_id: str | None = None
    accession: str | None = None
    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None
    job_id: int | None = None
    kind: AuditKind | None = None
    destination: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Exclusive."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """Rows that say the same of one image after the other, as one line of a history; the first and the last of them."""

    row: AuditRow
    count: int
    last: AuditRow


def query(store: Store, wanted: AuditFilter | None = None) -> Iterator[AuditRow]:
    """Rows that match, oldest first, read page by page so that a long answer holds up nobody."""
    conditions = _conditions(store, wanted or AuditFilter())
    newest = 0
    while True:
        with store.read() as connection:
            page = _rows(connection, *conditions, t.Audit.seq > newest, limit=_PAGE_ROWS)
        yield from page
        if len(page) < _PAGE_ROWS:
            return
        newest = page[-1].seq


def history_of(store: Store, name: str) -> tuple[AuditRow, ...]:
    """All that happened to one study or series, in order.

    name: a Study, Series or SOP Instance UID, of what was received or of a result, or an accession number. An image
    or a result gives the history of the series that it belongs to. Empty when nothing is known of it.
    """
    name = name.strip()
    with store.read() as connection:
        for scope in _scopes(store, connection, name):
            if rows := _rows(connection, scope):
                return rows
    return ()


def condensed(rows: Iterable[AuditRow]) -> tuple[HistoryEntry, ...]:
    """A history on one page: rows that differ in image and time only become one entry, at the place of the first.

    Also where images to two destinations, or sending and confirming, take turns; a row of any other kind ends that.
    """
    entries: list[HistoryEntry] = []
    places: dict[tuple[object, ...], int] = {}
    for row in rows:
        if row.kind not in _PER_IMAGE:
            places.clear()
        what = (row.kind, row.outcome, row.series_uid, row.job_id, row.destination, row.calling_ae, row.address)
        place = places.setdefault(what, len(entries))
        if place == len(entries):
            entries.append(HistoryEntry(row, 1, row))
        else:
            entries[place] = HistoryEntry(entries[place].row, entries[place].count + 1, row)
    return tuple(entries)


def _conditions(store: Store, wanted: AuditFilter) -> list[ColumnElement[bool]]:
    equal = {
        t.Audit.patient_hash: store.keyed_hash(wanted.patient_id),
        t.Audit.accession_hash: store.keyed_hash(wanted.accession),
        t.Audit.study_uid: wanted.study_uid,
        t.Audit.series_uid: wanted.series_uid,
        t.Audit.instance_uid: wanted.instance_uid,
        t.Audit.job_id: wanted.job_id,
        t.Audit.kind: wanted.kind.value if wanted.kind else None,
        t.Audit.destination: wanted.destination,
    }
    conditions: list[ColumnElement[bool]] = [column == value for column, value in equal.items() if value is not None]
    if wanted.since is not None:
        conditions.append(t.Audit.at >= to_text(wanted.since))
    if wanted.until is not None:
        conditions.append(t.Audit.at < to_text(wanted.until))
    return conditions


def _scopes(store: Store, connection: Connection, name: str) -> Iterator[ColumnElement[bool]]:
    """Conditions to try in turn: the first that has rows is meant."""
    studies = select(t.Audit.study_uid).where(t.Audit.series_uid == name, t.Audit.study_uid.is_not(None))
    purge_of_its_study = (t.Audit.kind == AuditKind.PURGED.value) & t.Audit.study_uid.in_(studies)
    yield or_(t.Audit.series_uid == name, purge_of_its_study)
    yield t.Audit.study_uid == name
    result = select(t.Job.series_uid, t.Job.study_uid).join(t.Result, t.Result.job_id == t.Job.id)
    made = result.where(or_(t.Result.sop_instance_uid == name, t.Result.series_uid == name))
    received = (
        select(t.Series.series_uid, t.Series.study_uid)
        .join(t.Instance, t.Instance.series_id == t.Series.id)
        .where(t.Instance.instance_uid == name)
    )
    for source in (received, made):
        for row in connection.execute(source.limit(1)):
            yield (t.Audit.series_uid == row.series_uid) & (t.Audit.study_uid == row.study_uid)
    yield _of_accession(store, connection, name)
    yield t.Audit.instance_uid == name  # no index: what was purged, or refused at the door


def _of_accession(store: Store, connection: Connection, accession: str) -> ColumnElement[bool]:
    """Rows of every study of this order, also those written before the order number was known."""
    hashed = store.keyed_hash(accession)
    studies = (
        select(t.Audit.study_uid).where(t.Audit.accession_hash == hashed, t.Audit.study_uid.is_not(None)).distinct()
    )
    uids = [StudyUID(uid) for uid in connection.execute(studies).scalars() if uid]
    return or_(t.Audit.accession_hash == hashed, t.Audit.study_uid.in_(uids))


def _rows(connection: Connection, *conditions: ColumnElement[bool], limit: int | None = None) -> tuple[AuditRow, ...]:
    wanted = select(t.Audit).where(*conditions).order_by(t.Audit.seq).limit(limit)
    return tuple(_row(row) for row in connection.execute(wanted).mappings())


def _row(row: RowMapping) -> AuditRow:
    detail = json.loads(row["detail"]) if row["detail"] else {}
    return AuditRow(**{**row, "at": from_text(row["at"]), "detail": detail})
