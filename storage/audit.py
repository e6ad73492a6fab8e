"""The audit log's public face: what happened, append-only, hash-chained, without a patient's clear text.

Words: audit_events.py. Appending: audit_chain.py. Asking: audit_query.py. Proving: audit_verify.py.
"""

from anomalyd.storage.audit_chain import append, append_many
from anomalyd.storage.audit_events import VOCABULARY, AuditEvent, AuditKind, Outcome
from anomalyd.storage.audit_query import AuditFilter, AuditRow, HistoryEntry, condensed, history_of, query
from anomalyd.storage.audit_verify import AuditVerdict, accept_head, newest, verify
from anomalyd.storage.engine import Store

__all__ = [
    "VOCABULARY", "AuditEvent", "AuditFilter", "AuditKind", "AuditRow", "AuditVerdict", "HistoryEntry", "Outcome",
    "accept_head", "append", "append_many", "condensed", "history_of", "keyed_hash", "newest", "query", "record",
    "verify",
]  # fmt: skip


def keyed_hash(store: Store, text: str | None) -> str | None:
    """HMAC-SHA256 of a PatientID or AccessionNumber with the store's key, in hexadecimal; None for nothing."""
    return store.keyed_hash(text)


def record(store: Store, event: AuditEvent) -> None:
    """One row in a transaction of its own, flushed: for what has no other fact to go with (a role's start, a query)."""
    with store.write_through() as connection:
        append(connection, event)
