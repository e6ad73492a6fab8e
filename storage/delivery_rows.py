"""Deliveries as values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select, update

from anomalyd.ids import Digest, InstanceUID, SeriesUID, StudyUID
from anomalyd.storage import tables as t
from anomalyd.storage.tables import DeliveryState


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One result to one destination, with what a sender needs to know about it."""

    id: int
    result_id: int
    job_id: int
    destination: str
    state: DeliveryState
    attempts: int
    created_at: datetime
    since: datetime
    next_at: datetime
    sent_at: datetime | None
    confirmed_at: datetime | None
    status: int | None
    error: str | None
    kind: str
    sop_class: str
    sop_instance_uid: InstanceUID
    result_series_uid: SeriesUID
    path: str
    sha256: Digest
    length: int
    study_uid: StudyUID
    series_uid: SeriesUID
    """Of the received series."""
    bundle: Digest


def rows() -> Select[Any]:
    """The query that `read` turns into values."""
    own = [getattr(t.Delivery, name) for name in DeliveryRow.__dataclass_fields__ if name in t.Delivery.__table__.c]
    result = (
        t.Result.kind,
        t.Result.sop_class,
        t.Result.sop_instance_uid,
        t.Result.series_uid.label("result_series_uid"),
    )
    file = (t.Result.path, t.Result.sha256, t.Result.length)
    source = (t.Job.study_uid, t.Job.series_uid, t.Job.bundle)
    return (
        select(*own, *result, *file, *source)
        .join(t.Result, t.Result.id == t.Delivery.result_id)
        .join(t.Job, t.Job.id == t.Delivery.job_id)
    )


def read(connection: Connection, wanted: Select[Any]) -> tuple[DeliveryRow, ...]:
    """Deliveries of a query that began with `rows`."""
    return tuple(DeliveryRow(**row) for row in connection.execute(wanted).mappings())


def pick(connection: Connection, ids: Iterable[int], condition: ColumnElement[bool]) -> tuple[DeliveryRow, ...]:
    """Those of these deliveries that the condition still holds for."""
    return read(connection, rows().where(t.Delivery.id.in_(list(ids)), condition).order_by(t.Delivery.id))


def change(connection: Connection, chosen: Sequence[DeliveryRow], *, count: bool = False, **values: Any) -> None:
    """New values for these deliveries; count: one attempt more."""
    if count:
        values["attempts"] = t.Delivery.attempts + 1
    if chosen:
        these = update(t.Delivery).where(t.Delivery.id.in_([row.id for row in chosen]))
        connection.execute(these.values(**values))
