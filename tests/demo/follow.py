"""Where each series that was sent stands, read from the daemon's store and from the PACS."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from anomalyd.daemon.send import Answer, Outgoing
from anomalyd.ids import SeriesUID
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import Job, jobs_of_series, results_of
from anomalyd.storage.series import series_named
from anomalyd.storage.tables import JobState, SeriesState


class Outcome(Enum):
    """How a series ended; the value is shown."""

    RETURNED = "analysed, results are in the PACS"
    REFUSED = "not analysed"
    WITHHELD = "analysed, result withheld"
    FAILED = "failed"
    NOT_STORED = "not taken"

    @property
    def is_explained(self) -> bool:
        """Whether the daemon did its work: sent results, or said why there are none."""
        return self is not Outcome.FAILED


@dataclass(frozen=True, slots=True)
class View:
    """One look at one series."""

    step: str
    outcome: Outcome | None = None
    """None: still on its way."""
    why: str = ""


@dataclass(slots=True)
class SentSeries:
    """One series on its way through the daemon."""

    uid: SeriesUID
    files: tuple[Outgoing, ...]
    answered: int = 0
    stored: int = 0
    refusal: str = ""
    """The last answer that was no success, in words."""

    @property
    def name(self) -> str:
        """What the person who called the demo knows it by: the folder of its files."""
        return self.files[0].path.parent.name

    def note(self, answer: Answer) -> None:
        """One file was answered."""
        self.answered += 1
        self.stored += answer.is_stored
        if not answer.is_stored:
            self.refusal = answer.text

    def look(self, store: Store, pacs: Path) -> View:
        """Where it stands now. pacs: folder of received objects, by SOP Instance UID."""
        if self.answered < len(self.files):
            return View(f"sending {self.answered} of {len(self.files)}")
        rows = series_named(store, self.uid)
        if not rows and self.stored:
            return View("stored")  # the index follows the log a moment later
        if not rows:
            return View("", Outcome.NOT_STORED, f"no object of it was taken: {self.refusal}")
        row = rows[-1]
        if row.state is SeriesState.INELIGIBLE and row.reason is not None:
            return View("", Outcome.REFUSED, str(row.reason["text"]))
        if row.state is SeriesState.QUEUED:
            return _look_at_job(jobs_of_series(store, row.study_uid, row.series_uid)[-1], store, pacs)
        waits = row.state is SeriesState.RECEIVING
        return View("stored, waits for more images" if waits else "complete, being looked at")


def _look_at_job(job: Job, store: Store, pacs: Path) -> View:
    if job.state is JobState.QUEUED:
        return View("queued")
    if job.state is JobState.LEASED:
        return View(f"analysing: {job.stage or 'start'}")
    if job.state is JobState.WITHHELD:
        return View("", Outcome.WITHHELD, str(job.reason))
    if job.state is JobState.DONE:
        results = results_of(store, job.id)
        arrived = sum((pacs / f"{result.sop_instance_uid}.dcm").exists() for result in results)
        if arrived < len(results):
            return View(f"results on the way back: {arrived} of {len(results)}")
        return View("", Outcome.RETURNED)
    return View("", Outcome.FAILED, str(job.reason))


def by_series(files: Sequence[Outgoing]) -> tuple[SentSeries, ...]:
    """In order of first appearance."""
    grouped: dict[str, list[Outgoing]] = {}
    for file in files:
        grouped.setdefault(file.series_uid, []).append(file)
    return tuple(SentSeries(SeriesUID(uid), tuple(members)) for uid, members in grouped.items())
