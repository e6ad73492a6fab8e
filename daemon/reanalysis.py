"""Analysing again, on request: series whose answer is of another bundle, or of other settings, than those in force.

Never by itself: a new bundle would send the whole archive to the PACS once more.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from anomalyd.daemon.bundles import bundles_in_force, facts_in_force
from anomalyd.daemon.dispatcher.headers import Headers
from anomalyd.daemon.dispatcher.selection import Selection
from anomalyd.daemon.settings import Settings
from anomalyd.daemon.wake import Role, notify, waiters
from anomalyd.errors import AnomalydError
from anomalyd.ids import SeriesUID
from anomalyd.pipeline import rules
from anomalyd.pipeline.finding import Contrast, Model, Reason
from anomalyd.storage import audit
from anomalyd.storage.answers import Answer, answers, images_gone
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import jobs_of_series
from anomalyd.storage.queue import SeriesChanged
from anomalyd.storage.series import series_row
from anomalyd.storage.tables import JobState
from anomalyd.storage.withdrawing import is_withdrawn

_OPEN = (JobState.QUEUED, JobState.LEASED)


class OldRoles(AnomalydError):
    """A running role was started with other bundles or settings: it could not do the jobs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One series. left_alone: why it is not analysed again; empty: it is, or would be. job_id: the new one."""

    answer: Answer
    bundle_id: str = ""
    job_id: int | None = None
    left_alone: str = ""


class Reanalysis:
    """Under the configuration as it is now; one use for each command."""

    def __init__(self, store: Store, settings: Settings) -> None:
        """Raises ConfigError for bundles that cannot be used, and OldRoles."""
        self._store = store
        self._bundles: Mapping[Contrast, Model] = bundles_in_force(settings.pipeline)
        self._settings_digest = settings.pipeline.analysis.digest
        headers = Headers(store, rules.keywords(settings.pipeline))
        self._selection = Selection(store, headers, settings.pipeline, self._bundles)
        self._refuse_old_roles(facts_in_force(self._bundles, settings.pipeline))

    def outdated(self, *, since: datetime | None = None, series: Collection[SeriesUID] = ()) -> Iterator[Outcome]:
        """Series received since then whose answer is outdated; of those named each, also where it is not."""
        for answer in answers(self._store, since=since, series=series):
            found = self._judged(answer)
            if series or found is not None:
                yield found or Outcome(answer, left_alone="its answer is of the bundle and the settings in force")

    def queue(self, outdated: Outcome) -> Outcome:
        """The new job of a series that `outdated` gave; or why it has none after all (rules, an image that came)."""
        answer = outdated.answer
        row = series_row(self._store, answer.study_uid, answer.series_uid)
        try:
            made = self._selection.analyse_again(row) if row is not None else None
        except SeriesChanged:
            made = None
        if made is None:
            return Outcome(answer, outdated.bundle_id, left_alone="an image came in: it is analysed anyhow")
        if isinstance(made, Reason):
            return Outcome(answer, outdated.bundle_id, left_alone=f"not chosen any more: {made.text}")
        notify(self._store.root, Role.WORKER)
        return Outcome(answer, outdated.bundle_id, job_id=made.id)

    def _judged(self, answer: Answer) -> Outcome | None:
        """None where the answer is of what is in force."""
        model = self._bundles.get(Contrast(answer.contrast))
        if model is not None and (answer.bundle, answer.settings) == (model.digest, self._settings_digest):
            return None
        bundle_id = model.bundle_id if model else ""
        return Outcome(answer, bundle_id, left_alone=self._obstacle(answer, model))

    def _obstacle(self, answer: Answer, model: Model | None) -> str:
        if model is None:
            return f"there is no bundle for {answer.contrast} any more"
        if answer.state in _OPEN:
            return f"job {answer.job_id} is {answer.state}"
        if gone := images_gone(self._store, answer.job_id):
            return f"{gone} of its images are not kept any more"
        key = (model.digest, self._settings_digest)
        for job in jobs_of_series(self._store, answer.study_uid, answer.series_uid):
            if (job.bundle, job.settings) == key and is_withdrawn(self._store, job.id):
                return f"the answer of {model.bundle_id} (job {job.id}) was withdrawn, its UIDs cannot come back"
        return ""

    def _refuse_old_roles(self, wanted: Mapping[str, object]) -> None:
        rows = audit.query(self._store, AuditFilter(kind=AuditKind.STARTED_ROLE))
        started = {row.detail.get("role"): row for row in rows}  # the last start of each
        for role in (Role.DISPATCHER, Role.WORKER):
            row = started.get(role.value)
            if row is None or not waiters(self._store.root, role):
                continue  # it does not run: it will begin with the configuration as it is then
            if any(row.detail.get(name) != value for name, value in wanted.items()):
                raise OldRoles(
                    f"the {role} runs with other bundles or settings than the configuration names: restart it"
                )
