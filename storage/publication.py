"""Rows of a finished job: its results, and one delivery per result and destination."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, insert, select, update

from anomalyd.errors import Broken
from anomalyd.ids import InstanceUID, SeriesUID
from anomalyd.storage import delivery_audit as told
from anomalyd.storage import tables as t
from anomalyd.storage.audit_events import AuditKind
from anomalyd.storage.delivery_rows import read, rows
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import Job, job_by_id
from anomalyd.storage.objects import StoredResult
from anomalyd.storage.tables import DeliveryState

_REPORTED = ("score", "score_percentile", "threshold", "timings_s", "withdraws")
"""Keys of the report that the audit row repeats; and how many lesions and warnings."""


@dataclass(frozen=True, slots=True)
class NewResult:
    """One DICOM object to publish; its bytes are on disk (`file`, from objects.write_results)."""

    kind: str
    sop_class: str
    sop_instance_uid: InstanceUID
    series_uid: SeriesUID
    file: StoredResult


class ForeignResult(Broken):
    """A result UID belongs to another job: UIDs are not made from the job's key as they must be."""

    def __init__(self, result: NewResult, owner: int) -> None:
        super().__init__(f"result {result.sop_instance_uid} belongs to job {owner}: results were not published")


Wants = Callable[[str, str], bool]
"""Whether a destination, by its name, gets results of a kind."""


def everything(destination: str, kind: str) -> bool:
    """Every destination gets every kind."""
    del destination, kind
    return True


def publish(
    connection: Connection,
    job: Job,
    results: Sequence[NewResult],
    destinations: Sequence[str],
    now: datetime,
    *,
    wants: Wants = everything,
) -> None:
    """Writes result and delivery rows in the caller's transaction.

    A job that ran before (retried by hand) has the same result UIDs: rows are renewed, and sent again. Raises
    ForeignResult.
    """
    known = _known(connection, results)
    for result in results:
        if (owner := known.get(result.sop_instance_uid, job.id)) != job.id:
            raise ForeignResult(result, owner)
    values = [_row(job, result, now) for result in results]
    if new := [row for row in values if row["sop_instance_uid"] not in known]:
        connection.execute(insert(t.Result), new)
    for row in values:
        if row["sop_instance_uid"] in known:
            same = t.Result.sop_instance_uid == row["sop_instance_uid"]
            connection.execute(update(t.Result).where(same).values(**row))
    kinds = {result.sop_instance_uid: result.kind for result in results}
    ids = {row.id: kinds[row.sop_instance_uid] for row in connection.execute(_ids_of(kinds))}
    pairs = [(result_id, name) for result_id, kind in ids.items() for name in destinations if wants(name, kind)]
    _deliveries(connection, job, pairs, now)


def deliver_kept(store: Store, job_id: int, destinations: Sequence[str], *, wants: Wants = everything) -> int:
    """Deliveries of results that were kept and sent nowhere (too old, no destination then); gives how many are due now.

    None of a superseded job: its answer would come after the newer one. Raises NoSuchJob.
    """
    now = store.clock()
    with store.write() as connection:
        job = job_by_id(connection, job_id)
        has_deliveries = select(t.Delivery.id).where(t.Delivery.job_id == job_id).limit(1)
        if job.superseded_by is not None or connection.execute(has_deliveries).first() is not None:
            return 0
        kept = select(t.Result.id, t.Result.kind).where(t.Result.job_id == job_id, t.Result.purged_at.is_(None))
        results = connection.execute(kept.order_by(t.Result.id)).all()
        _deliveries(
            connection, job, [(row.id, name) for row in results for name in destinations if wants(name, row.kind)], now
        )
        made = read(connection, rows().where(t.Delivery.job_id == job_id).order_by(t.Delivery.id))
        told.each(connection, made, AuditKind.REVIVED, now, detail={"by": "hand"})
    return len(made)


def summary(
    job: Job, results: Sequence[NewResult], destinations: Sequence[str], report: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """Detail of the audit row: what was made of how many kinds, what was found, how long it took."""
    is_judged = report.get("reason") is None  # of a scan that was not, nothing was found says nothing
    lesions, warnings = report.get("lesions") if is_judged else None, report.get("warnings")
    return {
        "results": dict(Counter(result.kind for result in results)),
        "result_series": sorted({result.series_uid for result in results}),
        "destinations": list(destinations),
        "seconds": round((now - (job.started_at or now)).total_seconds(), 3),
        "waited_s": round(((job.started_at or now) - job.created_at).total_seconds(), 3),
        **({"lesions": len(lesions), "nothing_found": not lesions} if lesions is not None else {}),
        **({"warnings": len(warnings)} if warnings else {}),
        **({"reason": job.reason} if job.reason else {}),
        **{name: report[name] for name in _REPORTED if report.get(name) is not None},
        **_maker(report),
    }


def _maker(report: Mapping[str, Any]) -> dict[str, Any]:
    """The line that stands in every result object too: program, version, bundle, digest."""
    line = report.get("provenance", {}).get("version_line")
    return {"version_line": line} if line else {}


def _known(connection: Connection, results: Sequence[NewResult]) -> dict[str, int]:
    """Job of each result UID that has a row already."""
    uids = [result.sop_instance_uid for result in results]
    wanted = select(t.Result.sop_instance_uid, t.Result.job_id).where(t.Result.sop_instance_uid.in_(uids))
    return {row.sop_instance_uid: row.job_id for row in connection.execute(wanted)}


def _row(job: Job, result: NewResult, now: datetime) -> dict[str, Any]:
    return {
        "sop_instance_uid": result.sop_instance_uid,
        "job_id": job.id,
        "kind": result.kind,
        "sop_class": result.sop_class,
        "series_uid": result.series_uid,
        "path": result.file.path,
        "sha256": result.file.sha256,
        "length": result.file.length,
        "created_at": now,
        "purged_at": None,
    }


def _ids_of(uids: Iterable[str]) -> Select[int, InstanceUID]:
    wanted = select(t.Result.id, t.Result.sop_instance_uid).where(t.Result.sop_instance_uid.in_(list(uids)))
    return wanted.order_by(t.Result.id)


def _deliveries(connection: Connection, job: Job, pairs: Sequence[tuple[int, str]], now: datetime) -> None:
    """A due delivery for each pair of result and destination, whether there was one or not."""
    fresh = {"state": DeliveryState.DUE, "attempts": 0, "since": now, "next_at": now, "error": None, "status": None}
    old = select(t.Delivery.id, t.Delivery.result_id, t.Delivery.destination).where(t.Delivery.job_id == job.id)
    there = {(row.result_id, row.destination): row.id for row in connection.execute(old)}
    again = [there[pair] for pair in pairs if pair in there]
    if again:
        connection.execute(update(t.Delivery).where(t.Delivery.id.in_(again)).values(**fresh))
    new = [
        {"result_id": result_id, "job_id": job.id, "destination": destination, "created_at": now, **fresh}
        for result_id, destination in pairs
        if (result_id, destination) not in there
    ]
    if new:
        connection.execute(insert(t.Delivery), new)
