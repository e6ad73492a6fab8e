"""What a job takes the place of: the answer of the same series before it, with other images, bundle or settings."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from anomalyd.ids import InstanceUID, SeriesUID
from anomalyd.storage import tables as t
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import Job, as_job
from anomalyd.storage.tables import DeliveryState, JobState

_THERE = (DeliveryState.DUE, DeliveryState.SENDING, DeliveryState.SENT, DeliveryState.CONFIRMED)
"""It is in a PACS, or will be; others were never sent, or not taken."""
_PARTS = {"instance_set": "other images", "bundle": "another bundle", "settings": "other settings"}


@dataclass(frozen=True, slots=True)
class Document:
    """A result object by its UIDs; of the same study as the job."""

    job_id: int
    series_uid: SeriesUID
    sop_instance_uid: InstanceUID


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The job before. differs: in what, in words. document: of the last job whose document reached a destination."""

    job_id: int
    bundle_id: str
    differs: tuple[str, ...]
    document: Document | None

    @property
    def detail(self) -> dict[str, Any]:
        """For the audit row of the job that takes its place."""
        said: dict[str, Any] = {"job": self.job_id, "bundle_id": self.bundle_id, "differs": list(self.differs)}
        if self.document is not None:
            said |= {"document": self.document.sop_instance_uid, "document_of_job": self.document.job_id}
        return said


def predecessor_of(store: Store, job: Job, kind: str) -> Predecessor | None:
    """The last finished job of the series before this one, with its result of a kind; None for a first answer."""
    earlier = (t.Job.series_id == job.series_id, t.Job.id < job.id, t.Job.state == JobState.DONE)
    last = select(t.Job).where(*earlier, t.Job.kind == job.kind).order_by(t.Job.id.desc()).limit(1)
    document = (
        select(t.Result.job_id, t.Result.series_uid, t.Result.sop_instance_uid)
        .join(t.Job, t.Job.id == t.Result.job_id)
        .join(t.Delivery, t.Delivery.result_id == t.Result.id)
        .where(*earlier, t.Job.kind == job.kind, t.Result.kind == kind, t.Delivery.state.in_(_THERE))
        .order_by(t.Job.id.desc())
        .limit(1)
    )
    with store.read() as connection:
        row = connection.execute(last).mappings().first()
        if row is None:
            return None
        old = as_job(row)
        found = connection.execute(document).first()
    return Predecessor(old.id, old.bundle_id, differences(old, job), Document(*found) if found else None)


def differences(old: Job, new: Job) -> tuple[str, ...]:
    """In what the keys of two jobs of one series differ, in words."""
    return tuple(words for part, words in _PARTS.items() if getattr(old, part) != getattr(new, part))
