"""Reading and proving the audit log; appending is in audit_chain.py, the words are in audit_events.py."""

from anomalyd.storage.audit_chain import append, append_many
from anomalyd.storage.audit_events import AuditEvent, AuditKind, Outcome
from anomalyd.storage.engine import Store

__all__ = ["AuditEvent", "AuditKind", "Outcome", "append", "append_many", "keyed_hash"]


def keyed_hash(store: Store, text: str | None) -> str | None:
    """HMAC-SHA256 of a PatientID or AccessionNumber with the store's key, in hexadecimal; None for nothing."""
    return store.keyed_hash(text)
