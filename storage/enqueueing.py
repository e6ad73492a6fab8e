"""Making jobs: one per key, whoever makes it, however often; of a series the newest one supersedes the others.

Superseding (DESIGN 4, promise 4): a job with other images, another bundle or other settings takes the place of those
before it, so that a series has one answer at a time. An unfinished one becomes `superseded` and loses its lease; a
finished or cancelled one keeps its state and points to the newer job. What was not yet sent of it is not sent any more,
and it is not tried again by hand: its answer would come after the newer one. If the same is chosen again (the later
image was purged, the bundle was put back), its job comes back: queued if it never finished, else as it was, its
deliveries due again.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from anomalyd.errors import Transient
from anomalyd.storage import tables as t
from anomalyd.storage.audit_chain import append
from anomalyd.storage.audit_events import AuditEvent, AuditKind
from anomalyd.storage.crash import crash_point
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import PURGED, SERIES_REFUSED, Job, JobKind, NewJob, as_job, job_by_id
from anomalyd.storage.predecessors import differences
from anomalyd.storage.studies import pseudonym
from anomalyd.storage.tables import DeliveryState, JobState, SeriesState

_UNFINISHED = (JobState.QUEUED, JobState.LEASED)
_UNSENT = (DeliveryState.DUE, DeliveryState.SENDING)
SUPERSEDED_DELIVERY = "superseded before it was sent"


class SeriesChanged(Transient):
    """An image came in after the choice was made: close and choose again."""

    def __init__(self, new: NewJob) -> None:
        super().__init__(f"series {new.series_uid} has changed since its images were chosen: it will be closed again")


def enqueue(store: Store, new: NewJob) -> Job:
    """The one job of this key, made if it is not there; others superseded, series queued, audit: one transaction.

    Raises SeriesChanged if the series is not closed any more, or not as it was when the choice was made.
    """
    now = store.clock()
    with store.write() as connection:
        series_id = _take_series(connection, new)
        connection.execute(
            update(t.Series).where(t.Series.id == series_id).values(state=SeriesState.QUEUED, reason=None)
        )
        job = put(connection, series_id, new, now)
        crash_point("enqueue.before_commit")
        return job


def put(connection: Connection, series_id: int, new: NewJob, now: datetime) -> Job:
    """The one job of this key, queued if it is new or was taken back, others superseded, audit.

    In the caller's transaction, which has decided about the series.
    """
    existing = _by_key(connection, series_id, new)
    job_id = existing.id if existing else insert_job(connection, series_id, new, now)
    if new.kind is JobKind.ANALYSE:
        append(connection, _event(connection, new, job_id, AuditKind.SELECTED, now=now, detail=_selection(new)))
    if existing is None:
        detail = {"priority": new.priority.name}
        append(connection, _event(connection, new, job_id, AuditKind.QUEUED, now=now, detail=detail))
    elif existing.superseded_by is not None or _was_taken_back(existing):
        _bring_back(connection, existing, new, now)
    job = job_by_id(connection, job_id)
    _supersede_others(connection, series_id, new, job, now)
    return job


def _take_series(connection: Connection, new: NewJob) -> int:
    wanted = select(t.Series.id, t.Series.state, t.Series.arrivals).where(
        t.Series.study_uid == new.study_uid, t.Series.series_uid == new.series_uid
    )
    row = connection.execute(wanted).first()
    is_same = row is not None and row.state in {SeriesState.CLOSED, SeriesState.QUEUED}
    if row is None or not is_same or (new.arrivals is not None and row.arrivals != new.arrivals):
        raise SeriesChanged(new)
    return int(row.id)


def _by_key(connection: Connection, series_id: int, new: NewJob) -> Job | None:
    key = select(t.Job).where(
        t.Job.series_id == series_id,
        t.Job.instance_set == new.instance_set,
        t.Job.bundle == new.bundle,
        t.Job.settings == new.settings,
        t.Job.kind == new.kind,
    )
    row = connection.execute(key).mappings().first()
    return as_job(row) if row else None


def insert_job(connection: Connection, series_id: int, new: NewJob, now: datetime) -> int:
    """The row of a queued job, in the caller's transaction; gives its number."""
    values = {
        "series_id": series_id,
        "study_uid": new.study_uid,
        "series_uid": new.series_uid,
        "kind": new.kind,
        "instance_set": new.instance_set,
        "instances": [[uid, None if frames is None else list(frames)] for uid, frames in new.instances],
        "bundle": new.bundle,
        "bundle_id": new.bundle_id,
        "settings": new.settings,
        "contrast": new.contrast,
        "warnings": list(new.warnings),
        "report": new.report and dict(new.report),
        "priority": int(new.priority),
        "state": JobState.QUEUED,
        "token": 0,
        "attempts": 0,
        "created_at": now,
        "not_before": now,
    }
    return int(connection.execute(insert(t.Job).values(**values).returning(t.Job.id)).scalar_one())


def _was_taken_back(old: Job) -> bool:
    """Its answer is gone (purge or retention), or it was not to be given when the series was refused.

    The same images sent again are answered again.
    """
    if old.state is JobState.CANCELLED:
        return old.reason in (PURGED, SERIES_REFUSED)
    return old.report is None and old.state in {JobState.DONE, JobState.WITHHELD}


def _bring_back(connection: Connection, old: Job, new: NewJob, now: datetime) -> None:
    values: dict[str, Any] = {"superseded_by": None}
    if old.state is JobState.SUPERSEDED or _was_taken_back(old):
        values |= {"state": JobState.QUEUED, "attempts": 0, "not_before": now, "finished_at": None, "reason": None}
        values["report"] = new.report and dict(new.report)
    connection.execute(update(t.Job).where(t.Job.id == old.id).values(**values))
    connection.execute(
        update(t.Delivery)
        .where(t.Delivery.job_id == old.id, t.Delivery.state == DeliveryState.CLOSED)
        .where(t.Delivery.error == SUPERSEDED_DELIVERY)
        .values(state=DeliveryState.DUE, next_at=now, since=now, error=None)
    )
    detail = {"reason": "the same images were chosen again", "was": old.state, "superseded_by": old.superseded_by}
    append(connection, _event(connection, new, old.id, AuditKind.REQUEUED, now=now, detail=detail))


def _supersede_others(connection: Connection, series_id: int, new: NewJob, job: Job, now: datetime) -> None:
    others = select(t.Job).where(
        t.Job.series_id == series_id,
        t.Job.kind.in_((job.kind, JobKind.NOTICE)),  # that a series was not chosen is not told once it is
        t.Job.id != job.id,
        t.Job.superseded_by.is_(None),
    )
    for row in connection.execute(others.order_by(t.Job.id)).mappings().all():
        old = as_job(row)
        values: dict[str, Any] = {"superseded_by": job.id}
        if old.state in _UNFINISHED:
            values |= {"state": JobState.SUPERSEDED, "worker": None, "lease_until": None, "finished_at": now}
        connection.execute(update(t.Job).where(t.Job.id == old.id).values(**values))
        unsent = _close_unsent(connection, old.id)
        differs = list(differences(old, job))
        detail = {"by_job": job.id, "was": old.state, "differs": differs, "deliveries_dropped": unsent}
        append(connection, _event(connection, new, old.id, AuditKind.SUPERSEDED, now=now, detail=detail))


def _close_unsent(connection: Connection, job_id: int) -> int:
    unsent = (t.Delivery.job_id == job_id, t.Delivery.state.in_(_UNSENT))
    closed = update(t.Delivery).where(*unsent).values(state=DeliveryState.CLOSED, error=SUPERSEDED_DELIVERY)
    return connection.execute(closed).rowcount


def _selection(new: NewJob) -> dict[str, Any]:
    texts: dict[str, Sequence[str]] = {"left_out": new.left_out, "warnings": new.warnings}
    said = {name: list(value) for name, value in texts.items() if value}
    return {
        "contrast": new.contrast,
        "bundle_id": new.bundle_id,
        "instance_set": new.instance_set,
        "instances": len(new.instances),
        **said,
    }


def _event(
    connection: Connection, new: NewJob, job_id: int, kind: AuditKind, *, now: datetime, detail: dict[str, Any]
) -> AuditEvent:
    return AuditEvent(
        kind=kind,
        at=now,
        study_uid=new.study_uid,
        series_uid=new.series_uid,
        job_id=job_id,
        bundle=new.bundle,
        detail=detail,
        **pseudonym(connection, new.study_uid),
    )
