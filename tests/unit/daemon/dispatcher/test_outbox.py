"""Couriers: what is due arrives, what fails is tried again or told, and no destination waits for another."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import pytest
from pynetdicom.events import Event

from anomalyd.daemon.dispatcher.outbox import Courier
from anomalyd.daemon.settings import DaemonSettings, Destination
from anomalyd.storage import deliveries
from anomalyd.storage.alarms import open_alarms
from anomalyd.storage.engine import Store
from anomalyd.storage.tables import DeliveryState
from moving_clock import MovingClock
from pacs import Pacs
from rows import add_finished_job

WaitUntil = Callable[..., None]
FreePort = Callable[[], int]
LIMIT_S = 15.0
# pynetdicom forgets to close the socket of a refused connection
unclosed_by_pynetdicom = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def destination(port: int, name: str = "pacs", **changes: object) -> Destination:
    values: Mapping[str, object] = {"name": name, "ae_title": "PACS", "host": "127.0.0.1", "port": port}
    quick = {"connect_timeout": 1, "acse_timeout": 1, "dimse_timeout": 2, "network_timeout": 2}
    return Destination.model_validate({**values, **quick, **changes})


@contextmanager
def couriers(store: Store, *destinations: Destination, give_up_after: float = 3600) -> Iterator[list[Courier]]:
    daemon = DaemonSettings(destinations=destinations, give_up_after=give_up_after)
    running = [Courier(store, to, daemon) for to in destinations]
    for courier in running:
        courier.start()
    try:
        yield running
    finally:
        for courier in running:
            courier.stop()
        for courier in running:
            courier.join()


def states(store: Store, destination: str = "pacs") -> set[DeliveryState]:
    return {row.state for row in deliveries.deliveries(store) if row.destination == destination}


def test_results_arrive_once_and_are_confirmed_by_the_answer(
    store: Store, free_port: int, wait_until: WaitUntil
) -> None:
    made = add_finished_job(store, heatmaps=20)
    with Pacs(free_port) as pacs, couriers(store, destination(free_port)):
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)
    assert sorted(pacs.order) == sorted(made.uids)
    assert pacs.order[-1] == made.uids[-1]  # the SEG after the heatmaps


def test_a_kick_sends_what_came_later(store: Store, free_port: int, wait_until: WaitUntil) -> None:
    with Pacs(free_port) as pacs, couriers(store, destination(free_port)) as running:
        made = add_finished_job(store)
        running[0].kick()
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)
    assert sorted(pacs.order) == sorted(made.uids)


@unclosed_by_pynetdicom
def test_a_dead_destination_delays_no_other(store: Store, free_ports: FreePort, wait_until: WaitUntil) -> None:
    add_finished_job(store, destinations=("dead", "pacs"))
    dead, alive = free_ports(), free_ports()
    with Pacs(alive), couriers(store, destination(dead, "dead"), destination(alive)):
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)
        wait_until(lambda: states(store, "dead") == {DeliveryState.DUE}, LIMIT_S)
    failed = [row for row in deliveries.deliveries(store) if row.destination == "dead"]
    assert all(row.attempts == 1 and row.next_at > store.clock() for row in failed)
    assert str(dead) in (failed[0].error or "")


@unclosed_by_pynetdicom
def test_a_pacs_that_comes_back_gets_everything_once(
    store: Store, clock: MovingClock, free_port: int, wait_until: WaitUntil
) -> None:
    made = add_finished_job(store)
    with couriers(store, destination(free_port)) as running:
        wait_until(lambda: all(row.attempts == 1 for row in deliveries.deliveries(store)), LIMIT_S)
        wait_until(lambda: states(store) == {DeliveryState.DUE}, LIMIT_S)
        with Pacs(free_port) as pacs:
            clock.ahead = timedelta(minutes=5)  # past the back-off
            running[0].kick()
            wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)
    assert sorted(pacs.order) == sorted(made.uids)


@unclosed_by_pynetdicom
def test_past_give_up_after_there_is_an_alarm_and_retry_revives(
    store: Store, clock: MovingClock, free_port: int, wait_until: WaitUntil
) -> None:
    made = add_finished_job(store)
    clock.ahead = timedelta(seconds=120)
    with couriers(store, destination(free_port), give_up_after=60) as running:
        wait_until(lambda: states(store) == {DeliveryState.GAVE_UP}, LIMIT_S)
        assert [alarm.kind for alarm in open_alarms(store)] == ["delivery_gave_up"]
        with Pacs(free_port):
            assert deliveries.retry_deliveries(store, made.job.id) == len(made.uids)
            running[0].kick()
            wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)


def test_a_refusal_for_good_is_an_alarm_and_not_tried_again(
    store: Store, free_port: int, wait_until: WaitUntil
) -> None:
    add_finished_job(store)
    with Pacs(free_port, classes=[]) as pacs, couriers(store, destination(free_port)) as running:
        wait_until(lambda: states(store) == {DeliveryState.REFUSED}, LIMIT_S)
        running[0].kick()
    assert [alarm.kind for alarm in open_alarms(store)] == ["delivery_refused"]
    assert pacs.associations == 1


def test_a_warning_is_kept(store: Store, free_port: int, wait_until: WaitUntil) -> None:
    add_finished_job(store, heatmaps=1, seg=False)
    with Pacs(free_port, answer=lambda _event: 0xB000), couriers(store, destination(free_port)):
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)
    assert deliveries.deliveries(store)[0].status == 0xB000


def test_what_a_stopped_courier_did_not_send_is_due_again_at_once(
    store: Store, free_port: int, wait_until: WaitUntil
) -> None:
    made = add_finished_job(store, heatmaps=30)
    first = threading.Event()
    go_on = threading.Event()

    def answer(_event: Event) -> int:
        first.set()
        go_on.wait(5)
        return 0x0000

    with Pacs(free_port, answer=answer) as pacs:
        with couriers(store, destination(free_port)) as running:
            assert first.wait(LIMIT_S)
            running[0].stop()
            go_on.set()
        assert DeliveryState.SENDING not in states(store)
        assert all(row.attempts == 0 for row in deliveries.deliveries(store, state=DeliveryState.DUE))
        assert len(pacs.order) < len(made.uids)
        with couriers(store, destination(free_port)):
            wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)
    assert set(pacs.objects) == set(made.uids)
    assert len(pacs.order) == len(made.uids)  # each was sent once
