"""The dispatcher as a whole, in a thread: begins, recovers, tells its troubles, ends."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from anomalyd.daemon.dispatcher.run import run_dispatcher
from anomalyd.daemon.settings import Settings
from anomalyd.daemon.wake import Role, notify
from anomalyd.errors import ConfigError
from anomalyd.storage import deliveries
from anomalyd.storage.alarms import open_alarms
from anomalyd.storage.audit import AuditFilter, AuditKind, query
from anomalyd.storage.clock import utc_now
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.tables import DeliveryState
from pacs import Pacs
from rows import add_finished_job
from tiny_bundle import tiny_bundle

WaitUntil = Callable[..., None]
LIMIT_S = 20.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    tiny_bundle(path)
    return path


def settings_of(root: Path, bundle: Path, port: int | None = None, **daemon: Any) -> Settings:
    pacs: list[Mapping[str, object]] = [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port}]
    return Settings.model_validate(
        {
            "daemon": {"destinations": pacs if port else [], **daemon},
            "pipeline": {"bundles": [bundle]},
            "storage": {"root": root, "disk_floor": 0},
        }
    )


@contextmanager
def dispatching(settings: Settings) -> Iterator[None]:
    stop = threading.Event()
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run_dispatcher(settings, stop)))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(LIMIT_S)
    assert codes == [0]


def test_it_says_that_it_began_and_ended(store: Store, bundle: Path, wait_until: WaitUntil) -> None:
    with dispatching(settings_of(store.root, bundle)):
        wait_until(lambda: list(query(store, AuditFilter(kind=AuditKind.VERIFIED))), LIMIT_S)
    started, stopped = (
        next(iter(query(store, AuditFilter(kind=kind)))) for kind in (AuditKind.STARTED_ROLE, AuditKind.STOPPED_ROLE)
    )
    assert started.detail is not None
    assert started.detail["role"] == "dispatcher"
    assert started.detail["bundles"]["T1w"]
    assert stopped.outcome == "success"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("courier", "APScheduler"))]


def test_what_a_killed_one_was_sending_is_sent(
    store: Store, bundle: Path, free_port: int, wait_until: WaitUntil
) -> None:
    made = add_finished_job(store)
    ids = [row.id for row in deliveries.due(store)]
    assert deliveries.mark_sending(store, ids, timedelta(hours=1))
    with Pacs(free_port) as pacs, dispatching(settings_of(store.root, bundle, free_port)):
        wait_until(lambda: len(pacs.objects) == len(made.uids), LIMIT_S)


def test_a_wake_is_enough_to_send_at_once(store: Store, bundle: Path, free_port: int, wait_until: WaitUntil) -> None:
    with Pacs(free_port) as pacs, dispatching(settings_of(store.root, bundle, free_port)):
        # Verified after the start: until then it replaces jobs of bundles that it does not serve, such as this one.
        wait_until(lambda: list(query(store, AuditFilter(kind=AuditKind.VERIFIED))), LIMIT_S)
        made = add_finished_job(store)
        assert notify(store.root, Role.DISPATCHER)
        wait_until(lambda: len(pacs.objects) == len(made.uids), LIMIT_S)


def test_a_destination_that_left_the_configuration_is_not_forgotten_in_silence(
    store: Store, bundle: Path, wait_until: WaitUntil
) -> None:
    add_finished_job(store, destinations=("gone",))
    with dispatching(settings_of(store.root, bundle, give_up_after=0.001)):
        wait_until(lambda: {row.state for row in deliveries.deliveries(store)} == {DeliveryState.GAVE_UP}, LIMIT_S)
    (alarm,) = open_alarms(store)
    assert alarm.destination == "gone"
    assert "no destination is named gone" in alarm.text


def test_what_was_sent_to_a_destination_that_left_the_configuration_is_told_too(
    store: Store, bundle: Path, wait_until: WaitUntil
) -> None:
    add_finished_job(store, destinations=("gone",))
    deliveries.mark_sent(store, [row.id for row in deliveries.due(store)])
    impatient = {"answer_within": 0.1, "give_up_after": 0.2}
    with dispatching(settings_of(store.root, bundle, confirmation=impatient)):
        wait_until(lambda: {row.state for row in deliveries.deliveries(store)} == {DeliveryState.GAVE_UP}, LIMIT_S)
    assert {alarm.kind for alarm in open_alarms(store)} == {"delivery_unconfirmed"}
    assert list(query(store, AuditFilter(kind=AuditKind.ASKED))) == []


def test_rows_of_a_clock_that_ran_ahead_hold_nothing_up(
    tmp_path: Path, bundle: Path, free_port: int, wait_until: WaitUntil
) -> None:
    storage = StorageSettings(root=tmp_path / "store", disk_floor=0)
    ahead = open_store(storage, clock=lambda: utc_now() + timedelta(days=365))
    made = add_finished_job(ahead)
    ahead.close()
    with Pacs(free_port) as pacs, dispatching(settings_of(storage.root, bundle, free_port)):
        wait_until(lambda: len(pacs.objects) == len(made.uids), LIMIT_S)


def test_a_failing_sweep_is_an_alarm_and_the_others_go_on(
    store: Store, bundle: Path, free_port: int, wait_until: WaitUntil
) -> None:
    """A row that breaks the closing sweep, as damage would: an instant that is none."""
    add_finished_job(store)
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE series SET state = 'receiving', last_at = 'yesterday'")
    with Pacs(free_port) as pacs, dispatching(settings_of(store.root, bundle, free_port)):
        wait_until(lambda: open_alarms(store), LIMIT_S)
        wait_until(lambda: len(pacs.objects) == 3, LIMIT_S)
    (alarm,) = open_alarms(store)
    assert alarm.subject == "dispatcher: closing"


def test_two_bundles_for_one_contrast_are_a_configuration_error(tmp_path: Path, bundle: Path) -> None:
    other = tmp_path / "other"
    tiny_bundle(other)
    settings = settings_of(tmp_path / "store", bundle)
    pipeline = settings.pipeline.model_copy(update={"bundles": (bundle, other)})
    with pytest.raises(ConfigError, match="both are for T1w"):
        run_dispatcher(settings.model_copy(update={"pipeline": pipeline}), threading.Event())
