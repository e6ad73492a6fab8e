"""What senders ask us to commit to, and what the index says about it (storage commitment as SCP, PS3.4 J)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert, select, update

from anomalyd.ids import AETitle
from anomalyd.storage import tables as t
from anomalyd.storage.alarms import AlarmKind, NewAlarm, raise_alarm
from anomalyd.storage.audit_chain import append
from anomalyd.storage.audit_events import AuditEvent, AuditKind, Outcome
from anomalyd.storage.confirmation_tables import CommitmentRequest
from anomalyd.storage.crash import crash_point
from anomalyd.storage.engine import Store
from anomalyd.storage.received import Sender
from anomalyd.storage.tables import InstanceState

NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0112, 0x0119
_BATCH = 500
Reference = tuple[str, str]
"""SOP Class UID, SOP Instance UID."""


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request that is not answered yet."""

    id: int
    calling_ae: AETitle
    called_ae: AETitle
    transaction_uid: str
    objects: tuple[Reference, ...]
    asked_at: datetime
    attempts: int


def judge(store: Store, objects: Sequence[Reference]) -> dict[Reference, int | None]:
    """For each: None where it is kept durably, else the Failure Reason (PS3.3 C.14.1.1).

    A version that conflicts with an earlier one is kept too. What was purged, or removed by age, is not there.
    """
    held: dict[str, str] = {}
    with store.read() as connection:
        for first in range(0, len(objects), _BATCH):
            uids = [uid for _, uid in objects[first : first + _BATCH]]
            wanted = select(t.Instance.instance_uid, t.Instance.sop_class).where(
                t.Instance.instance_uid.in_(uids), t.Instance.state != InstanceState.PURGED
            )
            held |= {row.instance_uid: row.sop_class for row in connection.execute(wanted)}
    return {
        (sop_class, uid): NO_SUCH_INSTANCE if uid not in held else (None if held[uid] == sop_class else CLASS_CONFLICT)
        for sop_class, uid in objects
    }


def keep(store: Store, sender: Sender, transaction_uid: str, objects: Sequence[Reference], *, to_be_told: bool) -> None:
    """Writes down, flushed, that a sender asked. to_be_told: the dispatcher answers on a new association.

    The same transaction again is answered again.
    """
    now = store.clock()
    calling, called = AETitle(sender.calling_ae or ""), AETitle(sender.called_ae or "")
    fresh = {"objects": list(map(list, objects)), "asked_at": now, "next_at": now, "attempts": 0, "ended_at": None}
    with store.write_through() as connection:
        if to_be_told:
            same = (CommitmentRequest.calling_ae == calling, CommitmentRequest.transaction_uid == transaction_uid)
            if not connection.execute(update(CommitmentRequest).where(*same).values(**fresh)).rowcount:
                names = {"calling_ae": calling, "called_ae": called, "transaction_uid": transaction_uid}
                connection.execute(insert(CommitmentRequest).values(**names, **fresh))
        detail = {"transaction_uid": transaction_uid, "objects": len(objects)}
        append(
            connection,
            AuditEvent(
                kind=AuditKind.COMMITMENT_REQUESTED, at=now, calling_ae=sender.calling_ae, called_ae=sender.called_ae,
                address=sender.address, detail=detail,
            ),
        )  # fmt: skip
        crash_point("commitment.request_before_commit")


def due(store: Store) -> tuple[RequestRow, ...]:
    """Requests that may be answered now, oldest first."""
    names = ("id", "calling_ae", "called_ae", "transaction_uid", "objects", "asked_at", "attempts")
    wanted = (
        select(*(getattr(CommitmentRequest, name) for name in names))
        .where(CommitmentRequest.ended_at.is_(None), CommitmentRequest.next_at <= store.clock())
        .order_by(CommitmentRequest.id)
    )
    with store.read() as connection:
        rows = connection.execute(wanted).mappings().all()
    return tuple(
        RequestRow(**{**row, "objects": tuple((str(one[0]), str(one[1])) for one in row["objects"])}) for row in rows
    )


def mark_told(store: Store, request: RequestRow, outcomes: Mapping[Reference, int | None]) -> None:
    """The sender has taken our report."""
    now = store.clock()
    with store.write() as connection:
        these = update(CommitmentRequest).where(CommitmentRequest.id == request.id)
        connection.execute(these.values(ended_at=now, attempts=CommitmentRequest.attempts + 1))
        append(
            connection, told_event(request.calling_ae, request.transaction_uid, outcomes, now, how="new association")
        )


def mark_not_told(store: Store, request: RequestRow, error: str, wait: timedelta, give_up_after: timedelta) -> bool:
    """It could not be told: again after `wait`; False when it is given up, with an alarm."""
    now = store.clock()
    goes_on = now - request.asked_at < give_up_after
    values: dict[str, Any] = {"next_at": now + wait} if goes_on else {"ended_at": now}
    with store.write() as connection:
        these = update(CommitmentRequest).where(CommitmentRequest.id == request.id)
        connection.execute(these.values(attempts=CommitmentRequest.attempts + 1, **values))
        detail = {"transaction_uid": request.transaction_uid, "error": error, "attempt": request.attempts + 1}
        outcome = Outcome.MINOR if goes_on else Outcome.SERIOUS
        append(
            connection,
            AuditEvent(
                kind=AuditKind.COMMITMENT_REPORTED,
                at=now,
                outcome=outcome,
                calling_ae=request.calling_ae,
                detail=detail,
            ),
        )
        if not goes_on:
            raise_alarm(
                connection,
                NewAlarm(
                    kind=AlarmKind.COMMITMENT_NOT_TOLD,
                    subject=f"sender {request.calling_ae}",
                    text=f"{request.calling_ae} asked for a storage commitment and cannot be told: {error}",
                    next_step="correct `report_to` of this sender in daemon.accept_from; it asks again by itself",
                    at=now,
                ),
            )
    return goes_on


def record_told(
    store: Store,
    calling_ae: str | None,
    transaction_uid: str,
    outcomes: Mapping[Reference, int | None],
    error: str = "",
) -> None:
    """Audit row of a report on the association of the request. error: why it could not be told."""
    now = store.clock()
    with store.write() as connection:
        append(connection, told_event(calling_ae, transaction_uid, outcomes, now, how="same association", error=error))


def told_event(
    calling_ae: str | None,
    transaction_uid: str,
    outcomes: Mapping[Reference, int | None],
    at: datetime,
    *,
    how: str,
    error: str = "",
) -> AuditEvent:
    """What we told a sender, in numbers."""
    failed = [reason for reason in outcomes.values() if reason is not None]
    detail = {"transaction_uid": transaction_uid, "committed": len(outcomes) - len(failed), "failed": len(failed)}
    more = {"error": error} if error else {}
    return AuditEvent(
        kind=AuditKind.COMMITMENT_REPORTED,
        at=at,
        outcome=Outcome.MINOR if failed or error else Outcome.SUCCESS,
        calling_ae=calling_ae,
        detail={**detail, "how": how, **more},
    )
