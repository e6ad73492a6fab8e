"""Proving the audit log: an edited, removed or inserted row is found, and a cut-off end (DESIGN 4, promise 8)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from anomalyd.storage.audit_chain import BODY, COLUMNS, append, chained, newest_link
from anomalyd.storage.audit_events import AuditEvent, AuditKind, Outcome
from anomalyd.storage.audit_head import GENESIS, HEAD_FILE, Link, read_head, write_head
from anomalyd.storage.engine import Store
from anomalyd.storage.schema import AUDIT_TRIGGERS

_PAGE_ROWS = 5000
_PROBLEMS_SHOWN = 20
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM audit WHERE seq > ? ORDER BY seq LIMIT {_PAGE_ROWS}"  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """problems: empty when every row is as it was written, none is missing, and the end is where it was.

    rows: how many were looked at. newest: the end of the chain; printed elsewhere (a journal, paper), its hash proves
    all rows up to it.
    """

    rows: int
    newest: Link
    problems: tuple[str, ...]

    @property
    def is_intact(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(store: Store) -> AuditVerdict:
    """Recomputes the whole chain and compares its end with the file outside the database."""
    head = read_head(store.root)  # before the rows: those of a commit that comes now are newer than this
    problems = list(_missing_triggers(store))
    previous, rows, at_head = GENESIS, 0, GENESIS if head == GENESIS else None
    for row in _all_rows(store):
        rows += 1
        problem = _compared(previous, row)
        if problem and len(problems) < _PROBLEMS_SHOWN:
            problems.append(problem)
        previous = Link(row[0], row[-1])  # go on from what is stored: each bad row is named, not all after the first
        if head and previous.seq == head.seq:
            at_head = previous
    problems += _compared_head(store, head, at_head, previous)
    return AuditVerdict(rows, previous, tuple(problems))


def accept_head(store: Store, by: str, why: str) -> Link:
    """Takes the chain's present end as right, after a person has looked (a restored backup); with an audit row.

    Other roles write the head file again from their next start on.
    """
    event = AuditEvent(
        kind=AuditKind.HEAD_ACCEPTED, at=store.clock(), outcome=Outcome.MAJOR, detail={"by": by, "reason": why}
    )
    with store.write_through() as connection:
        link = append(connection, event)
    descriptor = os.open(store.root / HEAD_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_head(descriptor, link)
    finally:
        os.close(descriptor)
    return link


def newest(store: Store) -> Link:
    """The end of the chain now."""
    with store.read() as connection:
        return newest_link(connection)


def _all_rows(store: Store) -> Iterator[tuple[Any, ...]]:
    seq = 0
    while True:
        with store.read() as connection:
            page = [tuple(row) for row in connection.exec_driver_sql(_SELECT, (seq,)).fetchall()]
        yield from page
        if len(page) < _PAGE_ROWS:
            return
        seq = page[-1][0]


def _compared(previous: Link, row: tuple[Any, ...]) -> str | None:
    seq, at, kind = row[:3]
    if seq != previous.seq + 1:
        first, last = previous.seq + 1, seq - 1
        return f"row {first} is missing" if first == last else f"rows {first} to {last} are missing"
    if row[-1] != chained(previous.hash, seq, at, kind, row[3 : 3 + len(BODY)]):
        return f"row {seq} ({kind}, {at}) is not what was written, or did not follow row {previous.seq}"
    return None


def _compared_head(store: Store, head: Link | None, at_head: Link | None, newest: Link) -> Iterator[str]:
    if head is None:
        yield f"{store.root / HEAD_FILE} is missing or damaged: whether the newest rows are missing cannot be told"
    elif head.seq > newest.seq:
        count = head.seq - newest.seq
        yield (
            f"the log ends at row {newest.seq}, but row {head.seq} was written: {count} rows were cut off, "
            "or an older copy of the database was put back"
        )
    elif at_head != head:
        yield f"row {head.seq} is not the one that {HEAD_FILE} names: the log was written anew"


def _missing_triggers(store: Store) -> Iterator[str]:
    if store.engine.dialect.name != "sqlite":
        return
    with store.read() as connection:
        there = _triggers(connection)
    for name, statement in AUDIT_TRIGGERS.items():
        if there.get(name) != statement:
            yield f"trigger {name} of the database is missing or changed: rows could have been edited"


def _triggers(connection: Connection) -> dict[str, str]:
    rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    return {row[0]: row[1] for row in rows}
