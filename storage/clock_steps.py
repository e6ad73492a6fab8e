"""A wall clock that was set must hold nothing and hurry nothing: what waits is moved by as much as the clock was."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from anomalyd.storage import tables as t
from anomalyd.storage.clock import from_text
from anomalyd.storage.confirmation_tables import CommitmentRequest
from anomalyd.storage.engine import Store
from anomalyd.storage.tables import DeliveryState, JobState

LOOKED_AT = 5000
FRESH = timedelta(seconds=30)
"""So late a step is seen at most: a younger instant may have been written after it."""
WAITING = (DeliveryState.DUE, DeliveryState.SENDING, DeliveryState.SENT)


def ahead_of_clock(store: Store) -> timedelta:
    """How far the latest of the newest audit rows lies ahead of the clock: by so much it was set back; 0 if it was not.

    Not the newest alone: roles that started after the step have written rows since.
    """
    newest = select(t.Audit.at).order_by(t.Audit.seq.desc()).limit(LOOKED_AT).subquery()
    with store.read() as connection:
        at = connection.execute(select(func.max(newest.c.at))).scalar()
    return max(timedelta(0), from_text(at) - store.clock()) if at else timedelta(0)


def move_back(store: Store, by: timedelta) -> int:
    """Waiting times of deliveries, jobs and leases that were written before such a step; gives how many were moved.

    What is not far enough ahead to be from before the step may have been written since: a lease stays, all else is
    moved too, since it would come early at most.
    """
    now = store.clock()
    oldest_lease = now + max(timedelta(0), by - FRESH)
    with store.write() as connection:
        return sum(_move(connection, what, what.column > now, -by) for what in _WAITS) + _move(
            connection, _LEASES, _LEASES.column > oldest_lease, -by
        )


def move_forward(store: Store, by: timedelta) -> int:
    """The same for what a step forward has made due: it waits for what was left; gives how many were moved.

    A lease that was written after the step lies ahead, and is not touched.
    """
    now = store.clock()
    with store.write() as connection:
        return sum(
            _move(connection, what, and_(what.column > now - by, what.column <= now - FRESH), by) for what in _WAITS
        ) + _move(connection, _LEASES, and_(_LEASES.column > now - by, _LEASES.column <= now), by)


@dataclass(frozen=True, slots=True)
class _Waits:
    """Instants that something waits for."""

    key: Any
    column: Any
    condition: ColumnElement[bool]


_WAITS = (
    _Waits(t.Delivery.id, t.Delivery.next_at, t.Delivery.state.in_(WAITING)),
    _Waits(CommitmentRequest.id, CommitmentRequest.next_at, CommitmentRequest.ended_at.is_(None)),
    _Waits(t.Job.id, t.Job.not_before, t.Job.state == JobState.QUEUED),
)
_LEASES = _Waits(t.Job.id, t.Job.lease_until, t.Job.state == JobState.LEASED)


def _move(connection: Connection, what: _Waits, concerned: ColumnElement[bool], by: timedelta) -> int:
    rows = connection.execute(select(what.key, what.column).where(what.condition, concerned)).all()
    for row_id, at in rows:
        connection.execute(update(what.key.class_).where(what.key == row_id).values({what.column.key: at + by}))
    return len(rows)
