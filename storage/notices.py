"""Notices that a series was not analysed, and that are not true any more."""

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, select

from anomalyd.storage import delivery_audit as told
from anomalyd.storage import tables as t
from anomalyd.storage.audit_events import AuditKind
from anomalyd.storage.delivery_rows import change, pick
from anomalyd.storage.jobs import Job
from anomalyd.storage.tables import DeliveryState

KINDS: Final = ("not_analysed", "ineligible")
"""Kinds of result that are notices."""
_IN_THE_PACS = (DeliveryState.SENT, DeliveryState.CONFIRMED)


def drop_unsent(connection: Connection, analysed: Job, now: datetime) -> None:
    """Closes what was not yet sent of the notices of a series that is analysed now, with an audit row for each.

    In the transaction that publishes the analysis. What is in the PACS stays there.
    """
    jobs = select(t.Job.id).where(t.Job.series_id == analysed.series_id)
    notices = select(t.Result.id).where(t.Result.job_id.in_(jobs), t.Result.kind.in_(KINDS))
    of_notices = select(t.Delivery.id).where(t.Delivery.result_id.in_(notices))
    unsent = t.Delivery.state.not_in((*_IN_THE_PACS, DeliveryState.CLOSED))
    chosen = pick(connection, connection.execute(of_notices.where(unsent)).scalars().all(), unsent)
    why = f"job {analysed.id} has analysed the series since"
    change(connection, chosen, state=DeliveryState.CLOSED, error=why)
    told.each(connection, chosen, AuditKind.DELIVERY_CLOSED, now, detail={"reason": why})
