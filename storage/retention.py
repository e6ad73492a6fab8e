"""Forgetting one study on request, and removing by age what nobody waits for any more (DESIGN 4, promises 3 and 9)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Select, and_, exists, func, or_, select, update

from anomalyd.errors import AnomalydError
from anomalyd.ids import SeriesUID, StudyUID
from anomalyd.storage import erasing, forgetting
from anomalyd.storage import tables as t
from anomalyd.storage.audit_chain import append
from anomalyd.storage.audit_events import AuditEvent, AuditKind
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import PURGED
from anomalyd.storage.studies import pseudonym
from anomalyd.storage.tables import DeliveryState, InstanceState, JobState, PurgeReason, SeriesState

_CLOSED_DELIVERIES = (DeliveryState.CONFIRMED, DeliveryState.CLOSED)
SERIES_PER_SWEEP = 200
PURGED_REASON = {"criterion": "purged", "value": None, "limit": None, "text": "the study was purged on request"}


class NoSuchStudy(AnomalydError):
    """Nothing of this study is in the store."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge has forgotten. Its images' bytes go when the gateway carries the request out.

    is_complete: results and traces of text are gone; if not, the dispatcher goes on.
    """

    images: int
    results: int
    jobs_cancelled: int
    undelivered: int
    """Results that were not proven to be in a PACS; they are neither sent nor asked for any more."""
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Expired:
    """One series that retention has removed."""

    study_uid: StudyUID
    series_uid: SeriesUID
    images: int
    results: int


def purge_study(store: Store, study_uid: StudyUID, by: str) -> Purged:
    """Forgets a study: text, images, results, deliveries, running analyses; raises NoSuchStudy.

    Nobody gets an image of it from now on; the gateway, the only writer of segments, overwrites their bytes
    (erasing.pending_images). An image of the study that arrives after this is a new image. What stays: audit rows
    (UIDs and hashes), tombstones, and result objects in the PACS.
    """
    now = store.clock()
    with store.write_through() as connection:
        if connection.execute(select(t.Study.study_uid).where(t.Study.study_uid == study_uid)).first() is None:
            raise NoSuchStudy(f"nothing of study {study_uid} is in the store")
        series = select(t.Series.id).where(t.Series.study_uid == study_uid)
        series_ids = connection.execute(series).scalars().all()
        patient = pseudonym(connection, study_uid)
        undelivered = _count_undelivered(connection, series_ids)
        cancelled = _cancel_jobs(connection, series_ids, now)
        images = forgetting.mark_instances(connection, series_ids, PurgeReason.REQUEST, now)
        results = forgetting.mark_results(connection, series_ids, now)
        connection.execute(
            update(t.Series)
            .where(t.Series.id.in_(series_ids))
            .values(state=SeriesState.INELIGIBLE, reason=PURGED_REASON)
        )
        forgetting.blank_study(connection, study_uid, now)
        detail = {
            "by": by,
            "images": images,
            "results": results,
            "jobs_cancelled": cancelled,
            "undelivered": undelivered,
            "series": len(series_ids),
        }
        append(connection, AuditEvent(kind=AuditKind.PURGED, at=now, study_uid=study_uid, detail=detail, **patient))
    return Purged(images, results, cancelled, undelivered, is_complete=erasing.erase_results(store))


def _count_undelivered(connection: Connection, series_ids: Sequence[int]) -> int:
    jobs = select(t.Job.id).where(t.Job.series_id.in_(series_ids))
    still = (t.Delivery.job_id.in_(jobs), t.Delivery.state.not_in(_CLOSED_DELIVERIES))
    return connection.execute(select(func.count()).where(*still)).scalar_one()


def sweep(store: Store, keep_for: timedelta) -> tuple[Expired, ...]:
    """Removes series older than `keep_for` that nobody waits for, oldest first, with an audit row each.

    That is: ineligible; or each job is withheld, superseded or cancelled, or done with all its deliveries confirmed
    or closed by hand. Never one that is not acknowledged as failed (`cancel` closes a failed job), and never to make
    room. Results go at once, segments when the gateway carries it out.
    """
    now = store.clock()
    with store.read() as connection:
        ids = connection.execute(_expired(now - keep_for).limit(SERIES_PER_SWEEP)).scalars().all()
    expired = tuple(gone for series_id in ids if (gone := _expire(store, series_id, keep_for, now)))
    erasing.erase_results(store)
    return expired


def _expired(before: datetime) -> Select[int]:
    """Series ids that may go."""
    lives = exists().where(t.Instance.series_id == t.Series.id, t.Instance.state != InstanceState.PURGED)
    open_delivery = exists().where(t.Delivery.job_id == t.Job.id, t.Delivery.state.not_in(_CLOSED_DELIVERIES))
    delivered = and_(t.Job.state.in_((JobState.DONE, JobState.WITHHELD)), ~open_delivery)
    settled = or_(delivered, t.Job.superseded_by.is_not(None), t.Job.state == JobState.CANCELLED)
    has_job = exists().where(t.Job.series_id == t.Series.id)
    has_open_job = exists().where(t.Job.series_id == t.Series.id, ~settled)
    analysed = and_(t.Series.state == SeriesState.QUEUED, has_job)
    return (
        select(t.Series.id)
        .where(t.Series.last_at < before, lives, ~has_open_job)
        .where(or_(t.Series.state == SeriesState.INELIGIBLE, analysed))
        .order_by(t.Series.last_at, t.Series.id)
    )


def _expire(store: Store, series_id: int, keep_for: timedelta, now: datetime) -> Expired | None:
    with store.write_through() as connection:
        still = _expired(now - keep_for).where(t.Series.id == series_id)
        if connection.execute(still).first() is None:
            return None  # an image came, or somebody retried it
        names = select(t.Series.study_uid, t.Series.series_uid).where(t.Series.id == series_id)
        study_uid, series_uid = connection.execute(names).one()
        patient = pseudonym(connection, study_uid)
        images = forgetting.mark_instances(connection, [series_id], PurgeReason.RETENTION, now)
        results = forgetting.mark_results(connection, [series_id], now)
        if not _study_lives(connection, study_uid):
            forgetting.blank_study(connection, study_uid, now)
        detail = {"images": images, "results": results, "keep_for_days": round(keep_for / timedelta(days=1), 3)}
        event = AuditEvent(
            kind=AuditKind.EXPIRED, at=now, study_uid=study_uid, series_uid=series_uid, detail=detail, **patient
        )
        append(connection, event)
    return Expired(study_uid, series_uid, images, results)


def _study_lives(connection: Connection, study_uid: StudyUID) -> bool:
    lives = (
        select(t.Instance.id)
        .join(t.Series, t.Series.id == t.Instance.series_id)
        .where(t.Series.study_uid == study_uid, t.Instance.state != InstanceState.PURGED)
    )
    return connection.execute(lives.limit(1)).first() is not None


def _cancel_jobs(connection: Connection, series_ids: Collection[int], now: datetime) -> int:
    unfinished = (JobState.QUEUED, JobState.LEASED, JobState.FAILED)
    these = (t.Job.series_id.in_(series_ids), t.Job.state.in_(unfinished))
    values = {"state": JobState.CANCELLED, "worker": None, "lease_until": None, "finished_at": now, "reason": PURGED}
    return connection.execute(update(t.Job).where(*these).values(**values)).rowcount
