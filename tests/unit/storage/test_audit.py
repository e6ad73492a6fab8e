import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from anomalyd.ids import SeriesUID, StudyUID
from anomalyd.storage import audit, deliveries
from anomalyd.storage.audit_chain import COLUMNS
from anomalyd.storage.audit_head import HEAD_FILE, read_head
from anomalyd.storage.engine import Store, open_store
from stored import ACCESSION, PATIENT_ID, PATIENT_NAME, SERIES, STUDY, SteppedStore, settings_in

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def event(number: int, kind: audit.AuditKind = audit.AuditKind.RECEIVED) -> audit.AuditEvent:
    return audit.AuditEvent(
        kind=kind, at=AT, study_uid="1.2", series_uid="1.2.3", instance_uid=f"1.2.3.{number}", detail={"bytes": number}
    )


def filled(store: Store, rows: int = 10) -> None:
    for number in range(1, rows + 1):
        audit.record(store, event(number))


def tamper(store: Store, *statements: str) -> None:
    """As somebody with the database file and an editor would: triggers off, change, triggers on."""
    with store.write() as connection:
        triggers = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type='trigger'").fetchall()
        for name, _ in triggers:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.exec_driver_sql(statement)
        for _, sql in triggers:
            connection.exec_driver_sql(sql)


def test_promise_8_an_untouched_log_is_intact(stepped: SteppedStore) -> None:
    filled(stepped.store)
    verdict = audit.verify(stepped.store)
    assert verdict.is_intact
    assert (verdict.rows, verdict.newest) == (10, read_head(stepped.store.root))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET outcome = 'success' WHERE seq = 3",
        "DELETE FROM audit WHERE seq = 10",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE seq = 3",
        "INSERT INTO audit (seq, at, kind, outcome, hash) VALUES (12, 'x', 'x', 'x', 'x')",
        "INSERT INTO audit (at, kind, outcome, hash) VALUES ('x', 'x', 'x', 'x')",
    ],
)
def test_promise_8_the_database_only_lets_the_log_grow(stepped: SteppedStore, statement: str) -> None:
    filled(stepped.store)
    with pytest.raises(IntegrityError, match="only appends"), stepped.store.write() as connection:
        connection.exec_driver_sql(statement)
    assert audit.verify(stepped.store).is_intact


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (["UPDATE audit SET detail = '{\"bytes\":999}' WHERE seq = 4"], "row 4 "),
        (["UPDATE audit SET at = '2026-01-30T12:00:00.000000Z' WHERE seq = 10"], "row 10 "),
        (["UPDATE audit SET study_uid = NULL WHERE seq = 1"], "row 1 "),
        (["DELETE FROM audit WHERE seq = 5"], "row 5 is missing"),
        (["DELETE FROM audit WHERE seq IN (5, 6)", "UPDATE audit SET seq = seq - 2 WHERE seq > 6"], "row 5 "),
        (
            [
                "UPDATE audit SET seq = -seq WHERE seq > 5",
                "UPDATE audit SET seq = 1 - seq WHERE seq < 0",
                f"INSERT INTO audit SELECT 6, {', '.join(COLUMNS[1:])} FROM audit WHERE seq = 3",  # noqa: S608 - constants
            ],
            "row 6 ",
        ),
        (["DELETE FROM audit WHERE seq > 8"], "cut off"),
        (["DELETE FROM audit"], "cut off"),
    ],
    ids=["edited", "time-edited", "first-edited", "removed", "removed-and-closed-up", "inserted", "cut", "emptied"],
)
def test_promise_8_verify_finds(stepped: SteppedStore, statements: list[str], found: str) -> None:
    filled(stepped.store)
    tamper(stepped.store, *statements)
    verdict = audit.verify(stepped.store)
    assert any(found in problem for problem in verdict.problems), verdict


def test_promise_8_verify_finds_a_chain_that_was_computed_anew(stepped: SteppedStore) -> None:
    filled(stepped.store, 3)
    rewritten = hashlib.sha256(b"somebody who can compute a hash").hexdigest()
    tamper(stepped.store, f"UPDATE audit SET hash = '{rewritten}' WHERE seq = 3")  # noqa: S608 - a constant
    problems = audit.verify(stepped.store).problems
    assert any("written anew" in problem for problem in problems)


def test_promise_8_verify_finds_missing_triggers(stepped: SteppedStore) -> None:
    filled(stepped.store)
    with stepped.store.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_never_forgets")
    assert any("audit_never_forgets" in problem for problem in audit.verify(stepped.store).problems)


def test_promise_8_a_cut_end_stays_known_when_the_log_goes_on(stepped: SteppedStore, tmp_path: Path) -> None:
    filled(stepped.store)
    tamper(stepped.store, "DELETE FROM audit WHERE seq > 5")
    later = open_store(settings_in(tmp_path), clock=stepped.clock)
    filled(later, 20)
    assert not audit.verify(later).is_intact
    audit.accept_head(later, by="root", why="backup of January put back")
    assert audit.verify(later).is_intact
    later.close()


def test_promise_8_a_removed_head_file_is_found_and_not_replaced(stepped: SteppedStore, tmp_path: Path) -> None:
    filled(stepped.store)
    (stepped.store.root / HEAD_FILE).unlink()
    later = open_store(settings_in(tmp_path), clock=stepped.clock)
    filled(later)
    assert any("missing or damaged" in problem for problem in audit.verify(later).problems)
    later.close()


def test_promise_8_three_processes_append_to_one_chain(stepped: SteppedStore, tmp_path: Path) -> None:
    stores = [open_store(settings_in(tmp_path), index_sync="normal" if k == 0 else "full") for k in range(3)]
    for number in range(12):
        with stores[number % 3].write() as connection:
            audit.append_many(connection, [event(number), event(number)])
    verdict = audit.verify(stepped.store)
    assert verdict.is_intact
    assert verdict.rows == 24
    for store in stores:
        store.close()


def test_the_head_file_is_not_ahead_of_what_is_flushed(tmp_path: Path) -> None:
    store = open_store(settings_in(tmp_path), index_sync="normal")
    with store.write() as connection:
        audit.append(connection, event(1))
    head = read_head(store.root)
    assert head is not None
    assert head.seq == 0
    with store.write_through() as connection:
        audit.append(connection, event(2))
    head = read_head(store.root)
    assert head is not None
    assert head.seq == 2
    store.close()


def test_a_transaction_that_is_rolled_back_leaves_no_row_and_no_head(stepped: SteppedStore) -> None:
    filled(stepped.store, 2)

    def half_way(connection: Connection) -> None:
        audit.append(connection, event(3))
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError), stepped.store.write() as connection:
        half_way(connection)
    with stepped.store.write():
        pass
    verdict = audit.verify(stepped.store)
    assert verdict.is_intact
    assert verdict.rows == 2


def test_the_same_events_make_the_same_chain(tmp_path: Path) -> None:
    chains = []
    for name in ("a", "b"):
        store = open_store(settings_in(tmp_path / name))
        filled(store, 5)
        chains.append(audit.newest(store))
        store.close()
    assert chains[0] == chains[1]


def test_every_kind_has_its_word_in_dicom() -> None:
    assert set(audit.VOCABULARY) == set(audit.AuditKind)


@pytest.mark.parametrize(
    ("asked", "finds"),
    [
        (audit.AuditFilter(patient_id=PATIENT_ID), True),
        (audit.AuditFilter(patient_id=f" {PATIENT_ID} "), True),
        (audit.AuditFilter(patient_id="somebody else"), False),
        (audit.AuditFilter(accession=ACCESSION), True),
        (audit.AuditFilter(study_uid=STUDY, kind=audit.AuditKind.CLOSED), True),
        (audit.AuditFilter(series_uid="1.2.3"), False),
        (audit.AuditFilter(since=AT), True),
        (audit.AuditFilter(until=AT), False),
    ],
)
def test_the_log_answers_by_patient_order_study_event_and_time(
    stepped: SteppedStore, asked: audit.AuditFilter, *, finds: bool
) -> None:
    stepped.done("pacs")
    assert bool(list(audit.query(stepped.store, asked))) is finds


def test_a_long_answer_comes_whole_and_in_order(stepped: SteppedStore) -> None:
    with stepped.store.write() as connection:
        audit.append_many(connection, [event(number) for number in range(2500)])
    rows = list(audit.query(stepped.store))
    assert [row.seq for row in rows] == list(range(1, 2501))
    assert rows[7].detail == {"bytes": 7}


LIFE = ["closed", "selected", "queued", "started", "finished", "sending", "sent", "sent", "confirmed", "confirmed"]
Names = Callable[[SteppedStore], str]


@pytest.mark.parametrize(
    "name",
    [
        lambda _: SERIES,
        lambda _: STUDY,
        lambda _: f"{SERIES}.1",
        lambda _: ACCESSION,
        lambda s: deliveries.deliveries(s.store)[0].sop_instance_uid,
        lambda s: deliveries.deliveries(s.store)[0].result_series_uid,
    ],
    ids=["series", "study", "image", "accession", "result", "result-series"],
)
def test_explain_finds_the_whole_life_by(stepped: SteppedStore, name: Names) -> None:
    stepped.done("pacs")
    stepped.done("pacs", study=StudyUID("1.9"), series=SeriesUID("1.9.1"))
    own = [row.id for row in deliveries.due(stepped.store)[:2]]
    deliveries.mark_sending(stepped.store, own, timedelta(minutes=5))
    deliveries.mark_sent(stepped.store, own)
    deliveries.mark_confirmed(stepped.store, own, "query")
    rows = audit.history_of(stepped.store, name(stepped))
    assert [row.kind for row in rows if row.series_uid == SERIES] == LIFE
    assert {row.series_uid for row in rows} == ({SERIES, "1.9.1"} if name(stepped) == ACCESSION else {SERIES})


def test_a_history_fits_on_a_page(stepped: SteppedStore) -> None:
    stepped.done("pacs", "archive", results=20)
    for pacs, archive in zip(
        deliveries.due(stepped.store, destination="pacs"),
        deliveries.due(stepped.store, destination="archive"),
        strict=True,
    ):
        deliveries.mark_sent(stepped.store, [pacs.id])
        deliveries.mark_sent(stepped.store, [archive.id])
        deliveries.mark_confirmed(stepped.store, [pacs.id], "response")
        stepped.clock.step(1)
    *_, finished, to_pacs, to_archive, confirmed = audit.condensed(audit.history_of(stepped.store, SERIES))
    told = [(entry.row.kind, entry.row.destination, entry.count) for entry in (to_pacs, to_archive, confirmed)]
    assert told == [("sent", "pacs", 20), ("sent", "archive", 20), ("confirmed", "pacs", 20)]
    assert finished.row.kind == "finished"
    assert to_pacs.last.at - to_pacs.row.at == timedelta(seconds=19)


def test_a_history_keeps_the_order_of_steps(stepped: SteppedStore) -> None:
    kinds = [audit.AuditKind.RECEIVED, audit.AuditKind.RECEIVED, audit.AuditKind.CLOSED, audit.AuditKind.RECEIVED]
    for number, kind in enumerate(kinds):
        audit.record(stepped.store, event(number, kind))
    entries = audit.condensed(audit.history_of(stepped.store, "1.2.3"))
    assert [(entry.row.kind, entry.count) for entry in entries] == [("received", 2), ("closed", 1), ("received", 1)]


def test_no_row_of_the_log_holds_a_patient_s_clear_text(stepped: SteppedStore) -> None:
    stepped.done("pacs")
    said = json.dumps([list(map(str, row)) for row in _all(stepped.store)])
    for marker in (PATIENT_ID, PATIENT_NAME, ACCESSION):
        assert marker not in said


def _all(store: Store) -> list[tuple[object, ...]]:
    with store.read() as connection:
        return [tuple(row) for row in connection.exec_driver_sql("SELECT * FROM audit").fetchall()]
