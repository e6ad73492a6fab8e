"""Audit rows and alarms about deliveries, in the transaction of the change that they tell of."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import Connection

from anomalyd.storage.alarms import AlarmKind, NewAlarm, raise_alarm
from anomalyd.storage.audit_chain import append_many
from anomalyd.storage.audit_events import AuditEvent, AuditKind, Outcome
from anomalyd.storage.delivery_rows import DeliveryRow
from anomalyd.storage.studies import Pseudonym, pseudonym


def each(
    connection: Connection,
    rows: Sequence[DeliveryRow],
    kind: AuditKind,
    at: datetime,
    *,
    detail: Mapping[str, Any],
    outcome: Outcome = Outcome.SUCCESS,
) -> None:
    """One audit row per delivery."""
    patients: dict[str, Pseudonym] = {}
    for row in rows:
        if row.study_uid not in patients:
            patients[row.study_uid] = pseudonym(connection, row.study_uid)
    append_many(
        connection,
        [
            AuditEvent(
                kind=kind,
                at=at,
                outcome=outcome,
                study_uid=row.study_uid,
                series_uid=row.series_uid,
                instance_uid=row.sop_instance_uid,
                job_id=row.job_id,
                destination=row.destination,
                bundle=row.bundle,
                detail={**detail, "kind": row.kind, "attempt": row.attempts + 1},
                **patients[row.study_uid],
            )
            for row in rows
        ],
    )


def batch(
    connection: Connection,
    rows: Sequence[DeliveryRow],
    kind: AuditKind,
    at: datetime,
    *,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """One audit row per job and destination, with the count, and what `detail` adds."""
    events = []
    for group in _by_job(rows):
        first = group[0]
        events.append(
            AuditEvent(
                kind=kind,
                at=at,
                study_uid=first.study_uid,
                series_uid=first.series_uid,
                job_id=first.job_id,
                destination=first.destination,
                bundle=first.bundle,
                detail={"objects": len(group), "attempt": first.attempts + 1, **(detail or {})},
                **pseudonym(connection, first.study_uid),
            )
        )
    append_many(connection, events)


def alarm_gave_up(connection: Connection, rows: Sequence[DeliveryRow], error: str, at: datetime) -> None:
    """One alarm per job and destination: the time for delivering is over."""
    for group in _by_job(rows):
        text = f"{len(group)} results of job {group[0].job_id} were not delivered to {group[0].destination}: {error}"
        _raise(connection, group, AlarmKind.DELIVERY_GAVE_UP, text, at)


def alarm_refused(connection: Connection, rows: Sequence[DeliveryRow], error: str, at: datetime) -> None:
    """One alarm per job and destination: the destination will not take these."""
    for group in _by_job(rows):
        text = f"{group[0].destination} refuses {len(group)} results of job {group[0].job_id}: {error}"
        _raise(connection, group, AlarmKind.DELIVERY_REFUSED, text, at)


def _raise(connection: Connection, group: Sequence[DeliveryRow], kind: AlarmKind, text: str, at: datetime) -> None:
    first = group[0]
    alarm = NewAlarm(
        kind=kind,
        subject=f"job {first.job_id} to {first.destination}",
        text=text,
        next_step=(
            f"`anomalyd check` tries {first.destination}; `anomalyd retry {first.job_id}` sends again, "
            f"`anomalyd cancel {first.job_id}` lets it be"
        ),
        at=at,
        study_uid=first.study_uid,
        series_uid=first.series_uid,
        job_id=first.job_id,
        destination=first.destination,
        times=len(group),
    )
    raise_alarm(connection, alarm)


def _by_job(rows: Sequence[DeliveryRow]) -> list[list[DeliveryRow]]:
    def key(row: DeliveryRow) -> tuple[int, str]:
        return row.job_id, row.destination

    return [list(group) for _, group in groupby(sorted(rows, key=key), key=key)]


def alarm_unconfirmed(connection: Connection, rows: Sequence[DeliveryRow], error: str, at: datetime) -> None:
    """One alarm per job and destination: it is not proven that these lie there, and no more is done about it."""
    for group in _by_job(rows):
        text = f"{len(group)} results of job {group[0].job_id} are not confirmed at {group[0].destination}: {error}"
        _raise(connection, group, AlarmKind.DELIVERY_UNCONFIRMED, text, at)


def alarm_not_answering(connection: Connection, destination: str, error: str, at: datetime) -> None:
    """One alarm per destination: it takes results and does not confirm them; asking goes on."""
    alarm = NewAlarm(
        kind=AlarmKind.DELIVERY_UNCONFIRMED,
        subject=f"destination {destination}",
        text=f"{destination} does not confirm what was sent there: {error}",
        next_step=f"`anomalyd check` tries {destination}; asking goes on by itself",
        at=at,
        destination=destination,
    )
    raise_alarm(connection, alarm)
