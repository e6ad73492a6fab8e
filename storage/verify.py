"""Whether the store is whole: segment log against index, results against their digests, database, audit log."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import select

from anomalyd.storage import audit_verify, objects
from anomalyd.storage import tables as t
from anomalyd.storage.audit_verify import AuditVerdict
from anomalyd.storage.engine import Store
from anomalyd.storage.index import position
from anomalyd.storage.records import Place, Record, RecordKind
from anomalyd.storage.segments import Damage, SegmentLog
from anomalyd.storage.tables import InstanceState


class ProblemKind(StrEnum):
    """What is wrong with it."""

    RECORD_MISSING = "record_missing"
    """The index names an image that the log does not hold."""
    RECORD_DIFFERS = "record_differs"
    RECORD_DAMAGED = "record_damaged"
    ROW_MISSING = "row_missing"
    """The log holds an image, in its indexed part, that the index does not name."""
    RESULT_MISSING = "result_missing"
    RESULT_DIFFERS = "result_differs"
    DATABASE = "database"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it must be; text names UIDs and places, never a patient."""

    kind: ProblemKind
    text: str

    def __str__(self) -> str:
        """For a person."""
        return self.text


@dataclass(frozen=True, slots=True)
class StoreVerdict:
    """not_indexed: records behind the index's end, which the gateway takes over (or cuts off, if torn) at its start.

    waiting_to_be_erased: purged images whose bytes are still there; the gateway erases them.
    """

    images: int
    results: int
    audit: AuditVerdict
    not_indexed: int
    waiting_to_be_erased: int
    problems: tuple[Problem, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def text(self) -> str:
        """One line for a person."""
        found = f"{len(self.problems)} problems" if self.problems else "everything is as it was stored"
        counts = f"{self.images} images, {self.results} results, {self.audit.rows} audit rows"
        later = f"; {self.not_indexed} records wait for the gateway's start" if self.not_indexed else ""
        erase = (
            f"; {self.waiting_to_be_erased} purged images wait for the gateway to erase them"
            if self.waiting_to_be_erased
            else ""
        )
        return f"{counts}: {found}{later}{erase}"


@dataclass(frozen=True, slots=True)
class _Indexed:
    """One row of the index."""

    instance_uid: str
    sha256: str
    state: InstanceState
    length: int
    is_erased: bool


def verify(store: Store) -> StoreVerdict:
    """Reads everything: each image and result is hashed, each audit row too. Images may arrive meanwhile."""
    problems = list(_database_problems(store))
    rows, end = _index(store)
    images = not_indexed = waiting = 0
    seen: set[Place] = set()
    for found in SegmentLog(store.root).scan():
        if found.place >= end:
            not_indexed += 1
            continue
        if isinstance(found, Damage):
            where = f"segment {found.place.segment} at {found.place.offset}"
            problems.append(Problem(ProblemKind.RECORD_DAMAGED, f"{where}: {found.length} bytes, {found.what}"))
            continue
        if found.header.kind is RecordKind.NOTE:
            continue
        seen.add(found.place)
        row = rows.get(found.place)
        images += row is not None and row.state is not InstanceState.PURGED
        waiting += row is not None and row.state is InstanceState.PURGED and not row.is_erased
        problems += _compared(found, row)
    problems += _missing(rows, seen)
    results, result_problems = _results(store)
    audit = audit_verify.verify(store)
    problems += result_problems
    problems += [Problem(ProblemKind.AUDIT, text) for text in audit.problems]
    return StoreVerdict(images, results, audit, not_indexed, waiting, tuple(problems))


def _index(store: Store) -> tuple[dict[Place, _Indexed], Place]:
    """All rows by place, and the place up to which the log is indexed."""
    columns = (
        t.Instance.segment, t.Instance.offset, t.Instance.instance_uid, t.Instance.sha256, t.Instance.state,
        t.Instance.length, t.Instance.erased_at,
    )  # fmt: skip
    with store.read() as connection:
        end = position(connection)
        rows = {
            Place(row.segment, row.offset): _Indexed(
                row.instance_uid, row.sha256, row.state, row.length, row.erased_at is not None
            )
            for row in connection.execute(select(*columns))
        }
    return rows, end


def _compared(record: Record, row: _Indexed | None) -> Iterator[Problem]:
    uid, sha256 = record.facts.get("instance_uid"), record.facts.get("sha256")
    where = f"image {uid} in segment {record.place.segment} at {record.place.offset}"
    if row is None:
        yield Problem(ProblemKind.ROW_MISSING, f"{where} is not in the index")
        return
    is_stone = record.header.kind is RecordKind.PURGED
    if is_stone and row.state is not InstanceState.PURGED:
        yield Problem(ProblemKind.RECORD_MISSING, f"{where} was purged from the log, the index says {row.state}")
    if (row.instance_uid, row.sha256) != (uid, sha256) or record.header.payload_length != row.length:
        yield Problem(ProblemKind.RECORD_DIFFERS, f"{where} is not what the index says ({row.instance_uid})")


def _missing(rows: dict[Place, _Indexed], seen: set[Place]) -> Iterator[Problem]:
    for place, row in rows.items():
        if place not in seen and row.state is not InstanceState.PURGED:
            where = f"segment {place.segment} at {place.offset}"
            yield Problem(ProblemKind.RECORD_MISSING, f"image {row.instance_uid} is not in the log ({where})")


def _results(store: Store) -> tuple[int, list[Problem]]:
    wanted = select(t.Result.sop_instance_uid, t.Result.path, t.Result.sha256, t.Result.job_id)
    with store.read() as connection:
        rows = connection.execute(wanted.where(t.Result.purged_at.is_(None))).all()
    problems = []
    for row in rows:
        try:
            objects.read_result(store, row.path, row.sha256)
        except objects.DamagedResult as exc:
            is_there = objects.result_path(store, row.path).exists()
            kind = ProblemKind.RESULT_DIFFERS if is_there else ProblemKind.RESULT_MISSING
            problems.append(Problem(kind, f"result {row.sop_instance_uid} of job {row.job_id}: {exc}"))
    return len(rows), problems


def _database_problems(store: Store) -> Iterator[Problem]:
    if store.engine.dialect.name != "sqlite":
        return
    with store.read() as connection:
        for (text,) in connection.exec_driver_sql("PRAGMA integrity_check(20)").fetchall():
            if text != "ok":
                yield Problem(ProblemKind.DATABASE, text)
        for table, row_id, *_ in connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall():
            yield Problem(ProblemKind.DATABASE, f"row {row_id} of {table} refers to a row that is not there")
