import os
import sqlite3
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from anomalyd.errors import ConfigError
from anomalyd.storage import objects
from anomalyd.storage import tables as t
from anomalyd.storage.audit_key import KEY_FILE
from anomalyd.storage.clock import from_text, to_text
from anomalyd.storage.engine import open_store
from anomalyd.storage.settings import StorageSettings
from stored import PATIENT_NAME, SteppedStore, settings_in


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_promise_10_directories_are_0700_and_files_0600_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        stepped = open_store(settings_in(tmp_path))
        with stepped.write() as connection:
            connection.exec_driver_sql("INSERT INTO meta VALUES ('x', 'y')")
        objects.write_results(stepped, [b"result"])
        paths = list((tmp_path / "store").rglob("*"))
        assert {mode(path) for path in paths if path.is_dir()} | {mode(tmp_path / "store")} == {0o700}
        files = {path.name: mode(path) for path in paths if path.is_file()}
        assert {"anomalyd.db", "anomalyd.db-wal", "audit.key", "audit.head"} <= set(files)
        assert set(files.values()) == {0o600}
        stepped.close()
    finally:
        os.umask(old)


def test_promise_10_names_of_result_files_come_from_digests(stepped: SteppedStore) -> None:
    (file,) = objects.write_results(stepped.store, [b"PATIENT NAME"])
    folder, name = file.path.split("/")
    assert name == f"{file.sha256}.dcm"
    assert set(folder) <= set("0123456789abcdef")


def test_results_written_twice_are_the_same_files(stepped: SteppedStore) -> None:
    first = objects.write_results(stepped.store, [b"a", b"b"])
    assert objects.write_results(stepped.store, [b"a", b"b"]) == first
    assert len(list((stepped.store.root / "results").glob("*/*"))) == 2
    assert objects.read_result(stepped.store, first[1].path, first[1].sha256) == b"b"


def test_a_damaged_result_is_not_handed_out(stepped: SteppedStore) -> None:
    (file,) = objects.write_results(stepped.store, [b"a"])
    objects.result_path(stepped.store, file.path).write_bytes(b"b")
    with pytest.raises(objects.DamagedResult, match="SHA-256"):
        objects.read_result(stepped.store, file.path, file.sha256)
    objects.remove_results(stepped.store, [file.path])
    with pytest.raises(objects.DamagedResult, match="gone"):
        objects.read_result(stepped.store, file.path, file.sha256)


def test_three_roles_may_start_at_once_on_nothing(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path;"
        "from anomalyd.storage.engine import open_store; from anomalyd.storage.settings import StorageSettings;"
        "open_store(StorageSettings(root=Path(sys.argv[1]))).close()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "store")]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    errors = [child.communicate(timeout=60)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], errors


def test_readers_and_writers_at_once_never_meet_a_locked_database(tmp_path: Path) -> None:
    stores = [open_store(settings_in(tmp_path)) for _ in range(3)]
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(15):
                with stores[number % 3].write() as connection:
                    connection.execute(select(t.Meta.value)).all()  # read, then write: the trap of GATEWAY 7
                    connection.exec_driver_sql("INSERT INTO meta VALUES (?, 'x')", (f"{number}-{turn}",))
        except BaseException as exc:  # noqa: BLE001 - shown by the test
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for store in stores:
        store.close()


@pytest.mark.parametrize(("index_sync", "level"), [("full", 2), ("normal", 1)])
def test_commits_are_flushed_as_configured_or_always(tmp_path: Path, index_sync: str, level: int) -> None:
    store = open_store(settings_in(tmp_path), index_sync=index_sync)  # type: ignore[arg-type]  # both are literals
    with store.write() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == level
    with store.write_through() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    with store.write() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == level
        assert connection.exec_driver_sql("PRAGMA secure_delete").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    store.close()


def test_a_place_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(ConfigError, match=r"storage\.root"):
        open_store(settings_in(tmp_path))


def test_a_file_that_is_no_database_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "anomalyd.db").write_bytes(b"not a database, and long enough to be looked at" * 100)
    with pytest.raises(ConfigError, match=r"storage\.url"):
        open_store(settings_in(tmp_path))


@pytest.mark.parametrize("url", ["postgresql://localhost/x", "sqlite://", "sqlite:///:memory:", "no address"])
def test_a_database_of_another_kind_is_a_configuration_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"storage\.url"):
        open_store(settings_in(tmp_path, url=url))


def test_a_database_elsewhere_is_used(tmp_path: Path) -> None:
    store = open_store(settings_in(tmp_path, url=f"sqlite:///{tmp_path / 'other.db'}"))
    store.close()
    assert (tmp_path / "other.db").stat().st_size > 0
    assert not (tmp_path / "store" / "anomalyd.db").exists()


def test_a_database_of_another_version_is_refused(tmp_path: Path) -> None:
    open_store(settings_in(tmp_path)).close()
    database = sqlite3.connect(tmp_path / "store" / "anomalyd.db")
    database.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    database.commit()
    database.close()
    with pytest.raises(ConfigError, match="schema 99"):
        open_store(settings_in(tmp_path))


@pytest.mark.parametrize(("text", "told"), [(None, "does not belong"), ("rubbish", "damaged")])
def test_a_lost_audit_key_is_told_and_not_replaced_silently(tmp_path: Path, text: str | None, told: str) -> None:
    open_store(settings_in(tmp_path)).close()
    key = tmp_path / "store" / KEY_FILE
    key.unlink()
    if text is not None:
        key.write_text(text)
    with pytest.raises(ConfigError, match=told):
        open_store(settings_in(tmp_path))


def test_the_keyed_hash_ignores_padding_and_knows_nothing_of_nothing(stepped: SteppedStore) -> None:
    hashed = stepped.store.keyed_hash
    assert hashed("4711") == hashed(" 4711 ") == hashed("4711\0")
    assert hashed("4711") != hashed("4712")
    assert hashed("") is hashed("  ") is hashed(None) is None


def test_promise_2_the_database_holds_one_stored_version_and_each_content_once(stepped: SteppedStore) -> None:
    stepped.arrive(1)
    stepped.arrive(1, state=t.InstanceState.CONFLICTING)
    with pytest.raises(IntegrityError, match="UNIQUE"):
        stepped.arrive(1)
    with pytest.raises(IntegrityError, match="UNIQUE"):
        stepped.arrive(1, state=t.InstanceState.CONFLICTING)
    with pytest.raises(IntegrityError, match="UNIQUE"), stepped.store.write() as connection:
        connection.exec_driver_sql("UPDATE instance SET state = 'stored'")


def test_a_series_that_is_not_ineligible_has_no_reason(stepped: SteppedStore) -> None:
    stepped.closed()
    with pytest.raises(IntegrityError, match="only_an_ineligible"), stepped.store.write() as connection:
        connection.exec_driver_sql("UPDATE series SET reason = '{}'")


def test_clear_text_of_a_patient_stands_in_one_table(stepped: SteppedStore) -> None:
    stepped.done("pacs")
    with stepped.store.read() as connection:
        for table in t.Base.metadata.sorted_tables:
            rows = [tuple(row) for row in connection.execute(select(table))]
            assert (PATIENT_NAME in str(rows)) == (table.name == "study"), table.name


@pytest.mark.parametrize(
    "at", [datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=5)))]
)
def test_instants_keep_time_zone_and_order_as_text(at: datetime) -> None:
    assert from_text(to_text(at)) == at
    assert to_text(at) < to_text(at + timedelta(microseconds=1))
    with pytest.raises(ValueError, match="no time zone"):
        to_text(at.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("90 d", timedelta(days=90)), (3600, timedelta(hours=1)), (timedelta(days=2), timedelta(days=2))],
)
def test_ages_and_sizes_are_read_with_their_units(given: object, wanted: timedelta) -> None:
    settings = StorageSettings.model_validate({"keep_for": given, "disk_floor": "5 GB"})
    assert (settings.keep_for, settings.disk_floor) == (wanted, 5_000_000_000)


@pytest.mark.parametrize("wrong", [{"keep_for": "soon"}, {"disk_floor": "much"}, {"rooot": "/x"}])
def test_a_wrong_setting_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        StorageSettings.model_validate(wrong)
