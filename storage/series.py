"""Received series: which are still receiving, what they hold, and the decisions about them.

A decision names the state that it was made on (`SeriesRow.arrivals`): if an image came in between, nothing is written
and the caller looks again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

from sqlalchemy import Connection, RowMapping, select, update

from anomalyd.ids import AETitle, Digest, InstanceUID, SeriesUID, StudyUID
from anomalyd.storage import tables as t
from anomalyd.storage.audit_chain import append
from anomalyd.storage.audit_events import AuditEvent, AuditKind
from anomalyd.storage.crash import crash_point
from anomalyd.storage.engine import Store
from anomalyd.storage.segments import SegmentLog
from anomalyd.storage.studies import pseudonym
from anomalyd.storage.tables import InstanceState, SeriesState


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """One series as it stood when it was read; `arrivals` counts its images and tells one such state from another."""

    id: int
    study_uid: StudyUID
    series_uid: SeriesUID
    state: SeriesState
    first_at: datetime
    last_at: datetime
    arrivals: int
    calling_ae: AETitle | None
    called_ae: AETitle | None
    address: str | None
    closed_at: datetime | None
    close_rule: str | None
    reason: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One stored image; its bytes: `read_instance`."""

    id: int
    instance_uid: InstanceUID
    sop_class: str
    transfer_syntax: str
    sha256: Digest
    segment: int
    offset: int
    length: int
    received_at: datetime
    calling_ae: AETitle | None
    called_ae: AETitle | None
    address: str | None


def series_in(store: Store, state: SeriesState) -> tuple[SeriesRow, ...]:
    """Series in one state, longest quiet first."""
    order = select(t.Series).where(t.Series.state == state).order_by(t.Series.last_at, t.Series.id)
    with store.read() as connection:
        return tuple(_series(row) for row in connection.execute(order).mappings())


def receiving_series(store: Store) -> tuple[SeriesRow, ...]:
    """Series that images may still come for, longest quiet first."""
    return series_in(store, SeriesState.RECEIVING)


def series_row(store: Store, study_uid: StudyUID, series_uid: SeriesUID) -> SeriesRow | None:
    """The series as it stands now."""
    wanted = select(t.Series).where(t.Series.study_uid == study_uid, t.Series.series_uid == series_uid)
    with store.read() as connection:
        row = connection.execute(wanted).mappings().first()
    return _series(row) if row else None


def series_named(store: Store, series_uid: SeriesUID) -> tuple[SeriesRow, ...]:
    """Series with this UID: one, unless two studies claim it."""
    wanted = select(t.Series).where(t.Series.series_uid == series_uid).order_by(t.Series.id)
    with store.read() as connection:
        return tuple(_series(row) for row in connection.execute(wanted).mappings())


def instances_of(store: Store, study_uid: StudyUID, series_uid: SeriesUID) -> tuple[InstanceRow, ...]:
    """Stored images of the series, oldest first: no conflicting version, nothing purged."""
    columns = [getattr(t.Instance, name) for name in InstanceRow.__dataclass_fields__]
    wanted = (
        select(*columns)
        .join(t.Series, t.Series.id == t.Instance.series_id)
        .where(t.Series.study_uid == study_uid, t.Series.series_uid == series_uid)
        .where(t.Instance.state == InstanceState.STORED)
        .order_by(t.Instance.id)
    )
    with store.read() as connection:
        return tuple(InstanceRow(**row) for row in connection.execute(wanted).mappings())


def read_instance(store: Store, row: InstanceRow) -> bytes:
    """The complete Part 10 file, data set as received, checked by its digest; raises DamagedRecord, PurgedRecord."""
    return SegmentLog(store.root).read(row.segment, row.offset, row.length)


def open_instance(store: Store, row: InstanceRow) -> BinaryIO:
    """The same as a stream, for who needs the header alone; raises DamagedRecord, PurgedRecord. To be closed."""
    return SegmentLog(store.root).open(row.segment, row.offset, row.length)


def close_series(store: Store, series: SeriesRow, rule: str, text: str) -> bool:
    """receiving -> closed, with an audit row that says by which rule; False if an image came in between.

    text: the facts behind the rule in words ("176 of 176 slices, no gap"), without patient data.
    """
    now = store.clock()
    with store.write() as connection:
        if not decide(connection, series, (SeriesState.RECEIVING,), SeriesState.CLOSED, closed_at=now, close_rule=rule):
            return False
        detail = {"rule": rule, "text": text, "instances": series.arrivals}
        append(connection, event_of(connection, series, AuditKind.CLOSED, now, detail))
        crash_point("close.before_commit")
    return True


def decide(
    connection: Connection, series: SeriesRow, before: tuple[SeriesState, ...], after: SeriesState, **values: Any
) -> bool:
    """Whether the series went from one of these states to the other: not if an image came in between."""
    same = (t.Series.id == series.id, t.Series.arrivals == series.arrivals, t.Series.state.in_(before))
    return connection.execute(update(t.Series).where(*same).values(state=after, **values)).rowcount == 1


def event_of(
    connection: Connection,
    series: SeriesRow,
    kind: AuditKind,
    now: datetime,
    detail: Mapping[str, Any],
    *,
    job_id: int | None = None,
) -> AuditEvent:
    """An audit row about a series."""
    return AuditEvent(
        kind=kind,
        at=now,
        study_uid=series.study_uid,
        series_uid=series.series_uid,
        job_id=job_id,
        calling_ae=series.calling_ae,
        called_ae=series.called_ae,
        address=series.address,
        detail=detail,
        **pseudonym(connection, series.study_uid),
    )


def _series(row: RowMapping) -> SeriesRow:
    return SeriesRow(**row)
