"""Whether what was sent lies in the PACS: asked (storage commitment, query), answered, missing, unanswered.

A delivery that is `sent` waits here until it is confirmed; `next_at` says when its destination may be asked (again).
Reports of a storage commitment are written down as they come (`record_report`: the gateway, or the dispatcher on its
own association) and acted on by the dispatcher (`apply_reports`): a report that nobody has time for is not lost.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, insert, select, update
from sqlalchemy.orm import aliased

from anomalyd.storage import delivery_audit as told
from anomalyd.storage import tables as t
from anomalyd.storage.audit_events import AuditKind, Outcome
from anomalyd.storage.confirmation_tables import Commitment, Confirmation
from anomalyd.storage.crash import crash_point
from anomalyd.storage.deliveries import MAY_BE_CONFIRMED, confirm
from anomalyd.storage.delivery_rows import DeliveryRow, change, pick, read, rows
from anomalyd.storage.engine import Store
from anomalyd.storage.enqueueing import SUPERSEDED_DELIVERY
from anomalyd.storage.tables import DeliveryState

KEEP_ENDED = timedelta(days=30)
"""Transactions that are over are remembered so long: a late report then still counts."""
NO_JOB = 0
ALARM_AFTER_ASKED = 3
"""After so many questions about the same results without an answer an alarm tells; asking goes on."""
NO_SUCH_CLASS, CLASS_CONFLICT = 0x0122, 0x0119
FINAL_REASONS = frozenset({NO_SUCH_CLASS, CLASS_CONFLICT})
"""Failure Reasons (0008,1197) that no second sending mends (PS3.3 C.14.1.1)."""
REASONS: Mapping[int, str] = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "class and instance conflict",
    0x0122: "SOP class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an answer is waited for, and what is done when none comes.

    answer_within: after the first question; it doubles with each up to `cap`. give_up_after: after the first question.
    send_again: how often what is reported missing is sent again.
    """

    answer_within: timedelta = timedelta(minutes=10)
    cap: timedelta = timedelta(hours=6)
    give_up_after: timedelta = timedelta(days=1)
    send_again: int = 3

    def wait(self, asked: int) -> timedelta:
        """How long after this many questions (at least 1)."""
        return min(self.answer_within * (1 << min(asked - 1, 20)), max(self.cap, self.answer_within))


def due(store: Store, destination: str, now: datetime | None = None, *, limit: int = 1000) -> tuple[DeliveryRow, ...]:
    """What was sent there and may be asked about now, results of one job together."""
    wanted = rows().where(_is_due(now or store.clock()), t.Delivery.destination == destination)
    with store.read() as connection:
        return read(connection, wanted.order_by(t.Delivery.job_id, t.Delivery.id).limit(limit))


def destinations_due(store: Store, now: datetime | None = None) -> tuple[str, ...]:
    """Names of destinations that there is something to ask, or a report of to act on."""
    to_ask = select(t.Delivery.destination).where(_is_due(now or store.clock())).distinct()
    reported = select(Commitment.destination).where(_is_reported()).distinct()
    with store.read() as connection:
        return tuple(sorted({*connection.execute(to_ask).scalars(), *connection.execute(reported).scalars()}))


def mark_asked(
    store: Store, ids: Sequence[int], how: str | None, patience: Patience, *, transaction_uid: str | None = None
) -> tuple[DeliveryRow, ...]:
    """Before a question: counts it, gives up what was asked about for too long; gives what is to be asked about.

    how: "storage commitment" or "query"; None: nobody can be asked any more, no audit row.
    transaction_uid: of a storage commitment about results of one job.
    """
    now = store.clock()
    with store.write() as connection:
        chosen = pick(connection, ids, _is_due(now))
        known = _known(connection, chosen)
        lost = [row for row in chosen if _is_lost(row, known.get(row.id), patience, now)]
        _give_up(connection, lost, f"no answer to {how or 'any question'} within {patience.give_up_after}", now)
        asked = [row for row in chosen if row not in lost]
        counts = [_count_question(connection, row, known.get(row.id), now) for row in asked]
        most = max(counts, default=1)
        change(connection, asked, next_at=now + patience.wait(most))
        if most > ALARM_AFTER_ASKED:
            why = asked[0].error or f"{most - 1} questions ({how}) were not answered"
            told.alarm_not_answering(connection, asked[0].destination, why, now)
        if transaction_uid is not None and asked:
            values = {"transaction_uid": transaction_uid, "destination": asked[0].destination, "asked_at": now}
            connection.execute(insert(Commitment).values(job_id=asked[0].job_id, objects=len(asked), **values))
        detail = {"how": how} if transaction_uid is None else {"how": how, "transaction_uid": transaction_uid}
        if how is not None:
            told.batch(connection, asked, AuditKind.ASKED, now, detail={**detail, "asked": most})
        crash_point("confirmation.before_ask_commit")
    return tuple(asked)


def mark_not_asked(
    store: Store,
    ids: Sequence[int],
    error: str,
    patience: Patience,
    *,
    transaction_uid: str | None = None,
    for_good: bool = False,
) -> None:
    """The question could not be put, or was answered with an error; asked again later.

    for_good: the destination does not offer the service: an alarm tells at once, for a person must mend it.
    """
    now = store.clock()
    with store.write() as connection:
        chosen = pick(connection, ids, t.Delivery.state == DeliveryState.SENT)
        wait = patience.wait(_most_asked(connection, chosen))
        change(connection, chosen, next_at=now + wait, error=error)
        if transaction_uid is not None:
            _end(connection, [transaction_uid], now)
        detail = {"error": error, "again_in_s": round(wait.total_seconds(), 1)}
        told.each(connection, chosen, AuditKind.UNANSWERED, now, detail=detail, outcome=Outcome.MINOR)
        if for_good and chosen:
            told.alarm_not_answering(connection, chosen[0].destination, error, now)


def mark_found(
    store: Store,
    found: Sequence[int],
    not_found: Sequence[int],
    first_wait: timedelta,
    patience: Patience,
    *,
    looks: int,
) -> None:
    """After a query: found ones are confirmed; others are looked for again, and are missing after `looks` looks.

    first_wait: until the second look; it doubles.
    """
    now = store.clock()
    with store.write() as connection:
        confirm(connection, pick(connection, found, t.Delivery.state.in_(MAY_BE_CONFIRMED)), now, {"how": "query"})
        others = pick(connection, not_found, t.Delivery.state == DeliveryState.SENT)
        known = _known(connection, others)
        gone = [row for row in others if row.id in known and known[row.id].asked % looks == 0]
        _missing(connection, dict.fromkeys(gone, "not found by a query"), first_wait, patience, now)
        for row in others:
            if row not in gone:
                wait = first_wait * (1 << min(known[row.id].asked - 1, 20) if row.id in known else 1)
                change(connection, [row], next_at=now + wait, error="not found there yet")


def expect_report(store: Store, transaction_uid: str, destination: str) -> None:
    """A transaction about none of our results, to see whether a report of it arrives (`anomalyd check`)."""
    values = {"transaction_uid": transaction_uid, "destination": destination, "asked_at": store.clock()}
    with store.write() as connection:
        connection.execute(insert(Commitment).values(job_id=NO_JOB, objects=1, **values))


def record_report(
    store: Store, transaction_uid: str, committed: Iterable[str], failed: Mapping[str, int]
) -> str | None:
    """Keeps an N-EVENT-REPORT as it came, flushed; gives the destination's name, None for an unknown transaction."""
    report = {"committed": sorted(set(committed)), "failed": dict(failed)}
    with store.write_through() as connection:
        known = update(Commitment).where(Commitment.transaction_uid == transaction_uid)
        kept = known.values(report=report, reported_at=store.clock(), ended_at=None).returning(Commitment.destination)
        name = connection.execute(kept).scalar()
        crash_point("commitment.report_before_commit")
    return name


def is_answered(store: Store, transaction_uids: Sequence[str]) -> bool:
    """Whether there is a report for each of these transactions."""
    wanted = select(func.count()).where(
        Commitment.transaction_uid.in_(transaction_uids),
        Commitment.reported_at.is_(None),
        Commitment.ended_at.is_(None),
    )
    with store.read() as connection:
        return connection.execute(wanted).scalar_one() == 0


@dataclass(frozen=True, slots=True)
class Applied:
    """What reports have done to deliveries."""

    confirmed: int = 0
    missing: int = 0


def apply_reports(store: Store, destination: str, first_wait: timedelta, patience: Patience) -> Applied:
    """Acts on the reports of a destination, one transaction each: confirmed, sent again after first_wait, or given up.

    What a report does not name is asked about again when its time is over.
    """
    wanted = select(Commitment.transaction_uid).where(Commitment.destination == destination, _is_reported())
    with store.read() as connection:
        uids = connection.execute(wanted.order_by(Commitment.reported_at)).scalars().all()
    done = [_apply(store, uid, first_wait, patience) for uid in uids]
    return Applied(sum(one.confirmed for one in done), sum(one.missing for one in done))


def forget_ended(store: Store) -> int:
    """Removes transactions that ended KEEP_ENDED ago, or were never answered for as long."""
    before = store.clock() - KEEP_ENDED
    with store.write() as connection:
        return connection.execute(delete(Commitment).where(Commitment.asked_at < before)).rowcount


def _apply(store: Store, transaction_uid: str, first_wait: timedelta, patience: Patience) -> Applied:
    now = store.clock()
    with store.write() as connection:
        row = (
            connection.execute(select(Commitment).where(Commitment.transaction_uid == transaction_uid)).mappings().one()
        )
        report: Mapping[str, Any] = row["report"] or {}
        at = t.Delivery.destination == row["destination"]
        of_job = read(connection, rows().where(at, t.Delivery.job_id == row["job_id"]).order_by(t.Delivery.id))
        committed, failed = set(report.get("committed", ())), dict(report.get("failed", {}))
        sure = [r for r in of_job if r.sop_instance_uid in committed and r.state in MAY_BE_CONFIRMED]
        confirm(connection, sure, now, {"how": "storage commitment", "transaction_uid": transaction_uid})
        # A failure that was reported of an earlier sending says nothing of the one that followed it.
        open_rows = [
            r
            for r in of_job
            if r.state is DeliveryState.SENT and r.sent_at and r.sent_at <= row["asked_at"] and r not in sure
        ]
        gone = {r: _reason(failed[r.sop_instance_uid]) for r in open_rows if r.sop_instance_uid in failed}
        final = {r for r in gone if failed[r.sop_instance_uid] in FINAL_REASONS}
        _missing(connection, gone, first_wait, patience, now, final=final)
        _end(connection, [transaction_uid], now)
        crash_point("commitment.apply_before_commit")
    return Applied(len(sure), len(gone))


def _missing(
    connection: Connection,
    gone: Mapping[DeliveryRow, str],
    first_wait: timedelta,
    patience: Patience,
    now: datetime,
    *,
    final: set[DeliveryRow] | frozenset[DeliveryRow] = frozenset(),
) -> None:
    """Sent again a bounded number of times, then an alarm."""
    known = _known(connection, list(gone))
    outdated = _of_superseded_jobs(connection, list(gone))
    change(connection, list(outdated), state=DeliveryState.CLOSED, error=SUPERSEDED_DELIVERY)
    for reason in dict.fromkeys(gone.values()):
        chosen = [row for row, why in gone.items() if why == reason]
        told.each(connection, chosen, AuditKind.MISSING, now, detail={"reason": reason}, outcome=Outcome.SERIOUS)
        chosen = [row for row in chosen if row not in outdated]
        again = [row for row in chosen if row not in final and _times(known, row) < patience.send_again]
        for row in again:
            wait = first_wait * (1 << _times(known, row))
            change(connection, [row], state=DeliveryState.DUE, next_at=now + wait, error=f"sent, and missing: {reason}")
        connection.execute(
            update(Confirmation)
            .where(Confirmation.delivery_id.in_([row.id for row in again]))
            .values(missing=Confirmation.missing + 1, asked=0)
        )
        lost = [row for row in chosen if row not in again]
        _give_up(connection, lost, f"reported missing though it was answered with success: {reason}", now)


def _of_superseded_jobs(connection: Connection, chosen: Sequence[DeliveryRow]) -> set[DeliveryRow]:
    """Another answer has taken their place: sent again, they would come after it."""
    old = select(t.Job.id).where(t.Job.id.in_({row.job_id for row in chosen}), t.Job.superseded_by.is_not(None))
    jobs = set(connection.execute(old).scalars())
    return {row for row in chosen if row.job_id in jobs}


def _give_up(connection: Connection, lost: Sequence[DeliveryRow], error: str, now: datetime) -> None:
    change(connection, lost, state=DeliveryState.GAVE_UP, error=error)
    told.each(connection, lost, AuditKind.GAVE_UP, now, detail={"error": error}, outcome=Outcome.SERIOUS)
    told.alarm_unconfirmed(connection, lost, error, now)


def _known(connection: Connection, chosen: Sequence[DeliveryRow]) -> dict[int, Any]:
    wanted = select(Confirmation).where(Confirmation.delivery_id.in_([row.id for row in chosen]))
    return {row.delivery_id: row for row in connection.execute(wanted)}


def _times(known: Mapping[int, Any], row: DeliveryRow) -> int:
    return int(known[row.id].missing) if row.id in known else 0


def _most_asked(connection: Connection, chosen: Sequence[DeliveryRow]) -> int:
    return max((int(row.asked) for row in _known(connection, chosen).values()), default=1) or 1


def _is_lost(row: DeliveryRow, known: Any, patience: Patience, now: datetime) -> bool:
    """Asked about since its newest sending, and for too long."""
    return bool(known and _is_same_sending(row, known) and now - known.since >= patience.give_up_after)


def _is_same_sending(row: DeliveryRow, known: Any) -> bool:
    return bool(known.asked and row.sent_at is not None and row.sent_at <= known.since)


def _count_question(connection: Connection, row: DeliveryRow, known: Any, now: datetime) -> int:
    if known is None:
        connection.execute(insert(Confirmation).values(delivery_id=row.id, since=now, asked=1, missing=0, last_at=now))
        return 1
    goes_on = _is_same_sending(row, known)
    asked = int(known.asked) + 1 if goes_on else 1
    values = {"asked": asked, "last_at": now, "since": known.since if goes_on else now}
    connection.execute(update(Confirmation).where(Confirmation.delivery_id == row.id).values(**values))
    return asked


def _end(connection: Connection, transaction_uids: Sequence[str], now: datetime) -> None:
    connection.execute(update(Commitment).where(Commitment.transaction_uid.in_(transaction_uids)).values(ended_at=now))


def _is_due(now: datetime) -> ColumnElement[bool]:
    """Not while others of the job are on the wire: one question about all is enough."""
    other = aliased(t.Delivery)
    same = (other.job_id == t.Delivery.job_id, other.destination == t.Delivery.destination)
    is_going_on = exists().where(*same, other.state == DeliveryState.SENDING, other.next_at > now)
    return and_(t.Delivery.state == DeliveryState.SENT, t.Delivery.next_at <= now, ~is_going_on)


def _is_reported() -> ColumnElement[bool]:
    return and_(Commitment.reported_at.is_not(None), Commitment.ended_at.is_(None))


def _reason(code: int) -> str:
    return f"{REASONS.get(code, 'unknown reason')} (0x{code:04X})"
