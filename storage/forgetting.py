"""How received images and results leave the store: first the rows say so, then the bytes go. Killed in between, the
next `erase` goes on from the rows.

What a purge marks is punched out of the segment log record by record; what retention marks goes with its whole segment.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from sqlalchemy import Connection, case, delete, func, insert, select, update

from anomalyd.storage import objects
from anomalyd.storage import tables as t
from anomalyd.storage.audit_chain import append
from anomalyd.storage.audit_events import AuditEvent, AuditKind
from anomalyd.storage.crash import crash_point
from anomalyd.storage.engine import Store
from anomalyd.storage.records import Place
from anomalyd.storage.segments import SegmentLog
from anomalyd.storage.tables import DeliveryState, InstanceState, PurgeReason

_BATCH = 200
_WAL_MAY_HOLD_TEXT = "wal_may_hold_text"
ORPHAN_AGE = timedelta(hours=1)
"""A worker writes results just before it publishes them: older files that no row knows are leftovers."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What a call of `erase` has removed. is_complete: no forgotten text or byte is left that it knows of."""

    images: int
    segments: int
    results: int
    is_complete: bool


def mark_instances(connection: Connection, series_ids: Collection[int], reason: PurgeReason, now: datetime) -> int:
    """Images of these series become purged; gives how many."""
    live = (t.Instance.series_id.in_(series_ids), t.Instance.state != InstanceState.PURGED)
    values = {"state": InstanceState.PURGED, "purged_at": now, "purge_reason": reason}
    return connection.execute(update(t.Instance).where(*live).values(**values)).rowcount


def mark_results(connection: Connection, series_ids: Collection[int], now: datetime) -> int:
    """Results of these series become purged, what was not sent of them is closed; gives how many.

    Their jobs lose the report: the same images sent again are analysed again.
    """
    connection.execute(update(t.Job).where(t.Job.series_id.in_(series_ids)).values(report=None))
    jobs = select(t.Job.id).where(t.Job.series_id.in_(series_ids))
    unsent = (DeliveryState.DUE, DeliveryState.SENDING, DeliveryState.GAVE_UP, DeliveryState.REFUSED)
    connection.execute(
        update(t.Delivery)
        .where(t.Delivery.job_id.in_(jobs), t.Delivery.state.in_(unsent))
        .values(state=DeliveryState.CLOSED, error="purged")
    )
    these = (t.Result.job_id.in_(jobs), t.Result.purged_at.is_(None))
    return connection.execute(update(t.Result).where(*these).values(purged_at=now)).rowcount


def blank_study(connection: Connection, study_uid: str, now: datetime) -> None:
    """Clear text of a study leaves its row; `erase` then takes it out of the write-ahead log."""
    blank = dict.fromkeys(("patient_name", "patient_id", "accession_number", "study_date"))
    hashes = dict.fromkeys(("patient_hash", "accession_hash"))
    connection.execute(update(t.Study).where(t.Study.study_uid == study_uid).values(purged_at=now, **blank, **hashes))
    connection.execute(delete(t.Meta).where(t.Meta.key == _WAL_MAY_HOLD_TEXT))
    connection.execute(insert(t.Meta).values(key=_WAL_MAY_HOLD_TEXT, value=study_uid))


def erase(store: Store) -> Erased:
    """Removes the bytes of all that is marked, and the traces of blanked text; call it again until it is complete."""
    log = SegmentLog(store.root)
    results = _erase_results(store)
    images = _punch_images(store, log)  # before the segments: what was asked to be forgotten is also overwritten
    segments = _drop_segments(store, log)
    return Erased(images, segments, results, is_complete=_clean_wal(store))


def remove_orphans(store: Store) -> int:
    """Removes result files that no row knows, older than ORPHAN_AGE: their worker died, or had lost its lease."""
    with store.read() as connection:
        known = set(connection.execute(select(t.Result.path)).scalars())
    oldest = store.clock().timestamp() - ORPHAN_AGE.total_seconds()
    files = [path for path in (store.root / objects.FOLDER).glob("*/*") if path.stat().st_mtime < oldest]
    names = [f"{path.parent.name}/{path.name}" for path in files]
    return objects.remove_results(store, [name for name in names if name not in known])


def _erase_results(store: Store) -> int:
    with store.read() as connection:
        marked = connection.execute(select(t.Result.id, t.Result.path).where(t.Result.purged_at.is_not(None))).all()
    if not marked:
        return 0
    objects.remove_results(store, [row.path for row in marked])
    with store.write() as connection:
        for first in range(0, len(marked), _BATCH):
            ids = [row.id for row in marked[first : first + _BATCH]]
            still = (t.Result.id.in_(ids), t.Result.purged_at.is_not(None))  # made anew meanwhile: it stays
            connection.execute(delete(t.Delivery).where(t.Delivery.result_id.in_(select(t.Result.id).where(*still))))
            connection.execute(delete(t.Result).where(*still))
    return len(marked)


def _punch_images(store: Store, log: SegmentLog) -> int:
    wanted = (
        select(t.Instance.id, t.Instance.segment, t.Instance.offset, t.Series.study_uid)
        .join(t.Series, t.Series.id == t.Instance.series_id)
        .where(t.Instance.state == InstanceState.PURGED, t.Instance.erased_at.is_(None))
        .where(t.Instance.purge_reason == PurgeReason.REQUEST)
        .order_by(t.Series.study_uid, t.Instance.id)
    )
    with store.read() as connection:
        rows = connection.execute(wanted).all()
    existing = set(log.segments())
    for study_uid, group in groupby(rows, key=lambda row: str(row.study_uid)):
        images = list(group)
        for number, row in enumerate(images):
            if row.segment in existing:
                log.punch(Place(row.segment, row.offset))
            if number == 0:
                crash_point("purge.mid")
        _note_erased(store, study_uid, [row.id for row in images])
    return len(rows)


def _note_erased(store: Store, study_uid: str, ids: Sequence[int]) -> None:
    now = store.clock()
    with store.write() as connection:
        for first in range(0, len(ids), _BATCH):
            batch = t.Instance.id.in_(ids[first : first + _BATCH])
            connection.execute(update(t.Instance).where(batch).values(erased_at=now))
        event = AuditEvent(
            kind=AuditKind.ERASED,
            at=now,
            study_uid=study_uid,
            detail={"images": len(ids)},
        )
        append(connection, event)


def _drop_segments(store: Store, log: SegmentLog) -> int:
    """Removes segments before the newest indexed place in which no image lives any more."""
    with store.read() as connection:
        newest = connection.execute(select(func.max(t.Instance.segment))).scalar()
        wanted = (
            select(t.Instance.segment, func.sum(case((t.Instance.erased_at.is_(None), 1), else_=0)).label("not_noted"))
            .where(t.Instance.segment < (newest or 0))
            .group_by(t.Instance.segment)
            .having(func.sum(case((t.Instance.state != InstanceState.PURGED, 1), else_=0)) == 0)
        )
        lifeless = connection.execute(wanted).all()
    there = set(log.segments()[:-1])
    for segment, not_noted in lifeless:
        if segment in there:
            log.drop(segment)
        if segment in there or not_noted:
            _note_dropped(store, segment)
    return sum(segment in there for segment, _ in lifeless)


def _note_dropped(store: Store, segment: int) -> None:
    now = store.clock()
    with store.write() as connection:
        rest = (t.Instance.segment == segment, t.Instance.erased_at.is_(None))
        images = connection.execute(update(t.Instance).where(*rest).values(erased_at=now)).rowcount
        detail = {"segment": segment, "images": images}
        append(connection, AuditEvent(kind=AuditKind.ERASED, at=now, detail=detail))


def _clean_wal(store: Store) -> bool:
    """Whether no blanked text is left in the write-ahead log."""
    with store.read() as connection:
        if connection.execute(select(t.Meta.key).where(t.Meta.key == _WAL_MAY_HOLD_TEXT)).first() is None:
            return True
    if not store.truncate_wal():
        return False  # a reader was in the way: the next call tries again
    with store.write() as connection:
        connection.execute(delete(t.Meta).where(t.Meta.key == _WAL_MAY_HOLD_TEXT))
    return True
