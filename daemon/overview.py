"""The state of the whole system as one value, gathered from the store: for `status`, `watch` and the metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from anomalyd.daemon.wake import Role, waiters
from anomalyd.storage.alarms import AlarmRow, open_alarms
from anomalyd.storage.engine import Store
from anomalyd.storage.erasing import pending_images
from anomalyd.storage.jobs import Job, jobs
from anomalyd.storage.overview import (
    DeliveryGroup,
    Refusals,
    Source,
    bytes_without_rows,
    counts,
    delivery_groups,
    newest_in,
    sources,
    turned_away_since,
)
from anomalyd.storage.series import SeriesRow, receiving_series
from anomalyd.storage.tables import DeliveryState, JobState, SeriesState

__all__ = ["DeliveryGroup", "Overview", "Source", "overview"]


LOOK_BACK: Final = timedelta(hours=1)
"""How long a sender that was turned away is told of."""


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
    refused: tuple[SeriesRow, ...]
    """Series that are not analysed, newest first."""
    running: tuple[Job, ...]
    queued: tuple[Job, ...]
    recent: tuple[Job, ...]
    """Finished jobs, newest first."""
    job_counts: Mapping[str, int]
    series_counts: Mapping[str, int]
    delivery_counts: Mapping[str, int]
    sources: tuple[Source, ...]
    free_bytes: int
    bytes_without_rows: int
    """Of the log: what the index does not know yet."""
    turned_away: Refusals | None
    """In the last hour."""
    pending_erasure: int
    """Images that a purge has forgotten, their bytes not yet overwritten by the gateway."""
    roles: Mapping[str, bool]
    """Whether somebody listens to wake calls."""


def overview(store: Store, *, recent: int = 5) -> Overview:
    """Everything at one moment, give or take the milliseconds between the queries."""
    groups = delivery_groups(store)
    counted = counts(store)
    stuck_states = {DeliveryState.REFUSED, DeliveryState.GAVE_UP}
    finished = [job for job in jobs(store, limit=20 * recent) if job.finished_at is not None]
    return Overview(
        at=store.clock(),
        alarms=open_alarms(store),
        failed=tuple(job for job in jobs(store, JobState.FAILED) if job.superseded_by is None),
        stuck=tuple(group for group in groups if group.state in stuck_states),
        retrying=tuple(group for group in groups if group.state is DeliveryState.DUE and group.error),
        moving=tuple(group for group in groups if group.state not in stuck_states),
        receiving=receiving_series(store),
        refused=newest_in(store, SeriesState.INELIGIBLE, recent),
        running=jobs(store, JobState.LEASED),
        queued=tuple(reversed(jobs(store, JobState.QUEUED))),
        recent=tuple(finished[:recent]),
        job_counts=counted.jobs,
        series_counts=counted.series,
        delivery_counts=counted.deliveries,
        sources=sources(store),
        free_bytes=store.free_bytes(),
        bytes_without_rows=bytes_without_rows(store),
        turned_away=turned_away_since(store, store.clock() - LOOK_BACK),
        pending_erasure=pending_images(store),
        roles={role.value: waiters(store.root, role) > 0 for role in Role},
    )
