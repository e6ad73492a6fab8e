"""Refusing a series: the reason in its row, its unfinished jobs cancelled, and the job of a notice, if it is wanted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from anomalyd.ids import Digest, SeriesUID
from anomalyd.storage import tables as t
from anomalyd.storage.audit_chain import append
from anomalyd.storage.audit_events import AuditKind
from anomalyd.storage.engine import Store
from anomalyd.storage.enqueueing import put
from anomalyd.storage.jobs import SERIES_REFUSED, JobInstances, JobKind, NewJob
from anomalyd.storage.series import SeriesRow, decide, event_of
from anomalyd.storage.tables import JobState, SeriesState

NO_BUNDLE = Digest("")
OURS = "the series is a result that was made here"


@dataclass(frozen=True, slots=True)
class NewNotice:
    """What the notice of a refused series is made of. instances: the objects that it names, at least one."""

    instances: JobInstances
    instance_set: Digest
    settings: Digest


def refuse_series(
    store: Store, series: SeriesRow, reason: Mapping[str, Any], *, notice: NewNotice | None = None, no_notice: str = ""
) -> bool:
    """closed (or queued, or receiving) -> ineligible; False if an image came in between.

    reason: criterion, value, limit, text, without patient data. Jobs of the series that are not finished are
    cancelled: they were made for a set of images that the series no longer is. notice: to be made by a worker, in the
    same transaction; not of a series whose UID is that of a result: what we sent would be answered with a notice, and
    so for ever. no_notice: why a notice that is wanted cannot be made, for the audit.
    """
    now = store.clock()
    before = (SeriesState.CLOSED, SeriesState.QUEUED, SeriesState.RECEIVING)
    with store.write() as connection:
        if not decide(connection, series, before, SeriesState.INELIGIBLE, reason=dict(reason)):
            return False
        if notice is not None and _is_ours(connection, series.series_uid):
            notice, no_notice = None, OURS
        detail = {**reason, **({"no_notice": no_notice} if no_notice else {})}
        append(connection, event_of(connection, series, AuditKind.REFUSED, now, detail))
        _cancel_jobs(connection, series, now)
        if notice is not None:
            put(connection, series.id, _job_of(series, notice, reason), now)
    return True


def _is_ours(connection: Connection, series_uid: SeriesUID) -> bool:
    wanted = select(t.Result.id).where(t.Result.series_uid == series_uid).limit(1)
    return connection.execute(wanted).first() is not None


def _cancel_jobs(connection: Connection, series: SeriesRow, now: datetime) -> None:
    of_images = (t.Job.series_id == series.id, t.Job.kind.in_((JobKind.ANALYSE, JobKind.NOTICE)))
    unfinished = (*of_images, t.Job.state.in_((JobState.QUEUED, JobState.LEASED)))
    values = {"state": JobState.CANCELLED, "worker": None, "lease_until": None, "finished_at": now}
    for job_id in connection.execute(select(t.Job.id).where(*unfinished)).scalars().all():
        connection.execute(update(t.Job).where(t.Job.id == job_id).values(**values, reason=SERIES_REFUSED))
        detail = {"reason": "the series is no longer eligible"}
        append(connection, event_of(connection, series, AuditKind.CANCELLED, now, detail, job_id=job_id))


def _job_of(series: SeriesRow, notice: NewNotice, reason: Mapping[str, Any]) -> NewJob:
    return NewJob(
        study_uid=series.study_uid,
        series_uid=series.series_uid,
        instance_set=notice.instance_set,
        instances=notice.instances,
        bundle=NO_BUNDLE,
        bundle_id="",
        settings=notice.settings,
        contrast="",
        kind=JobKind.NOTICE,
        report={"status": "ineligible", "reason": dict(reason)},
    )
