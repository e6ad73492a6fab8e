"""Making the schema, and refusing another version's."""

from datetime import datetime
from pathlib import Path

from sqlalchemy import DDL, Connection, Engine, event, insert, select

from anomalyd.errors import ConfigError
from anomalyd.storage import audit_key
from anomalyd.storage import tables as t
from anomalyd.storage.audit_head import GENESIS, AuditHead, Link, read_head
from anomalyd.storage.clock import to_text
from anomalyd.storage.confirmation_tables import Commitment

WRITES = "anomalyd_writes"
DURABLE = "anomalyd_durable"
"""Execution options of a transaction: begins with the write lock; is flushed at its end."""
NEW_HEAD = "anomalyd_new_head"
"""Key in Connection.info: the newest audit link of the running transaction."""

# `is not` also refuses NULL. A seq below the newest is refused too: INSERT OR REPLACE would overwrite a row, since
# REPLACE skips delete triggers unless recursive_triggers is on (GATEWAY 7).
AUDIT_TRIGGERS = {
    "audit_only_appends": (
        "CREATE TRIGGER audit_only_appends BEFORE INSERT ON audit "
        "WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM audit) "
        "BEGIN SELECT RAISE(ABORT, 'the audit log only appends: seq must follow the newest row'); END"
    ),
    "audit_never_changes": (
        "CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit log only appends: rows do not change'); END"
    ),
    "audit_never_forgets": (
        "CREATE TRIGGER audit_never_forgets BEFORE DELETE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit log only appends: rows are not removed'); END"
    ),
}
for _statement in AUDIT_TRIGGERS.values():
    event.listen(t.Audit.__table__, "after_create", DDL(_statement).execute_if(dialect="sqlite"))  # type: ignore[no-untyped-call]  # SQLAlchemy's own gap


def prepare(engine: Engine, root: Path, key: bytes, now: datetime) -> AuditHead:
    """Creates what is missing in one transaction; gives the writer of the head file.

    Raises ConfigError for another schema version or audit key.
    """
    with engine.connect() as bare:
        connection = bare.execution_options(**{WRITES: True, DURABLE: True})
        with connection.begin():
            Commitment.metadata.create_all(connection)
            for index in (index for table in Commitment.metadata.tables.values() for index in table.indexes):
                index.create(connection, checkfirst=True)  # of a table that an earlier snapshot made
            facts = {row.key: row.value for row in connection.execute(select(t.Meta.key, t.Meta.value))}
            is_new = not facts
            if is_new:
                facts = _first_facts(connection, key, now)
            is_evidence = not is_new and not _holds(connection, read_head(root))
    _check(facts, root, key)
    head = AuditHead(root, is_evidence=is_evidence)
    head.begin()
    return head


def _holds(connection: Connection, head: Link | None) -> bool:
    """Whether the chain in the database passes through the link that the head file names."""
    if head is None:  # a start that died between its first commit and the file is no loss: nothing was audited yet
        return connection.execute(select(t.Audit.seq).limit(1)).first() is None
    stored = connection.execute(select(t.Audit.hash).where(t.Audit.seq == head.seq)).scalar()
    return head == GENESIS or stored == head.hash


def _first_facts(connection: Connection, key: bytes, now: datetime) -> dict[str, str]:
    facts = {
        "schema_version": str(t.SCHEMA_VERSION),
        "made_at": to_text(now),
        "audit_key": audit_key.fingerprint(key),
    }
    connection.execute(insert(t.Meta), [{"key": name, "value": value} for name, value in facts.items()])
    return facts


def _check(facts: dict[str, str], root: Path, key: bytes) -> None:
    if facts.get("schema_version") != str(t.SCHEMA_VERSION):
        raise ConfigError(
            f"{root}: the database has schema {facts.get('schema_version')}, this program knows {t.SCHEMA_VERSION}: "
            "use the program version that made it, or another storage.root"
        )
    if facts.get("audit_key") != audit_key.fingerprint(key):
        raise ConfigError(
            f"{root / audit_key.KEY_FILE} does not belong to this database: put the file back from the same backup"
        )
