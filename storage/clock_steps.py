"""A wall clock that was set back must hold nothing: instants that lie ahead because of it are moved back with it.

A step forward needs nothing: what waits comes early once, and tokens make a second run harmless (GATEWAY 7).
"""

from datetime import timedelta

from sqlalchemy import func, select, update

from anomalyd.storage import tables as t
from anomalyd.storage.clock import from_text
from anomalyd.storage.confirmation_tables import CommitmentRequest
from anomalyd.storage.engine import Store
from anomalyd.storage.tables import DeliveryState, JobState

LOOKED_AT = 5000
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

    A living worker's next sign of life sets its lease anew.
    """
    now = store.clock()
    moved = 0
    with store.write() as connection:
        for key, column, waits in (
            (t.Delivery.id, t.Delivery.next_at, t.Delivery.state.in_(WAITING)),
            (CommitmentRequest.id, CommitmentRequest.next_at, CommitmentRequest.ended_at.is_(None)),
            (t.Job.id, t.Job.not_before, t.Job.state == JobState.QUEUED),
            (t.Job.id, t.Job.lease_until, t.Job.state == JobState.LEASED),
        ):
            ahead = connection.execute(select(key, column).where(waits, column > now)).all()
            for row_id, at in ahead:
                if at is not None:  # the comparison says so; the column's type does not
                    connection.execute(update(key.class_).where(key == row_id).values({column.key: at - by}))
            moved += len(ahead)
    return moved
