"""What the dispatcher watches: free space, the audit chain, age."""

from datetime import timedelta

from structlog.testing import capture_logs

from anomalyd.daemon.dispatcher.retention import DiskWatch, remove_expired, verify_audit
from anomalyd.storage.alarms import open_alarms
from anomalyd.storage.audit import AuditFilter, AuditKind, query
from anomalyd.storage.engine import Store
from anomalyd.storage.queue import cancel_job
from anomalyd.storage.settings import StorageSettings
from rows import add_job


def settings_of(store: Store, **storage: object) -> StorageSettings:
    return StorageSettings.model_validate({"root": store.root, **storage})


def test_room_below_the_floor_is_told_once_and_its_return_too(store: Store) -> None:
    watch = DiskWatch(store, settings_of(store, disk_floor="1000000 TB"))
    with capture_logs() as said:
        watch.sweep()
        watch.sweep()
    assert [event["event"] for event in said] == ["disk.below_floor"]
    assert [alarm.kind for alarm in open_alarms(store)] == ["disk_floor"]
    watch._floor = 0  # noqa: SLF001 - stands for a disk that was cleared
    with capture_logs() as said:
        watch.sweep()
        watch.sweep()
    assert [event["event"] for event in said] == ["disk.recovered"]


def test_enough_room_is_not_worth_a_word(store: Store) -> None:
    with capture_logs() as said:
        DiskWatch(store, settings_of(store, disk_floor=0)).sweep()
    assert said == []


def test_an_intact_chain_leaves_its_newest_hash_in_the_log(store: Store) -> None:
    add_job(store)
    with capture_logs() as said:
        verify_audit(store)
    (event,) = said
    assert event["event"] == "audit.verified"
    assert len(event["head"]) == 64
    assert len(list(query(store, AuditFilter(kind=AuditKind.VERIFIED)))) == 1
    assert open_alarms(store) == ()


def test_an_edited_row_is_an_alarm(store: Store) -> None:
    add_job(store)
    with store.write() as connection:
        for (trigger,) in connection.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            connection.exec_driver_sql(f"DROP TRIGGER {trigger}")
        connection.exec_driver_sql("UPDATE audit SET kind = 'refused' WHERE seq = 1")
    verify_audit(store)
    (alarm,) = open_alarms(store)
    assert alarm.kind == "audit_broken"


def test_what_is_young_stays(store: Store) -> None:
    job = add_job(store)
    cancel_job(store, job.id)
    remove_expired(store, settings_of(store, keep_for=timedelta(days=1)))
    assert list(query(store, AuditFilter(kind=AuditKind.EXPIRED))) == []
