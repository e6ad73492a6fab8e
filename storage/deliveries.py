"""Results on their way to their destinations: every attempt is a row's state, so it survives a restart.

due -> sending -> sent -> confirmed | refused; a failure that a retry may mend goes back to due with a later time, and
to gave_up with an alarm once `give_up_after` is over. All functions that change take several deliveries: one
association carries many results, and one transaction notes what became of them. A state that no longer allows the
change (closed by hand meanwhile, confirmed already) is left alone.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, select, update

from anomalyd.storage import delivery_audit as told
from anomalyd.storage import tables as t
from anomalyd.storage.audit_events import AuditKind, Outcome
from anomalyd.storage.confirmation_tables import Confirmation
from anomalyd.storage.crash import crash_point
from anomalyd.storage.delivery_rows import DeliveryRow, change, pick, read, rows
from anomalyd.storage.engine import Store
from anomalyd.storage.tables import DeliveryState

__all__ = [
    "MAY_BE_CONFIRMED", "BackOff", "DeliveryRow", "awaiting_confirmation", "close_deliveries", "close_of_job",
    "confirm", "deliveries", "destinations_due", "due", "mark_confirmed", "mark_refused", "mark_retry", "mark_sending",
    "mark_sent", "put_back", "recover_sending", "retry_deliveries",
]  # fmt: skip

# What one dispatcher got through is not undone by another that failed with it.
_UNANSWERED = (DeliveryState.DUE, DeliveryState.SENDING)
# What was answered is true also for a delivery that was closed while it was on the wire.
_MAY_BE_SENT = (DeliveryState.DUE, DeliveryState.SENDING, DeliveryState.SENT, DeliveryState.CLOSED)
# A report may come after it was given up: it is true all the same.
MAY_BE_CONFIRMED = (*_MAY_BE_SENT, DeliveryState.GAVE_UP)
_SETTLED = (DeliveryState.CONFIRMED, DeliveryState.CLOSED)
_STUCK = (DeliveryState.GAVE_UP, DeliveryState.REFUSED)


@dataclass(frozen=True, slots=True)
class BackOff:
    """min(first * 2^attempts, cap), less up to half by chance; given up `give_up_after` after the delivery was made."""

    first: timedelta = timedelta(seconds=30)
    cap: timedelta = timedelta(hours=1)
    give_up_after: timedelta = timedelta(days=3)

    def wait(self, attempts: int, chance: random.Random | None = None) -> timedelta:
        """How long to wait after this many failed attempts (at least 1)."""
        doublings = min(attempts - 1, 20)  # 2^20 x first is beyond any cap, and timedelta does not overflow
        longest = min(self.first * (1 << doublings), self.cap)
        share = chance.uniform(0.5, 1.0) if chance else random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
        return longest * share


def due(
    store: Store, now: datetime | None = None, *, destination: str | None = None, limit: int = 1000
) -> tuple[DeliveryRow, ...]:
    """What may be sent now, to one destination or any: results of one job together, oldest job first.

    Also what was being sent by a dispatcher that has not said anything since `mark_sending`'s time-out.
    """
    wanted = rows().where(_is_due(now or store.clock())).order_by(t.Delivery.job_id, t.Delivery.id).limit(limit)
    if destination is not None:
        wanted = wanted.where(t.Delivery.destination == destination)
    with store.read() as connection:
        return read(connection, wanted)


def destinations_due(store: Store, now: datetime | None = None) -> tuple[str, ...]:
    """Names of destinations that something is due for: a dead one must not hold up another."""
    wanted = select(t.Delivery.destination).where(_is_due(now or store.clock())).distinct()
    with store.read() as connection:
        return tuple(sorted(connection.execute(wanted).scalars()))


def awaiting_confirmation(store: Store, destination: str | None = None) -> tuple[DeliveryRow, ...]:
    """Sent and not yet confirmed, longest first."""
    wanted = rows().where(t.Delivery.state == DeliveryState.SENT).order_by(t.Delivery.sent_at, t.Delivery.id)
    if destination is not None:
        wanted = wanted.where(t.Delivery.destination == destination)
    with store.read() as connection:
        return read(connection, wanted)


def deliveries(
    store: Store, *, job_id: int | None = None, state: DeliveryState | None = None, limit: int | None = None
) -> tuple[DeliveryRow, ...]:
    """Deliveries of a job, in a state, or all; oldest first."""
    wanted = rows().order_by(t.Delivery.id).limit(limit)
    if job_id is not None:
        wanted = wanted.where(t.Delivery.job_id == job_id)
    if state is not None:
        wanted = wanted.where(t.Delivery.state == state)
    with store.read() as connection:
        return read(connection, wanted)


def mark_sending(store: Store, ids: Sequence[int], timeout: timedelta) -> tuple[int, ...]:
    """due -> sending; gives the ids that this call has taken (another dispatcher may have been faster)."""
    now = store.clock()
    with store.write() as connection:
        chosen = pick(connection, ids, _is_due(now))
        change(connection, chosen, state=DeliveryState.SENDING, next_at=now + timeout)
        told.batch(connection, chosen, AuditKind.SENDING, now)
        crash_point("delivery.before_send_commit")
    return tuple(row.id for row in chosen)


def mark_sent(store: Store, ids: Sequence[int], status: int = 0) -> None:
    """sending -> sent: the destination answered success (or a warning) for each; it may be asked about them now."""
    crash_point("delivery.after_send_before_row")
    now = store.clock()
    with store.write() as connection:
        chosen = pick(connection, ids, t.Delivery.state.in_(_MAY_BE_SENT))
        sent = {"state": DeliveryState.SENT, "sent_at": now, "next_at": now, "status": status, "error": None}
        change(connection, chosen, **sent, count=True)
        told.each(connection, chosen, AuditKind.SENT, now, detail={"status": f"0x{status:04X}"})


def mark_confirmed(store: Store, ids: Sequence[int], how: str) -> None:
    """sent -> confirmed; how: "storage commitment", "query", or "response" where the destination confirms nothing."""
    now = store.clock()
    with store.write() as connection:
        chosen = pick(connection, ids, t.Delivery.state.in_(MAY_BE_CONFIRMED))
        confirm(connection, chosen, now, {"how": how})


def confirm(connection: Connection, chosen: Sequence[DeliveryRow], now: datetime, detail: Mapping[str, Any]) -> None:
    """-> confirmed, with audit rows, in the caller's transaction. detail: how (as `mark_confirmed`), and what else."""
    change(connection, chosen, state=DeliveryState.CONFIRMED, confirmed_at=now, error=None)
    told.each(connection, chosen, AuditKind.CONFIRMED, now, detail=detail)


def mark_refused(store: Store, ids: Sequence[int], error: str, *, status: int | None = None) -> None:
    """-> refused, with an alarm: no retry can mend it (SOP class not taken, not authorised). error: no patient data."""
    now = store.clock()
    with store.write() as connection:
        chosen = pick(connection, ids, t.Delivery.state.in_(_UNANSWERED))
        change(connection, chosen, state=DeliveryState.REFUSED, status=status, error=error, count=True)
        told.each(
            connection, chosen, AuditKind.REFUSED_BY_PEER, now, detail=_why(error, status), outcome=Outcome.SERIOUS
        )
        told.alarm_refused(connection, chosen, error, now)


def mark_retry(
    store: Store,
    ids: Sequence[int],
    error: str,
    back_off: BackOff,
    *,
    status: int | None = None,
    chance: random.Random | None = None,
) -> tuple[int, ...]:
    """-> due at a later time, the same for all (so that they share an association); gives those that gave up instead.

    Given up: older than `give_up_after`; state gave_up, an alarm, until `retry_deliveries`. error: no patient data.
    """
    now = store.clock()
    with store.write() as connection:
        chosen = pick(connection, ids, t.Delivery.state.in_(_UNANSWERED))
        lost = [row for row in chosen if now - row.since >= back_off.give_up_after]
        again = [row for row in chosen if now - row.since < back_off.give_up_after]
        wait = back_off.wait(1 + min((row.attempts for row in again), default=0), chance)
        next_at = now + wait
        change(connection, again, state=DeliveryState.DUE, next_at=next_at, status=status, error=error, count=True)
        detail = {**_why(error, status), "again_in_s": round(wait.total_seconds(), 1)}
        told.each(connection, again, AuditKind.RETRIED, now, detail=detail, outcome=Outcome.MINOR)
        change(connection, lost, state=DeliveryState.GAVE_UP, status=status, error=error, count=True)
        told.each(connection, lost, AuditKind.GAVE_UP, now, detail=_why(error, status), outcome=Outcome.SERIOUS)
        told.alarm_gave_up(connection, lost, error, now)
    return tuple(row.id for row in lost)


def close_deliveries(store: Store, ids: Sequence[int], why: str) -> None:
    """-> closed, by hand: it will not be sent, and retention need not wait for it."""
    now = store.clock()
    with store.write() as connection:
        chosen = pick(connection, ids, t.Delivery.state.not_in(_SETTLED))
        change(connection, chosen, state=DeliveryState.CLOSED, error=why)
        told.each(connection, chosen, AuditKind.DELIVERY_CLOSED, now, detail={"reason": why})


def close_of_job(store: Store, job_id: int, why: str) -> int:
    """Closes, by hand, all deliveries of a job that are not confirmed; gives how many."""
    wanted = select(t.Delivery.id).where(t.Delivery.job_id == job_id, t.Delivery.state.not_in(_SETTLED))
    with store.read() as connection:
        ids = connection.execute(wanted).scalars().all()
    close_deliveries(store, ids, why)
    return len(ids)


def retry_deliveries(store: Store, job_id: int) -> int:
    """gave_up | refused -> due at once, `give_up_after` counted anew; gives how many.

    None of a superseded job: they would come after the answer that took their place.
    """
    now = store.clock()
    with store.write() as connection:
        stuck = (
            select(t.Delivery.id)
            .join(t.Job, t.Job.id == t.Delivery.job_id)
            .where(t.Delivery.job_id == job_id, t.Delivery.state.in_(_STUCK), t.Job.superseded_by.is_(None))
        )
        chosen = pick(connection, connection.execute(stuck).scalars().all(), t.Delivery.state.in_(_STUCK))
        change(connection, chosen, state=DeliveryState.DUE, next_at=now, since=now, attempts=0)
        connection.execute(delete(Confirmation).where(Confirmation.delivery_id.in_([row.id for row in chosen])))
        told.each(connection, chosen, AuditKind.REVIVED, now, detail={"by": "hand"})
    return len(chosen)


def put_back(store: Store, ids: Sequence[int]) -> None:
    """sending -> due at once, no attempt counted: taken, and not tried (the dispatcher stops)."""
    now = store.clock()
    with store.write() as connection:
        taken = pick(connection, ids, t.Delivery.state == DeliveryState.SENDING)
        change(connection, taken, state=DeliveryState.DUE, next_at=now)


def recover_sending(store: Store) -> int:
    """sending -> due, when a dispatcher starts: whatever died in between is sent again, with the same UIDs."""
    with store.write() as connection:
        lost = update(t.Delivery).where(t.Delivery.state == DeliveryState.SENDING)
        return connection.execute(lost.values(state=DeliveryState.DUE, next_at=store.clock())).rowcount


def _is_due(now: datetime) -> ColumnElement[bool]:
    return and_(t.Delivery.state.in_((DeliveryState.DUE, DeliveryState.SENDING)), t.Delivery.next_at <= now)


def _why(error: str, status: int | None) -> dict[str, Any]:
    return {"error": error} if status is None else {"error": error, "status": f"0x{status:04X}"}
