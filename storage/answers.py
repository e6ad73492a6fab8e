"""The answer that stands for each series now: the one job that no other has superseded."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from anomalyd.ids import Digest, SeriesUID, StudyUID
from anomalyd.storage import tables as t
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import JobKind
from anomalyd.storage.tables import InstanceState, JobState, SeriesState


@dataclass(frozen=True, slots=True)
class Answer:
    """One series that was chosen for analysis, and its job."""

    study_uid: StudyUID
    series_uid: SeriesUID
    received_at: datetime
    """When its newest image came."""
    job_id: int
    state: JobState
    contrast: str
    bundle: Digest
    bundle_id: str
    settings: Digest


def answers(store: Store, *, since: datetime | None = None, series: Collection[SeriesUID] = ()) -> Iterator[Answer]:
    """Of series received since then, or of those named; the oldest first."""
    j, s = t.Job, t.Series
    wanted = (
        select(
            s.study_uid, s.series_uid, s.last_at, j.id, j.state, j.contrast, j.bundle, j.bundle_id, j.settings
        )
        .join(s, s.id == j.series_id)
        .where(j.kind == JobKind.ANALYSE, j.superseded_by.is_(None), j.state != JobState.CANCELLED)
        .where(s.state == SeriesState.QUEUED)
        .order_by(s.last_at, s.id, j.id)
    )  # fmt: skip
    if since is not None:
        wanted = wanted.where(s.last_at >= since)
    if series:
        wanted = wanted.where(s.series_uid.in_(list(series)))
    with store.read() as connection:
        found = [Answer(*row) for row in connection.execute(wanted)]
    newest = {(one.study_uid, one.series_uid): one for one in found}  # an earlier snapshot left more than one
    yield from newest.values()


def images_gone(store: Store, job_id: int) -> int:
    """How many images of a job are not kept any more (expired, purged)."""
    with store.read() as connection:
        (instances,) = connection.execute(select(t.Job.instances).where(t.Job.id == job_id)).one()
        uids = [uid for uid, _ in instances]
        kept = select(t.Instance.instance_uid).where(t.Instance.instance_uid.in_(uids))
        there = connection.execute(kept.where(t.Instance.state == InstanceState.STORED)).scalars().all()
    return len(set(uids) - set(there))
