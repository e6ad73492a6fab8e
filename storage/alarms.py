"""Alarms: what a person must look at. A row, an audit event, first in `anomalyd status`, until acknowledged."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, insert, select, update

from anomalyd.errors import AnomalydError
from anomalyd.ids import SeriesUID, StudyUID
from anomalyd.storage import tables as t
from anomalyd.storage.audit_chain import append
from anomalyd.storage.audit_events import AuditEvent, AuditKind, Outcome
from anomalyd.storage.engine import Store


class AlarmKind(StrEnum):
    """Why somebody must look."""

    JOB_FAILED = "job_failed"
    DELIVERY_GAVE_UP = "delivery_gave_up"
    DELIVERY_REFUSED = "delivery_refused"
    DELIVERY_UNCONFIRMED = "delivery_unconfirmed"
    COMMITMENT_NOT_TOLD = "commitment_not_told"
    CONFLICTING_INSTANCE = "conflicting_instance"
    DISK_FLOOR = "disk_floor"
    AUDIT_BROKEN = "audit_broken"
    STORE_DAMAGED = "store_damaged"
    CERTIFICATE = "certificate"
    ROLE_FAILED = "role_failed"


class NoSuchAlarm(AnomalydError):
    """No open alarm has this number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAlarm:
    """subject: what it is about; the same kind and subject again counts up the open alarm.

    text: what happened; next_step: what to do about it. Neither holds patient data.
    """

    kind: AlarmKind
    subject: str
    text: str
    next_step: str
    at: datetime
    study_uid: StudyUID | None = None
    series_uid: SeriesUID | None = None
    job_id: int | None = None
    destination: str | None = None
    times: int = 1


@dataclass(frozen=True, slots=True)
class AlarmRow:
    """One alarm as it stands."""

    id: int
    kind: str
    subject: str
    text: str
    next_step: str
    study_uid: StudyUID | None
    series_uid: SeriesUID | None
    job_id: int | None
    destination: str | None
    raised_at: datetime
    last_at: datetime
    times: int
    acknowledged_at: datetime | None
    acknowledged_by: str | None


def raise_alarm(connection: Connection, alarm: NewAlarm) -> bool:
    """Opens an alarm in the caller's transaction, with its audit row; False if it was open and was counted up."""
    again = (
        update(t.Alarm)
        .where(t.Alarm.kind == alarm.kind, t.Alarm.subject == alarm.subject, t.Alarm.acknowledged_at.is_(None))
        .values(times=t.Alarm.times + alarm.times, last_at=alarm.at, text=alarm.text)
    )
    if connection.execute(again).rowcount:
        return False
    connection.execute(
        insert(t.Alarm).values(
            kind=alarm.kind.value,
            subject=alarm.subject,
            text=alarm.text,
            next_step=alarm.next_step,
            study_uid=alarm.study_uid,
            series_uid=alarm.series_uid,
            job_id=alarm.job_id,
            destination=alarm.destination,
            raised_at=alarm.at,
            last_at=alarm.at,
            times=alarm.times,
        )
    )
    append(
        connection,
        AuditEvent(
            kind=AuditKind.ALARM,
            at=alarm.at,
            outcome=Outcome.SERIOUS,
            study_uid=alarm.study_uid,
            series_uid=alarm.series_uid,
            job_id=alarm.job_id,
            destination=alarm.destination,
            detail={"alarm": alarm.kind.value, "subject": alarm.subject, "text": alarm.text},
        ),
    )
    return True


def open_alarms(store: Store) -> tuple[AlarmRow, ...]:
    """What nobody has acknowledged, newest last."""
    wanted = select(t.Alarm).where(t.Alarm.acknowledged_at.is_(None)).order_by(t.Alarm.last_at, t.Alarm.id)
    with store.read() as connection:
        return tuple(AlarmRow(**row) for row in connection.execute(wanted).mappings())


def acknowledge(store: Store, alarm_id: int, by: str) -> None:
    """Closes an alarm, with an audit row that says who; raises NoSuchAlarm."""
    now = store.clock()
    seen = (
        update(t.Alarm)
        .where(t.Alarm.id == alarm_id, t.Alarm.acknowledged_at.is_(None))
        .values(acknowledged_at=now, acknowledged_by=by)
        .returning(t.Alarm.study_uid, t.Alarm.series_uid, t.Alarm.job_id, t.Alarm.kind, t.Alarm.subject)
    )
    with store.write() as connection:
        row = connection.execute(seen).first()
        if row is None:
            raise NoSuchAlarm(f"alarm {alarm_id} is not open: `anomalyd status` lists those that are")
        detail = {"alarm": row.kind, "alarm_id": alarm_id, "subject": row.subject, "by": by}
        event = AuditEvent(
            kind=AuditKind.ACKNOWLEDGED,
            at=now,
            study_uid=row.study_uid,
            series_uid=row.series_uid,
            job_id=row.job_id,
            detail=detail,
        )
        append(connection, event)
