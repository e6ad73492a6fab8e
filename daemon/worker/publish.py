"""What a job's answer does to the store: results and deliveries, or a reason, in one transaction each."""

from dataclasses import asdict
from datetime import timedelta

import structlog

from anomalyd.daemon.routing import destinations_for, is_too_old, is_wanted
from anomalyd.daemon.settings import DaemonSettings, Destination
from anomalyd.daemon.worker.messages import Analysed, Answer, Cancelled, Failed, NotEligible, WithheldScan
from anomalyd.pipeline.terms import ResultKind
from anomalyd.storage import queue
from anomalyd.storage.alarms import AlarmKind, NewAlarm, raise_alarm
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import Job, Priority
from anomalyd.storage.queue import Lease, LeaseLost
from anomalyd.storage.refusing import NewNotice, refuse_series
from anomalyd.storage.series import SeriesRow, series_row
from anomalyd.storage.tables import JobState, SeriesState

STORE_RETRY = timedelta(seconds=30)
"""An analysis whose results could not be written waits so long for a disk with room."""
log = structlog.get_logger()


def publish(store: Store, lease: Lease, answer: Answer, daemon: DaemonSettings, max_attempts: int) -> None:
    """Write down the answer; a lease that is lost by now makes it void."""
    job = lease.job
    try:
        if isinstance(answer, Analysed | WithheldScan):
            _publish_results(store, lease, answer, daemon)
        elif isinstance(answer, NotEligible):
            _refuse(store, lease, answer, daemon, max_attempts)
        elif isinstance(answer, Failed) and answer.is_of_store:
            queue.release(store, lease, answer.text, again_in=STORE_RETRY)
            log.warning("job.given_back", job_id=job.id, series_uid=job.series_uid, reason=answer.text)
        elif isinstance(answer, Failed):
            after = queue.fail(store, lease, answer.text, retryable=answer.is_retryable, max_attempts=max_attempts)
            write = log.error if after.state is JobState.FAILED else log.warning
            write("job.failed", job_id=job.id, series_uid=job.series_uid, state=after.state.value, reason=answer.text)
        elif isinstance(answer, Cancelled):
            log.info("job.stopped", job_id=job.id, series_uid=job.series_uid)
    except LeaseLost:
        log.warning("job.lease_lost", job_id=job.id, series_uid=job.series_uid, token=lease.token)


def _publish_results(store: Store, lease: Lease, answer: Analysed | WithheldScan, daemon: DaemonSettings) -> None:
    job = lease.job
    series = series_row(store, job.study_uid, job.series_uid)
    only = answer.destination if isinstance(answer, Analysed) else None
    if only is not None:
        found = tuple(to for to in daemon.destinations if to.name == only)
    else:
        found = _destinations(store, daemon, job, series) if series else ()
    kinds = {to.name: to.send for to in found}
    names = tuple(kinds)
    why = answer.text if isinstance(answer, WithheldScan) else None
    queue.finish(
        store, lease, JobState.DONE if why is None else JobState.WITHHELD, answer.results, names, report=answer.report,
        reason=why, follows=None if isinstance(answer, WithheldScan) else answer.follows,
        wants=lambda name, kind: kind in kinds[name],
    )  # fmt: skip
    if why is not None:
        log.info("job.withheld", job_id=job.id, series_uid=job.series_uid, reason=why, destinations=list(names))
        return
    log.info(
        "job.finished",
        job_id=job.id,
        series_uid=job.series_uid,
        results=len(answer.results),
        lesions=len(answer.report.get("lesions") or ()),
        destinations=list(names),
    )


def _destinations(store: Store, daemon: DaemonSettings, job: Job, series: SeriesRow) -> tuple[Destination, ...]:
    if job.priority is not Priority.BATCH and is_too_old(daemon, series.last_at, store.clock()):
        log.warning("results.too_old", series_uid=series.series_uid, received_at=series.last_at.isoformat())
        return ()
    found = destinations_for(daemon, series.calling_ae)
    if not found and daemon.return_to_sender:
        _tell_no_way_back(store, series)
    return found


def _tell_no_way_back(store: Store, series: SeriesRow) -> None:
    log.error("results.no_destination", series_uid=series.series_uid, sender=series.calling_ae)
    with store.write() as connection:
        raise_alarm(
            connection,
            NewAlarm(
                kind=AlarmKind.DELIVERY_REFUSED,
                subject=f"sender {series.calling_ae}",
                text=f"results cannot be returned: no destination has the AE title {series.calling_ae}",
                next_step="add it under daemon.destinations, restart; `anomalyd retry JOB` then sends what was made",
                at=store.clock(),
                study_uid=series.study_uid,
                series_uid=series.series_uid,
            ),
        )


def _refuse(store: Store, lease: Lease, answer: NotEligible, daemon: DaemonSettings, max_attempts: int) -> None:
    """The series becomes ineligible and its job cancelled, unless images came in since: then the job just ends."""
    job = lease.job
    series = series_row(store, job.study_uid, job.series_uid)
    if series is not None and series.state is SeriesState.QUEUED:
        is_told = is_wanted(daemon, series.calling_ae, ResultKind.INELIGIBLE)
        notice = NewNotice(job.instances, job.instance_set, job.settings) if is_told else None
        refuse_series(store, series, asdict(answer.reason), notice=notice)
        log.info("series.refused", series_uid=series.series_uid, criterion=answer.reason.criterion)
    else:
        queue.fail(store, lease, answer.reason.text, retryable=True, max_attempts=max_attempts)
