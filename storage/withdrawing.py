"""Withdrawing superseded results: what a rejection note is due for, and the job of its own that makes it (IHE IOCM).

A note is due at a destination that takes notes, for a superseded job that had results stored there, once the results of
the job that stands for the series now are confirmed there: a study is never left without an answer. It lists every
object that the destination has answered for, and no other: a note that names unknown objects may be refused whole.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Exists, Select, exists, insert, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from anomalyd.errors import Broken
from anomalyd.ids import Digest
from anomalyd.storage import delivery_audit as told
from anomalyd.storage import tables as t
from anomalyd.storage.audit_chain import append
from anomalyd.storage.audit_events import AuditEvent, AuditKind
from anomalyd.storage.crash import crash_point
from anomalyd.storage.delivery_rows import change, pick
from anomalyd.storage.engine import Store
from anomalyd.storage.enqueueing import insert_job
from anomalyd.storage.jobs import Job, JobKind, NewJob, ResultRow, job_by_id
from anomalyd.storage.studies import pseudonym
from anomalyd.storage.tables import DeliveryState, JobState

_ANSWERED = (JobState.DONE, JobState.WITHHELD)
_OVER = (DeliveryState.CONFIRMED, DeliveryState.CLOSED)
_IS_THERE = or_(t.Delivery.sent_at.is_not(None), t.Delivery.confirmed_at.is_not(None))
"""The destination has answered for it, whatever became of the delivery since."""


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What a note job is for. by: the job that took the place of `withdrawn`. results: those that the note lists."""

    withdrawn: Job
    by: int
    destination: str
    results: tuple[ResultRow, ...]

    @property
    def detail(self) -> dict[str, Any]:
        """For audit rows."""
        return {
            "job": self.withdrawn.id,
            "by_job": self.by,
            "destination": self.destination,
            "objects": len(self.results),
            "series": sorted({row.series_uid for row in self.results}),
        }


def enqueue_notes(store: Store, destinations: Collection[str]) -> tuple[Job, ...]:
    """A note job for each superseded job and destination that one is due for, each in a transaction with its audit.

    destinations: names of those that take notes. Each job and destination has one note, however often this is called.
    """
    with store.read() as connection:
        due = [
            (old_id, name) for name in destinations for old_id in connection.execute(_superseded(name)).scalars().all()
        ]
    return tuple(note for old_id, name in due if (note := _enqueue(store, old_id, name)) is not None)


def withdrawal_of(store: Store, note: Job) -> Withdrawal:
    """What a note is for; raises Broken where the listed results are not kept any more."""
    with store.read() as connection:
        row = connection.execute(select(t.Withdrawal).where(t.Withdrawal.note_id == note.id)).mappings().one()
        results = _rows(connection, t.Result.sop_instance_uid.in_([uid for uid, _ in note.instances]))
        withdrawn = job_by_id(connection, row["withdrawn_id"])
    if len(results) != len(note.instances):
        raise Broken(f"{len(note.instances) - len(results)} of the results to be withdrawn are not kept any more")
    return Withdrawal(withdrawn, row["by_id"], row["destination"], results)


def is_withdrawn(store: Store, job_id: int) -> bool:
    """Whether results of the job were withdrawn anywhere, or are about to be."""
    wanted = select(t.Withdrawal.note_id).where(t.Withdrawal.withdrawn_id == job_id).limit(1)
    with store.read() as connection:
        return connection.execute(wanted).first() is not None


def _superseded(destination: str) -> Select[int]:
    """Superseded jobs with results that were stored there and that no note withdraws there."""
    stored = exists().where(t.Delivery.job_id == t.Job.id, t.Delivery.destination == destination, _IS_THERE)
    is_old = (t.Job.superseded_by.is_not(None), t.Job.kind != JobKind.REJECTION_NOTE)
    return select(t.Job.id).where(*is_old, ~_noted(t.Job.id, destination), stored).order_by(t.Job.id)


def _noted(job_id: int | InstrumentedAttribute[int], destination: str) -> Exists:
    return exists().where(t.Withdrawal.withdrawn_id == job_id, t.Withdrawal.destination == destination)


def _enqueue(store: Store, old_id: int, destination: str) -> Job | None:
    with store.read() as connection:
        if _successor(connection, old_id, destination) is None:
            return None
    now = store.clock()
    with store.write() as connection:
        is_due = connection.execute(_superseded(destination).where(t.Job.id == old_id)).first() is not None
        by = _successor(connection, old_id, destination)
        old, results = job_by_id(connection, old_id), _stored_at(connection, old_id, destination)
        if not is_due or by is None or not results:  # an image came, another dispatcher was faster, or it was purged
            return None
        note = job_by_id(connection, insert_job(connection, old.series_id, _note_of(old, destination, results), now))
        names = {"note_id": note.id, "withdrawn_id": old_id, "by_id": by, "destination": destination}
        connection.execute(insert(t.Withdrawal).values(**names))
        append(connection, _event(connection, note, Withdrawal(old, by, destination, results), now))
        _close_rest(connection, old, destination, note, now)
        crash_point("withdraw.before_commit")
    return note


def _close_rest(connection: Connection, old: Job, destination: str, note: Job, now: datetime) -> None:
    """What is not confirmed of the withdrawn is asked for and sent no more: it would be told missing, and come back."""
    theirs = (t.Delivery.job_id == old.id, t.Delivery.destination == destination)
    still_open = t.Delivery.state.not_in(_OVER)
    ids = connection.execute(select(t.Delivery.id).where(*theirs, still_open)).scalars().all()
    chosen = pick(connection, ids, still_open)
    why = f"withdrawn by the rejection note of job {note.id}"
    change(connection, chosen, state=DeliveryState.CLOSED, error=why)
    told.each(connection, chosen, AuditKind.DELIVERY_CLOSED, now, detail={"reason": why})


def _successor(connection: Connection, old_id: int, destination: str) -> int | None:
    """The job that stands for the series now, if all that goes there of it is confirmed there, and not withdrawn."""
    series = select(t.Job.series_id).where(t.Job.id == old_id).scalar_subquery()
    current = (t.Job.series_id == series, t.Job.kind == JobKind.ANALYSE, t.Job.superseded_by.is_(None))
    newest = select(t.Job.id, t.Job.state).where(*current, t.Job.state != JobState.CANCELLED)
    row = connection.execute(newest.order_by(t.Job.id.desc()).limit(1)).first()
    if row is None or row.state not in _ANSWERED:
        return None
    # A result that was withdrawn and came back is hidden there: what lies beside it must stay to be seen.
    if connection.execute(select(_noted(row.id, destination))).scalar():
        return None
    there = select(t.Delivery.state).where(t.Delivery.job_id == row.id, t.Delivery.destination == destination)
    states = set(connection.execute(there.distinct()).scalars())
    is_there = DeliveryState.CONFIRMED in states and states <= set(_OVER)
    return int(row.id) if is_there else None


def _stored_at(connection: Connection, job_id: int, destination: str) -> tuple[ResultRow, ...]:
    there = (t.Delivery.job_id == job_id, t.Delivery.destination == destination, _IS_THERE)
    return _rows(connection, t.Result.id.in_(select(t.Delivery.result_id).where(*there)))


def _rows(connection: Connection, condition: ColumnElement[bool]) -> tuple[ResultRow, ...]:
    columns = [getattr(t.Result, name) for name in ResultRow.__dataclass_fields__]
    wanted = select(*columns).where(condition, t.Result.purged_at.is_(None)).order_by(t.Result.id)
    return tuple(ResultRow(**row) for row in connection.execute(wanted).mappings())


def _note_of(old: Job, destination: str, results: Sequence[ResultRow]) -> NewJob:
    """Bundle and settings are those of what is withdrawn; the set is the list, and where it goes."""
    uids = sorted(row.sop_instance_uid for row in results)
    return NewJob(
        study_uid=old.study_uid,
        series_uid=old.series_uid,
        instance_set=Digest(hashlib.sha256("\n".join([destination, *uids]).encode("ascii")).hexdigest()),
        instances=tuple((uid, None) for uid in uids),
        bundle=old.bundle,
        bundle_id=old.bundle_id,
        settings=old.settings,
        contrast=old.contrast,
        kind=JobKind.REJECTION_NOTE,
    )


def _event(connection: Connection, note: Job, why: Withdrawal, now: datetime) -> AuditEvent:
    return AuditEvent(
        kind=AuditKind.QUEUED,
        at=now,
        study_uid=note.study_uid,
        series_uid=note.series_uid,
        job_id=note.id,
        destination=why.destination,
        bundle=note.bundle,
        detail={"priority": note.priority.name, "withdraws": why.detail},
        **pseudonym(connection, note.study_uid),
    )
