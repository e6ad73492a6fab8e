"""The durable queue: exactly one job per key, leases with fencing tokens, results published in one transaction.

A job that is superseded while a worker has it loses its lease at that moment: the worker's finish raises LeaseLost,
and its results are never published (the newer set of images has a job of its own).
Attempts count leases. A job whose lease ran out `max_attempts` times has killed its worker that often and is failed.
So is one that waits and has had them all: the limit was lowered, and no worker would take it.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, and_, or_, select, update

from anomalyd.errors import AnomalydError, Broken
from anomalyd.storage import notices, publication
from anomalyd.storage import tables as t
from anomalyd.storage.alarms import AlarmKind, NewAlarm, raise_alarm
from anomalyd.storage.audit_chain import append
from anomalyd.storage.audit_events import AuditEvent, AuditKind, Outcome
from anomalyd.storage.crash import crash_point
from anomalyd.storage.engine import Store
from anomalyd.storage.enqueueing import SeriesChanged, enqueue
from anomalyd.storage.jobs import (
    Job,
    JobKind,
    NewJob,
    NoSuchJob,
    Priority,
    as_job,
    job,
    job_by_id,
    jobs,
    jobs_of_series,
    results_of,
)
from anomalyd.storage.predecessors import Predecessor
from anomalyd.storage.publication import NewResult
from anomalyd.storage.studies import pseudonym
from anomalyd.storage.tables import JobState

__all__ = [
    "Job", "JobState", "Lease", "LeaseLost", "NewJob", "NewResult", "NoSuchJob", "NotPossible", "Priority",
    "SeriesChanged", "cancel_job", "enqueue", "fail", "finish", "heartbeat", "job", "jobs", "jobs_of_series", "lease",
    "reap", "release", "results_of", "retry_job",
]  # fmt: skip

MAX_ATTEMPTS = 3
RETRY_FIRST = timedelta(seconds=30)  # GATEWAY 7: min(2^tries x 30 s, 1 h)
RETRY_CAP = timedelta(hours=1)


class LeaseLost(Broken):
    """The token is not in force any more: another worker has the job, or it was superseded. Throw the work away."""

    def __init__(self, job_id: int, token: int) -> None:
        self.job_id, self.token = job_id, token
        super().__init__(f"lease {token} of job {job_id} is not in force any more: its results are not taken")


class NotPossible(AnomalydError):
    """The job is in a state that the command does not apply to."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's right to publish one job, as long as `token` is in force."""

    job: Job
    token: int
    worker: str
    until: datetime


def lease(
    store: Store, worker: str, lease_s: float, *, max_attempts: int = MAX_ATTEMPTS, takes_over: bool = True
) -> Lease | None:
    """Claims one job, or None: live before replayed before batch, oldest first; one statement, so no two get it.

    Also one whose lease ran out, while it has attempts left. takes_over: False for a caller who cannot tell whether it
    did, or the wall clock was set.
    """
    now = store.clock()
    free = and_(t.Job.state == JobState.QUEUED, t.Job.not_before <= now)
    lost = and_(t.Job.state == JobState.LEASED, t.Job.lease_until < now)
    ready = or_(free, lost) if takes_over else free
    first = (
        select(t.Job.id)
        .where(ready, t.Job.attempts < max_attempts)
        .order_by(t.Job.priority, t.Job.created_at, t.Job.id)
        .limit(1)
    )
    until = now + timedelta(seconds=lease_s)
    claim = (
        update(t.Job)
        .where(t.Job.id == first.scalar_subquery())
        .values(
            state=JobState.LEASED,
            token=t.Job.token + 1,
            attempts=t.Job.attempts + 1,
            worker=worker,
            lease_until=until,
            started_at=now,
            stage=None,
        )
        .returning(*t.Job.__table__.c)
    )
    if not _has_work(store, ready, max_attempts):
        return None  # an idle worker writes nothing
    with store.write() as connection:
        row = connection.execute(claim).mappings().first()
        if row is None:
            return None
        claimed = as_job(row)
        detail = {"worker": worker, "attempt": claimed.attempts, "token": claimed.token}
        append(connection, event_of(connection, claimed, AuditKind.STARTED, now, detail=detail))
    crash_point("lease.after_commit")
    return Lease(claimed, claimed.token, worker, until)


def heartbeat(store: Store, lease: Lease, lease_s: float, *, stage: str | None = None) -> bool:
    """Prolongs the lease and notes the stage that the job has reached; False when the lease is lost."""
    values: dict[str, Any] = {"lease_until": store.clock() + timedelta(seconds=lease_s)}
    if stage is not None:
        values["stage"] = stage
    with store.write() as connection:
        return connection.execute(update(t.Job).where(_in_force(lease)).values(**values)).rowcount == 1


def finish(
    store: Store,
    lease: Lease,
    state: Literal[JobState.DONE, JobState.WITHHELD],
    results: Sequence[NewResult],
    destinations: Sequence[str],
    *,
    report: Mapping[str, Any],
    reason: str | None = None,
    wants: publication.Wants = publication.everything,
    follows: Predecessor | None = None,
) -> Job:
    """Publishes: job, results, one delivery per result and destination, audit: one transaction (DESIGN 4, promise 7).

    report: without patient data; kept with the job. reason: why withheld. The bytes of the results lie on disk
    already (objects.write_results). wants(destination, kind): whether a destination gets results of a kind.
    follows: the answer that this one takes the place of, for the audit.
    Raises LeaseLost, and then nothing was written.
    """
    now = store.clock()
    outcome = {"state": state, "finished_at": now, "report": dict(report), "reason": reason}
    with store.write() as connection:
        done = _end_lease(connection, lease, outcome)
        publication.publish(connection, done, results, tuple(dict.fromkeys(destinations)), now, wants=wants)
        if state is JobState.DONE and done.kind is JobKind.ANALYSE:
            notices.drop_unsent(connection, done, now)
        kind = AuditKind.FINISHED if state is JobState.DONE else AuditKind.WITHHELD
        detail = publication.summary(done, results, destinations, report, now)
        if follows is not None:
            detail["follows"] = follows.detail
        append(connection, event_of(connection, done, kind, now, detail=detail))
        crash_point("results.written_before_commit")
    return done


def fail(store: Store, lease: Lease, reason: str, *, retryable: bool, max_attempts: int = MAX_ATTEMPTS) -> Job:
    """Ends the lease: queued again after a back-off if a retry may mend it and attempts are left, else failed + alarm.

    reason: in words, without patient data. Raises LeaseLost.
    """
    now = store.clock()
    with store.write() as connection:
        current = job_by_id(connection, lease.job.id)
        if not (retryable and current.attempts < max_attempts):
            failed = _end_lease(connection, lease, _failed(reason, now))
            _tell_failure(connection, failed, now)
            return failed
        wait = min(RETRY_FIRST * 2**current.attempts, RETRY_CAP) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        again = {"state": JobState.QUEUED, "not_before": now + wait, "reason": reason}
        queued = _end_lease(connection, lease, again)
        detail = {"reason": reason, "attempt": queued.attempts, "again_in_s": round(wait.total_seconds(), 1)}
        append(connection, event_of(connection, queued, AuditKind.REQUEUED, now, detail=detail, outcome=Outcome.MINOR))
    return queued


def release(store: Store, lease: Lease, why: str, *, again_in: timedelta = timedelta(0)) -> bool:
    """Gives the job back unfinished, the attempt not counted (worker told to stop, full disk); False: it was lost."""
    now = store.clock()
    with store.write() as connection:
        current = job_by_id(connection, lease.job.id)
        attempts = max(0, current.attempts - 1)
        back: dict[str, Any] = {"state": JobState.QUEUED, "attempts": attempts, "not_before": now + again_in}
        if again_in:
            back["reason"] = why  # it waits for something: `status` tells what
        try:
            free = _end_lease(connection, lease, back)
        except LeaseLost:
            return False
        append(connection, event_of(connection, free, AuditKind.RELEASED, now, detail={"reason": why}))
    return True


def reap(store: Store, max_attempts: int = MAX_ATTEMPTS) -> tuple[Job, ...]:
    """Jobs whose lease ran out, now queued again, or failed with an alarm once `max_attempts` workers died of them.

    Also failed: jobs that wait with so many attempts behind them, of a time when the limit was higher.
    """
    now = store.clock()
    died = and_(t.Job.state == JobState.LEASED, t.Job.lease_until < now)
    lost = or_(died, and_(t.Job.state == JobState.QUEUED, t.Job.attempts >= max_attempts))
    with store.read() as connection:
        if connection.execute(select(t.Job.id).where(lost).limit(1)).first() is None:
            return ()
    with store.write() as connection:
        rows = connection.execute(select(t.Job).where(lost).order_by(t.Job.id)).mappings().all()
        return tuple(_reap_one(connection, as_job(row), max_attempts, now) for row in rows)


def retry_job(store: Store, job_id: int) -> Job:
    """Queues a failed, withheld or cancelled job again, attempts counted anew; raises NoSuchJob, NotPossible."""
    now = store.clock()
    with store.write() as connection:
        old = job_by_id(connection, job_id)
        if old.state not in {JobState.FAILED, JobState.WITHHELD, JobState.CANCELLED} or old.superseded_by:
            raise NotPossible(
                f"job {job_id} is {_told(old)}: only a failed, withheld or cancelled one that no other has superseded "
                "can be retried"
            )
        values = {"state": JobState.QUEUED, "attempts": 0, "not_before": now, "finished_at": None, "reason": None}
        connection.execute(update(t.Job).where(t.Job.id == job_id).values(**values))
        append(connection, event_of(connection, old, AuditKind.REQUEUED, now, detail={"by": "hand", "was": old.state}))
        return job_by_id(connection, job_id)


def cancel_job(store: Store, job_id: int, *, by: str = "hand") -> Job:
    """Takes a queued or leased job out of the queue (its worker loses the lease); raises NoSuchJob, NotPossible.

    A failed one is closed by this too: retention may then remove its series.
    """
    now = store.clock()
    with store.write() as connection:
        old = job_by_id(connection, job_id)
        if old.state not in {JobState.QUEUED, JobState.LEASED, JobState.FAILED}:
            raise NotPossible(f"job {job_id} is {_told(old)}: only a queued, running or failed one can be cancelled")
        values = {"state": JobState.CANCELLED, "worker": None, "lease_until": None, "finished_at": now}
        connection.execute(update(t.Job).where(t.Job.id == job_id).values(**values))
        append(connection, event_of(connection, old, AuditKind.CANCELLED, now, detail={"by": by, "was": old.state}))
        return job_by_id(connection, job_id)


def event_of(
    connection: Connection,
    job: Job,
    kind: AuditKind,
    at: datetime,
    *,
    detail: Mapping[str, Any],
    outcome: Outcome = Outcome.SUCCESS,
) -> AuditEvent:
    """An audit row about a job."""
    return AuditEvent(
        kind=kind,
        at=at,
        outcome=outcome,
        study_uid=job.study_uid,
        series_uid=job.series_uid,
        job_id=job.id,
        bundle=job.bundle,
        detail=detail,
        **pseudonym(connection, job.study_uid),
    )


def _has_work(store: Store, ready: ColumnElement[bool], max_attempts: int) -> bool:
    with store.read() as connection:
        wanted = select(t.Job.id).where(ready, t.Job.attempts < max_attempts).limit(1)
        return connection.execute(wanted).first() is not None


def _in_force(lease: Lease) -> ColumnElement[bool]:
    return and_(t.Job.id == lease.job.id, t.Job.token == lease.token, t.Job.state == JobState.LEASED)


def _end_lease(connection: Connection, lease: Lease, values: Mapping[str, Any]) -> Job:
    """The job after its lease ended with these values; raises LeaseLost."""
    ended = (
        update(t.Job)
        .where(_in_force(lease))
        .values(worker=None, lease_until=None, stage=None, **values)
        .returning(*t.Job.__table__.c)
    )
    row = connection.execute(ended).mappings().first()
    if row is None:
        raise LeaseLost(lease.job.id, lease.token)
    return as_job(row)


def _reap_one(connection: Connection, lost: Job, max_attempts: int, now: datetime) -> Job:
    times = "once" if lost.attempts == 1 else f"{lost.attempts} times"
    reason = f"worker died {times}"
    if lost.state is JobState.QUEUED:
        reason = f"tried {times}, and max_attempts is {max_attempts} now: {lost.reason or 'no reason is known'}"
    if lost.attempts >= max_attempts:
        values = _failed(reason, now)
    else:
        values = {"state": JobState.QUEUED, "not_before": now, "reason": reason}
    ended = update(t.Job).where(t.Job.id == lost.id).values(worker=None, lease_until=None, **values)
    connection.execute(ended)
    after = job_by_id(connection, lost.id)
    if after.state is JobState.FAILED:
        _tell_failure(connection, after, now)
    else:
        detail = {"reason": reason, "worker": lost.worker, "attempt": lost.attempts}
        append(connection, event_of(connection, after, AuditKind.REQUEUED, now, detail=detail, outcome=Outcome.MINOR))
    return after


def _failed(reason: str, now: datetime) -> dict[str, Any]:
    return {"state": JobState.FAILED, "finished_at": now, "reason": reason}


def _tell_failure(connection: Connection, failed: Job, now: datetime) -> None:
    detail = {"reason": failed.reason, "attempts": failed.attempts}
    append(connection, event_of(connection, failed, AuditKind.FAILED, now, detail=detail, outcome=Outcome.SERIOUS))
    alarm = NewAlarm(
        kind=AlarmKind.JOB_FAILED,
        subject=f"job {failed.id}",
        text=f"job {failed.id} failed: {failed.reason}",
        next_step=f"`anomalyd explain {failed.series_uid}` tells the course; `anomalyd retry {failed.id}` tries again",
        at=now,
        study_uid=failed.study_uid,
        series_uid=failed.series_uid,
        job_id=failed.id,
    )
    raise_alarm(connection, alarm)


def _told(job: Job) -> str:
    return f"{job.state} and superseded by job {job.superseded_by}" if job.superseded_by else str(job.state)
