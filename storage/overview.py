"""How things stand, in numbers: for `status`, `watch` and the metrics. No patient data."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select, text

from anomalyd.storage import tables as t
from anomalyd.storage.clock import from_text, to_text
from anomalyd.storage.engine import Store
from anomalyd.storage.index import position
from anomalyd.storage.segments import SegmentLog
from anomalyd.storage.series import SeriesRow
from anomalyd.storage.tables import DeliveryState, JobState, SeriesState

_SETTLED = (DeliveryState.CONFIRMED, DeliveryState.CLOSED)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there are in each state (absent: none), and the ages that tell whether something hangs."""

    series: Mapping[str, int]
    instances: Mapping[str, int]
    jobs: Mapping[str, int]
    deliveries: Mapping[str, int]
    oldest_receiving_at: datetime | None
    """Newest image of the series that is not closed and quiet for longest."""
    oldest_queued_at: datetime | None
    oldest_due_at: datetime | None
    """Since when the oldest delivery waits."""


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
class Refusals:
    """Connections and associations that were not let in, and the newest row that tells of one."""

    times: int
    at: datetime
    calling_ae: str | None
    address: str | None
    reason: str


def bytes_without_rows(store: Store) -> int:
    """Bytes of the segment log that the index does not know yet; 0 but for a moment while the database takes rows."""
    with store.read() as connection:
        known = position(connection)
    log = SegmentLog(store.root)
    sizes = {number: log.size(number) for number in log.segments() if number >= known.segment}
    return max(0, sum(sizes.values()) - (known.offset if known.segment in sizes else 0))


_TIMES = func.sum(func.coalesce(func.json_extract(t.Audit.detail, "$.times"), 1))  # a row may stand for many


def turned_away(store: Store) -> Mapping[str, int]:
    """How often a peer was not let in, by kind of the audit row; since the store was made."""
    wanted = select(t.Audit.kind, _TIMES.label("peers")).where(text(t.TURNED_AWAY)).group_by(t.Audit.kind)
    with store.read() as connection:
        return {row.kind: row.peers for row in connection.execute(wanted)}


def turned_away_since(store: Store, since: datetime) -> Refusals | None:
    """The same from then on; None where everybody was let in."""
    late = (text(t.TURNED_AWAY), t.Audit.at >= to_text(since))
    reason = func.json_extract(t.Audit.detail, "$.text").label("reason")
    newest = select(t.Audit.at, t.Audit.calling_ae, t.Audit.address, reason).where(*late).order_by(t.Audit.seq.desc())
    with store.read() as connection:
        row = connection.execute(newest.limit(1)).first()
        times = connection.execute(select(_TIMES).where(*late)).scalar()
    return Refusals(int(times or 0), from_text(row.at), row.calling_ae, row.address, row.reason or "") if row else None


def counts(store: Store) -> Counts:
    """Everything counted at one moment."""
    with store.read() as connection:
        oldest = (
            select(func.min(t.Series.last_at)).where(t.Series.state == SeriesState.RECEIVING),
            select(func.min(t.Job.created_at)).where(t.Job.state == JobState.QUEUED),
            select(func.min(t.Delivery.since)).where(t.Delivery.state == DeliveryState.DUE),
        )
        receiving_at, queued_at, due_at = [connection.execute(query).scalar() for query in oldest]
        return Counts(
            series=_by_state(connection, t.Series),
            instances=_by_state(connection, t.Instance),
            jobs=_by_state(connection, t.Job),
            deliveries=_by_state(connection, t.Delivery),
            oldest_receiving_at=receiving_at,
            oldest_queued_at=queued_at,
            oldest_due_at=due_at,
        )


def delivery_groups(store: Store) -> tuple[DeliveryGroup, ...]:
    """Deliveries that are not settled, oldest job first."""
    d = t.Delivery
    wanted = (
        select(
            d.job_id, d.destination, d.state, func.count(), func.max(d.attempts), func.min(d.since),
            func.min(d.next_at), func.max(d.error),
        )
        .where(d.state.not_in(_SETTLED))
        .group_by(d.job_id, d.destination, d.state)
        .order_by(d.job_id)
    )  # fmt: skip
    with store.read() as connection:
        return tuple(DeliveryGroup(*row) for row in connection.execute(wanted))


def sources(store: Store) -> tuple[Source, ...]:
    """Who has sent images, newest first."""
    s = t.Series
    wanted = (
        select(s.calling_ae, s.address, func.sum(s.arrivals), func.max(s.last_at))
        .group_by(s.calling_ae, s.address)
        .order_by(func.max(s.last_at).desc())
    )
    with store.read() as connection:
        rows = connection.execute(wanted).all()
    return tuple(Source(calling or "", address or "", int(images), last) for calling, address, images, last in rows)


def _by_state(connection: Connection, table: type[t.Series | t.Instance | t.Job | t.Delivery]) -> dict[str, int]:
    counted = select(table.state, func.count()).group_by(table.state)
    return {state.value: number for state, number in connection.execute(counted)}


def newest_in(store: Store, state: SeriesState, limit: int) -> tuple[SeriesRow, ...]:
    """Series in one state, the one with the newest image first."""
    wanted = select(t.Series).where(t.Series.state == state).order_by(t.Series.last_at.desc()).limit(limit)
    with store.read() as connection:
        return tuple(SeriesRow(**row) for row in connection.execute(wanted).mappings())
