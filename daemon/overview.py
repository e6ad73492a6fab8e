"""The state of the whole system as one value, gathered from the store: for `status`, `watch` and the metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from anomalyd.daemon.wake import Role, waiters
from anomalyd.storage import tables as t
from anomalyd.storage.alarms import AlarmRow, open_alarms
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import Job, jobs
from anomalyd.storage.series import SeriesRow, receiving_series
from anomalyd.storage.tables import DeliveryState, JobState


@dataclass(frozen=True, slots=True)
class DeliveryGroup:
    """Results of one job to one destination in one state."""

    job_id: int
    destination: str
    state: DeliveryState
    objects: int
    attempts: int
    since: datetime
    next_at: datetime
    error: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """One sender and when its newest image came."""

    calling_ae: str
    address: str
    images: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Overview:
    """What is wrong, what moves, what waits."""

    at: datetime
    alarms: tuple[AlarmRow, ...]
    failed: tuple[Job, ...]
    stuck: tuple[DeliveryGroup, ...]
    """Refused or given up."""
    retrying: tuple[DeliveryGroup, ...]
    """Failed at least once, and due again."""
    moving: tuple[DeliveryGroup, ...]
    receiving: tuple[SeriesRow, ...]
    images: Mapping[int, int]
    """Images of each receiving series, by its id."""
    running: tuple[Job, ...]
    queued: tuple[Job, ...]
    recent: tuple[Job, ...]
    """Finished jobs, newest first."""
    job_counts: Mapping[str, int]
    series_counts: Mapping[str, int]
    delivery_counts: Mapping[str, int]
    sources: tuple[Source, ...]
    free_bytes: int
    roles: Mapping[str, bool]
    """Whether somebody listens to wake calls for dispatcher and worker."""


def overview(store: Store, *, recent: int = 5) -> Overview:
    """Everything at one moment, give or take the milliseconds between the queries."""
    groups = _delivery_groups(store)
    stuck_states = {DeliveryState.REFUSED, DeliveryState.GAVE_UP}
    finished = [job for job in jobs(store, limit=20 * recent) if job.finished_at is not None]
    receiving = receiving_series(store)
    return Overview(
        at=store.clock(),
        alarms=open_alarms(store),
        failed=jobs(store, JobState.FAILED),
        stuck=tuple(group for group in groups if group.state in stuck_states),
        retrying=tuple(group for group in groups if group.state is DeliveryState.DUE and group.error),
        moving=tuple(group for group in groups if group.state not in stuck_states),
        receiving=receiving,
        images={series.id: series.arrivals for series in receiving},
        running=jobs(store, JobState.LEASED),
        queued=tuple(reversed(jobs(store, JobState.QUEUED))),
        recent=tuple(finished[:recent]),
        job_counts=_counts(store, t.Job),
        series_counts=_counts(store, t.Series),
        delivery_counts=_counts(store, t.Delivery),
        sources=_sources(store),
        free_bytes=store.free_bytes(),
        roles={role.value: waiters(store.root, role) > 0 for role in (Role.DISPATCHER, Role.WORKER)},
    )


def _counts(store: Store, table: type[t.Job | t.Series | t.Delivery]) -> Mapping[str, int]:
    with store.read() as connection:
        rows = connection.execute(select(table.state, func.count()).group_by(table.state)).all()
    return {str(state): count for state, count in rows}


def _delivery_groups(store: Store) -> tuple[DeliveryGroup, ...]:
    open_states = [state for state in DeliveryState if state not in {DeliveryState.CONFIRMED, DeliveryState.CLOSED}]
    d = t.Delivery
    wanted = (
        select(
            d.job_id, d.destination, d.state, func.count(), func.max(d.attempts), func.min(d.since),
            func.min(d.next_at), func.max(d.error),
        )
        .where(d.state.in_(open_states))
        .group_by(d.job_id, d.destination, d.state)
        .order_by(d.job_id)
    )  # fmt: skip
    with store.read() as connection:
        return tuple(DeliveryGroup(*row) for row in connection.execute(wanted))


def _sources(store: Store) -> tuple[Source, ...]:
    s = t.Series
    wanted = (
        select(s.calling_ae, s.address, func.sum(s.arrivals), func.max(s.last_at))
        .group_by(s.calling_ae, s.address)
        .order_by(func.max(s.last_at).desc())
    )
    with store.read() as connection:
        rows = connection.execute(wanted).all()
    return tuple(Source(calling or "", address or "", int(images), last) for calling, address, images, last in rows)
