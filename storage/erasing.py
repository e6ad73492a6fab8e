"""The bytes of what forgetting.py has marked leave the disk. Killed in between, the next call goes on from the rows.

Images are erased by the gateway alone, the one writer of segments: what a purge marks is punched out of the log record
by record, what retention marks goes with its whole segment. While no gateway runs they are pending (`pending_images`).
Results, and traces of text in the write-ahead log, are erased by whoever forgets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby

from sqlalchemy import case, delete, func, select, update

from anomalyd.ids import StudyUID
from anomalyd.storage import objects
from anomalyd.storage import tables as t
from anomalyd.storage.audit_chain import append
from anomalyd.storage.audit_events import AuditEvent, AuditKind
from anomalyd.storage.crash import crash_point
from anomalyd.storage.engine import Store
from anomalyd.storage.forgetting import WAL_MAY_HOLD_TEXT
from anomalyd.storage.records import Place
from anomalyd.storage.segments import DamagedRecord, SegmentLog
from anomalyd.storage.tables import InstanceState, JobState, PurgeReason

_BATCH = 200
ORPHAN_AGE = timedelta(hours=1)
"""A worker writes results just before it publishes them: older files that no row knows are leftovers."""


_PUNCHED = (
    t.Instance.state == InstanceState.PURGED,
    t.Instance.erased_at.is_(None),
    t.Instance.purge_reason == PurgeReason.REQUEST,
)


@dataclass(frozen=True, slots=True)
class ErasedImages:
    """What a call of `erase_images` has removed. damaged: what is wrong with records that could not be overwritten."""

    images: int
    segments: int
    damaged: tuple[str, ...]


def erase_images(store: Store) -> ErasedImages:
    """Removes the bytes of all images that are marked; only for the holder of the log's lock, the gateway.

    Raises OSError where a segment cannot be written: nothing is noted as erased that is not.
    """
    log = SegmentLog(store.root)
    images, damaged = _punch_images(store, log)  # first: what was asked to be forgotten is also overwritten
    return ErasedImages(images, _drop_segments(store, log), damaged)


def pending_images(store: Store, study_uid: StudyUID | None = None) -> int:
    """How many images, of one study or of all, are forgotten on request and still have their bytes in the log."""
    wanted = (
        select(func.count())
        .select_from(t.Instance)
        .join(t.Series, t.Series.id == t.Instance.series_id)
        .where(*_PUNCHED)
    )
    if study_uid is not None:
        wanted = wanted.where(t.Series.study_uid == study_uid)
    with store.read() as connection:
        return connection.execute(wanted).scalar_one()


def erase_results(store: Store) -> bool:
    """Removes result files that are marked or that no row knows; True when no forgotten text is left in the database.

    If not, a reader was in the way of the write-ahead log: the next call tries again.
    """
    remove_orphans(store)
    _erase_results(store)
    return _clean_wal(store)


def remove_orphans(store: Store) -> int:
    """Removes result files that no row knows, older than ORPHAN_AGE: their worker died, or had lost its lease.

    What was written since a job that is leased was begun may be its results, however long they wait to be published (a
    full disk), and however old the wall clock, set forward, makes them look.
    """
    with store.read() as connection:
        known = set(connection.execute(select(t.Result.path)).scalars())
        leased = select(t.Job.started_at).where(t.Job.state == JobState.LEASED)
        begun = [at for at in connection.execute(leased).scalars() if at is not None]
    oldest = min([store.clock() - ORPHAN_AGE, *begun]).timestamp()
    files = [path for path in (store.root / objects.FOLDER).glob("*/*") if path.stat().st_mtime < oldest]
    names = [f"{path.parent.name}/{path.name}" for path in files]
    return objects.remove_results(store, [name for name in names if name not in known])


def _erase_results(store: Store) -> None:
    with store.read() as connection:
        marked = connection.execute(select(t.Result.id, t.Result.path).where(t.Result.purged_at.is_not(None))).all()
    if not marked:
        return
    objects.remove_results(store, [row.path for row in marked])
    with store.write() as connection:
        for first in range(0, len(marked), _BATCH):
            ids = [row.id for row in marked[first : first + _BATCH]]
            still = (t.Result.id.in_(ids), t.Result.purged_at.is_not(None))  # made anew meanwhile: it stays
            connection.execute(delete(t.Delivery).where(t.Delivery.result_id.in_(select(t.Result.id).where(*still))))
            connection.execute(delete(t.Result).where(*still))


def _punch_images(store: Store, log: SegmentLog) -> tuple[int, tuple[str, ...]]:
    """How many, and why others could not be."""
    wanted = (
        select(t.Instance.id, t.Instance.segment, t.Instance.offset, t.Series.study_uid)
        .join(t.Series, t.Series.id == t.Instance.series_id)
        .where(*_PUNCHED)
        .order_by(t.Series.study_uid, t.Instance.id)
    )
    with store.read() as connection:
        rows = connection.execute(wanted).all()
    existing = set(log.segments())
    count, damaged = 0, []
    for study_uid, group in groupby(rows, key=lambda row: str(row.study_uid)):
        gone = []
        for row in group:
            try:
                if row.segment in existing:
                    log.punch(Place(row.segment, row.offset))
            except DamagedRecord as exc:
                damaged.append(str(exc))
                continue
            gone.append(row.id)
            if len(gone) == 1:
                crash_point("purge.mid")
        if gone:
            _note_erased(store, study_uid, gone)
        count += len(gone)
    return count, tuple(damaged)


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
        if connection.execute(select(t.Meta.key).where(t.Meta.key == WAL_MAY_HOLD_TEXT)).first() is None:
            return True
    if not store.truncate_wal():
        return False  # a reader was in the way: the next call tries again
    with store.write() as connection:
        connection.execute(delete(t.Meta).where(t.Meta.key == WAL_MAY_HOLD_TEXT))
    return True
