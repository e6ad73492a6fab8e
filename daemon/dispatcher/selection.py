"""What becomes of a closed series: a job for the bundle of its contrast, or a reason why there is none.

Everything here may be done twice: the job's key makes it one job, and a decision made on images that have changed in
the meantime is not written (the series then closes again).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict

import structlog
from sqlalchemy.exc import DBAPIError

from anomalyd.daemon.dispatcher.headers import Headers, ParsedSeries
from anomalyd.ids import AETitle, Digest
from anomalyd.pipeline.finding import Contrast, Model, Reason
from anomalyd.pipeline.selection import Eligibility, choose, digest_of, instance_set, nameable
from anomalyd.pipeline.series import SeriesHeader, assemble
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.storage import queue
from anomalyd.storage.alarms import AlarmKind, NewAlarm, raise_alarm
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import Job, JobKind, NewJob, Priority
from anomalyd.storage.queue import SeriesChanged
from anomalyd.storage.refusing import NewNotice, refuse_series
from anomalyd.storage.series import SeriesRow, series_in, series_row
from anomalyd.storage.tables import JobState, SeriesState

NO_HEADER = "no object of the series can be read"
log = structlog.get_logger()

Tells = Callable[[AETitle | None], bool]
"""Whether a destination wants to be told of series from this sender that are not chosen for analysis."""


class Selection:
    """Decides about closed series; one thread at a time."""

    def __init__(
        self,
        store: Store,
        headers: Headers,
        settings: PipelineSettings,
        bundles: Mapping[Contrast, Model],
        tells: Tells = lambda _sender: False,
    ) -> None:
        self._store, self._headers, self._settings, self._bundles = store, headers, settings, bundles
        self._tells = tells
        self._settings_digest = settings.analysis.digest

    def sweep(self) -> int:
        """Decides about every closed series, also those that a killed dispatcher left behind; how many have a job."""
        rows = series_in(self._store, SeriesState.CLOSED)
        return sum(self._decided(row) for row in rows)

    def renew_outdated(self) -> int:
        """Queued jobs of a bundle or of settings that are not in force any more are made anew; how many.

        Called once at start: an upgrade or a changed configuration must not leave jobs that no worker can do.
        """
        queued = [job for job in queue.jobs(self._store, JobState.QUEUED) if job.kind is JobKind.ANALYSE]
        outdated = [job for job in queued if not self._is_in_force(job)]
        return sum(self._renewed(job) for job in outdated)

    def analyse_again(self, row: SeriesRow) -> Job | Reason:
        """A job of priority BATCH under what is in force, or why there can be none: the series stays as it is then.

        Raises SeriesChanged.
        """
        parsed = self._headers.of(row)
        if not parsed.headers:
            return _unreadable(parsed)
        answer = choose(assemble(parsed.headers), self._settings, frozenset(self._bundles), row.calling_ae)
        return answer.reason or self._enqueue(row, parsed, answer, Priority.BATCH)

    def _renewed(self, job: Job) -> bool:
        row = series_row(self._store, job.study_uid, job.series_uid)
        if row is None or row.state is not SeriesState.QUEUED:
            return False
        log.info("job.outdated", job_id=job.id, series_uid=job.series_uid, bundle=job.bundle)
        queue.cancel_job(self._store, job.id, by="its bundle or settings are not in force any more")
        is_made = self._decided(row, job.priority)
        for same in queue.jobs_of_series(self._store, job.study_uid, job.series_uid):
            is_off = same.state is JobState.CANCELLED and same.superseded_by is None
            if is_off and self._is_in_force(same):  # settings were changed there and back
                queue.retry_job(self._store, same.id)
        return is_made

    def _is_in_force(self, job: Job) -> bool:
        bundles = {model.digest for model in self._bundles.values()}
        return job.bundle in bundles and job.settings == self._settings_digest

    def _decided(self, row: SeriesRow, priority: Priority = Priority.LIVE) -> bool:
        """True when a job stands for the series now; no series can hold up the others."""
        try:
            return self._decide(row, priority)
        except SeriesChanged:
            return False
        except DBAPIError:  # the database's own trouble is not the series' fault: the next sweep tries again
            raise
        except Exception as exc:
            log.exception("selection.failed", series_uid=row.series_uid)
            self._give_up(row, type(exc).__name__)
            return False

    def _decide(self, row: SeriesRow, priority: Priority) -> bool:
        parsed = self._headers.of(row)
        if not parsed.headers:
            self._refuse(row, _unreadable(parsed), no_notice=NO_HEADER if self._tells(row.calling_ae) else "")
            return False
        header = assemble(parsed.headers)
        answer = choose(header, self._settings, frozenset(self._bundles), row.calling_ae)
        if answer.reason is not None:
            notice = self._notice(answer, header, parsed) if self._tells(row.calling_ae) else None
            self._refuse(row, answer.reason, notice)
            return notice is not None
        self._enqueue(row, parsed, answer, priority)
        return True

    def _enqueue(self, row: SeriesRow, parsed: ParsedSeries, answer: Eligibility, priority: Priority) -> Job:
        if answer.contrast is None or answer.volume is None:
            raise ValueError("an eligible series has a contrast and a volume")
        bundle = self._bundles[answer.contrast]
        left_out = tuple(f"unreadable object: {one.text}" for one in parsed.unreadable)
        job = queue.enqueue(
            self._store,
            NewJob(
                study_uid=row.study_uid,
                series_uid=row.series_uid,
                instance_set=instance_set(answer.volume, parsed.sha256),
                instances=answer.volume.instances,
                bundle=Digest(bundle.digest),
                bundle_id=bundle.bundle_id,
                settings=self._settings_digest,
                contrast=answer.contrast,
                arrivals=row.arrivals,
                warnings=answer.warnings,
                left_out=answer.left_out + left_out,
                priority=priority,
            ),
        )
        self._headers.forget(row)
        log.info("job.queued", job_id=job.id, series_uid=row.series_uid, contrast=job.contrast, bundle=job.bundle_id)
        return job

    def _notice(self, answer: Eligibility, header: SeriesHeader, parsed: ParsedSeries) -> NewNotice | None:
        named = nameable(answer, header)
        return NewNotice(named, digest_of(named, parsed.sha256), self._settings_digest) if named else None

    def _refuse(self, row: SeriesRow, reason: Reason, notice: NewNotice | None = None, *, no_notice: str = "") -> None:
        if refuse_series(self._store, row, asdict(reason), notice=notice, no_notice=no_notice):
            self._headers.forget(row)
            log.info("series.refused", series_uid=row.series_uid, criterion=reason.criterion, reason=reason.text)

    def _give_up(self, row: SeriesRow, error: str) -> None:
        """An error of ours: not analysed, and not silent."""
        text = f"an error of the program ({error}): its log says where"
        self._refuse(row, Reason("program_error", error, None, text))
        with self._store.write() as connection:
            raise_alarm(
                connection,
                NewAlarm(
                    kind=AlarmKind.ROLE_FAILED,
                    subject=f"series {row.series_uid}"[:128],
                    text=f"series {row.series_uid} could not be judged: {text}",
                    next_step="report it with the dispatcher's log; sending the series again tries again",
                    at=self._store.clock(),
                    study_uid=row.study_uid,
                    series_uid=row.series_uid,
                ),
            )


def _unreadable(parsed: ParsedSeries) -> Reason:
    count = len(parsed.unreadable)
    text = f"0 of {count} objects are readable: {parsed.unreadable[0].text}" if count else "no object is stored"
    return Reason("readable", 0, count, text)
