"""What is to be forgotten, as rows: from then on nobody reads, analyses or sends it. The bytes go in erasing.py."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from anomalyd.storage import tables as t
from anomalyd.storage.tables import DeliveryState, InstanceState, PurgeReason

WAL_MAY_HOLD_TEXT = "wal_may_hold_text"
"""Key in `meta` from the blanking of a study until its text is out of the write-ahead log."""


def mark_instances(connection: Connection, series_ids: Collection[int], reason: PurgeReason, now: datetime) -> int:
    """Images of these series become purged; gives how many."""
    live = (t.Instance.series_id.in_(series_ids), t.Instance.state != InstanceState.PURGED)
    values = {"state": InstanceState.PURGED, "purged_at": now, "purge_reason": reason}
    return connection.execute(update(t.Instance).where(*live).values(**values)).rowcount


def mark_results(connection: Connection, series_ids: Collection[int], now: datetime) -> int:
    """Results of these series become purged, what was not sent of them is closed; gives how many.

    Their jobs lose the report: the same images sent again are analysed again.
    """
    connection.execute(update(t.Job).where(t.Job.series_id.in_(series_ids)).values(report=None))
    jobs = select(t.Job.id).where(t.Job.series_id.in_(series_ids))
    unsent = (DeliveryState.DUE, DeliveryState.SENDING, DeliveryState.GAVE_UP, DeliveryState.REFUSED)
    connection.execute(
        update(t.Delivery)
        .where(t.Delivery.job_id.in_(jobs), t.Delivery.state.in_(unsent))
        .values(state=DeliveryState.CLOSED, error="purged")
    )
    these = (t.Result.job_id.in_(jobs), t.Result.purged_at.is_(None))
    return connection.execute(update(t.Result).where(*these).values(purged_at=now)).rowcount


def blank_study(connection: Connection, study_uid: str, now: datetime) -> None:
    """Clear text of a study leaves its row; `erase` then takes it out of the write-ahead log."""
    blank = dict.fromkeys(("patient_name", "patient_id", "accession_number", "study_date"))
    hashes = dict.fromkeys(("patient_hash", "accession_hash"))
    connection.execute(update(t.Study).where(t.Study.study_uid == study_uid).values(purged_at=now, **blank, **hashes))
    connection.execute(delete(t.Meta).where(t.Meta.key == WAL_MAY_HOLD_TEXT))
    connection.execute(insert(t.Meta).values(key=WAL_MAY_HOLD_TEXT, value=study_uid))
