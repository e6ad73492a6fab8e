"""Jobs as values, and how to look at them. What changes them is in queue.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from anomalyd.errors import AnomalydError
from anomalyd.ids import Digest, InstanceUID, SeriesUID, StudyUID
from anomalyd.storage import tables as t
from anomalyd.storage.engine import Store
from anomalyd.storage.tables import JobState

JobInstances = tuple[tuple[InstanceUID, tuple[int, ...] | None], ...]
"""Images of the analysed volume, in slice order: SOP Instance UID and 1-based frames (None: a classic image). Of a
rejection note the result objects that it lists."""

PURGED = "purged"
"""Reason of a job that a purge has cancelled."""
SERIES_REFUSED = "series refused"
"""Reason of a job that was cancelled because its series is not eligible any more."""


class JobKind(StrEnum):
    """What a job does; a part of its key."""

    ANALYSE = "analyse"
    NOTICE = "notice"
    """Builds the notice that a series was not chosen for analysis (refusing.py)."""
    REJECTION_NOTE = "rejection_note"
    """Builds the note that withdraws the results of a superseded analysis (withdrawing.py)."""


class Priority(IntEnum):
    """Live before replayed or batch (DESIGN 11)."""

    LIVE = 0
    REPLAYED = 1
    BATCH = 2
    """Asked for by hand, of series that may have come long ago: results are sent however old they are."""


class NoSuchJob(AnomalydError):
    """No job has this number."""

    def __init__(self, job_id: int) -> None:
        self.job_id = job_id
        super().__init__(f"there is no job {job_id}: `anomalyd jobs` lists those that are")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """What makes a job the one it is (series, instance_set, bundle, settings, kind), and what its worker needs.

    arrivals: SeriesRow.arrivals that the choice was made on.
    left_out: what else was in the series, in words, for the audit row. warnings: go into every result.
    report: of a notice, whose answer is known beforehand; of an analysis None.
    """

    study_uid: StudyUID
    series_uid: SeriesUID
    instance_set: Digest
    instances: JobInstances
    bundle: Digest
    bundle_id: str
    settings: Digest
    contrast: str
    arrivals: int | None = None
    kind: JobKind = JobKind.ANALYSE
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    priority: Priority = Priority.LIVE
    report: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class Job:
    """One analysis, or the making of one rejection note, as it stood when it was read."""

    id: int
    series_id: int
    study_uid: StudyUID
    series_uid: SeriesUID
    kind: JobKind
    instance_set: Digest
    instances: JobInstances
    bundle: Digest
    bundle_id: str
    settings: Digest
    contrast: str
    warnings: tuple[str, ...]
    priority: Priority
    state: JobState
    token: int
    attempts: int
    worker: str | None
    lease_until: datetime | None
    stage: str | None
    created_at: datetime
    not_before: datetime
    started_at: datetime | None
    finished_at: datetime | None
    reason: str | None
    report: Mapping[str, Any] | None = field(repr=False)
    superseded_by: int | None


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One DICOM object that a job made; its bytes: objects.read_result."""

    id: int
    job_id: int
    kind: str
    sop_class: str
    sop_instance_uid: InstanceUID
    series_uid: SeriesUID
    path: str
    sha256: Digest
    length: int
    created_at: datetime


def job(store: Store, job_id: int) -> Job:
    """The job as it stands now; raises NoSuchJob."""
    with store.read() as connection:
        return job_by_id(connection, job_id)


def jobs(store: Store, state: JobState | None = None, *, limit: int | None = None) -> tuple[Job, ...]:
    """Jobs in one state or all, newest first."""
    wanted = select(t.Job).order_by(t.Job.id.desc()).limit(limit)
    if state is not None:
        wanted = wanted.where(t.Job.state == state)
    with store.read() as connection:
        return tuple(as_job(row) for row in connection.execute(wanted).mappings())


def jobs_of_series(store: Store, study_uid: StudyUID, series_uid: SeriesUID) -> tuple[Job, ...]:
    """All jobs of one series, oldest first."""
    wanted = select(t.Job).where(t.Job.study_uid == study_uid, t.Job.series_uid == series_uid).order_by(t.Job.id)
    with store.read() as connection:
        return tuple(as_job(row) for row in connection.execute(wanted).mappings())


def results_of(store: Store, job_id: int) -> tuple[ResultRow, ...]:
    """What a job made, in the order of making."""
    columns = [getattr(t.Result, name) for name in ResultRow.__dataclass_fields__]
    wanted = select(*columns).where(t.Result.job_id == job_id, t.Result.purged_at.is_(None)).order_by(t.Result.id)
    with store.read() as connection:
        return tuple(ResultRow(**row) for row in connection.execute(wanted).mappings())


def job_by_id(connection: Connection, job_id: int) -> Job:
    """The job as the caller's transaction sees it; raises NoSuchJob."""
    row = connection.execute(select(t.Job).where(t.Job.id == job_id)).mappings().first()
    if row is None:
        raise NoSuchJob(job_id)
    return as_job(row)


def as_job(row: RowMapping) -> Job:
    """A row of the table as a value."""
    instances = tuple((InstanceUID(uid), None if frames is None else tuple(frames)) for uid, frames in row["instances"])
    named = {"kind": JobKind(row["kind"]), "priority": Priority(row["priority"])}
    return Job(**{**row, "instances": instances, "warnings": tuple(row["warnings"]), **named})
