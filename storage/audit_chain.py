"""Appending to the audit log inside a write transaction, and the hash that chains its rows."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from anomalyd.storage.audit_events import AuditEvent
from anomalyd.storage.audit_head import GENESIS, Link
from anomalyd.storage.canonical import canonical_json
from anomalyd.storage.clock import to_text
from anomalyd.storage.crash import crash_point
from anomalyd.storage.schema import NEW_HEAD

BODY = (
    "outcome", "study_uid", "series_uid", "instance_uid", "job_id", "patient_hash", "accession_hash",
    "calling_ae", "called_ae", "address", "destination", "bundle", "detail",
)  # fmt: skip
"""Columns that the hash covers besides seq, at and kind."""
COLUMNS = ("seq", "at", "kind", *BODY, "hash")
# Text, not Core: thousands of rows a second come from the gateway, and this is measured at half the cost of insert().
_INSERT = f"INSERT INTO audit ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - constants


def append(connection: Connection, event: AuditEvent) -> Link:
    """One row more, in the caller's write transaction; gives its link."""
    return append_many(connection, (event,))


def append_many(connection: Connection, events: Iterable[AuditEvent]) -> Link:
    """Rows in the order given, in the caller's write transaction; gives the newest link.

    The head is read here, inside the transaction: three processes append.
    """
    newest = newest_link(connection)
    seq, previous = newest.seq, newest.hash
    rows: list[tuple[Any, ...]] = []
    for event in events:
        seq += 1
        at = to_text(event.at)
        body = body_of(event)
        previous = chained(previous, seq, at, event.kind, body)
        rows.append((seq, at, event.kind.value, *body, previous))
    if rows:
        connection.exec_driver_sql(_INSERT, rows)
        connection.info[NEW_HEAD] = Link(seq, previous)
        crash_point("audit.mid_append")
    return Link(seq, previous)


def newest_link(connection: Connection) -> Link:
    """The end of the chain as this transaction sees it."""
    row = connection.exec_driver_sql("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    return Link(row[0], row[1]) if row else GENESIS


def body_of(event: AuditEvent) -> tuple[Any, ...]:
    """The columns of BODY, in that order."""
    return (
        event.outcome.value,
        event.study_uid,
        event.series_uid,
        event.instance_uid,
        event.job_id,
        event.patient_hash,
        event.accession_hash,
        event.calling_ae,
        event.called_ae,
        event.address,
        event.destination,
        event.bundle,
        _detail(event.detail),
    )


def chained(previous: str, seq: int, at: str, kind: str, body: Sequence[Any]) -> str:
    """SHA-256 over the previous hash, number, time, kind and the canonical JSON of what else is in the row."""
    filled = {name: value for name, value in zip(BODY, body, strict=True) if value is not None}
    return hashlib.sha256(f"{previous}\n{seq}\n{at}\n{kind}\n{canonical_json(filled)}".encode()).hexdigest()


def _detail(detail: Mapping[str, Any] | None) -> str | None:
    return canonical_json(detail) if detail else None
