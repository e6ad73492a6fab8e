"""Whatever is wrong with a PACS, or with the way to it: every result is there in the end, or told to be refused.

The couriers are real, the PACS is real, the line between them fails as told. Time-outs are 60 times shorter than those
that hold by default, and so a slow line is 60 times faster than 1 KB/s. The hour that a PACS is away is on our clock.
"""

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom.uid import SecondaryCaptureImageStorage
from pynetdicom import evt
from pynetdicom.events import Event

from anomalyd.daemon.dispatcher.outbox import Courier
from anomalyd.daemon.settings import DaemonSettings, Destination
from anomalyd.storage import deliveries
from anomalyd.storage.alarms import open_alarms
from anomalyd.storage.deliveries import DeliveryRow
from anomalyd.storage.engine import Store
from anomalyd.storage.tables import DeliveryState
from bad_line import DEAF, BadLine, Fault
from conftest import FreePort, WaitUntil
from moving_clock import MovingClock
from pacs import Pacs
from rows import add_finished_job

pytestmark = [
    pytest.mark.faults,
    # of a refused connection: nothing is left open, but pynetdicom leaves it to the collector to close it
    pytest.mark.filterwarnings("ignore:.*<socket.socket:pytest.PytestUnraisableExceptionWarning"),
]
LIMIT_S = 60.0
SHORT = {"connect_timeout": 1, "acse_timeout": 1, "dimse_timeout": 1, "network_timeout": 1}
LONG = {"connect_timeout": 60, "acse_timeout": 60, "dimse_timeout": 60, "network_timeout": 60}
SIDE = 200  # 40 kB an object
DEEP = 2500  # 6 MB: more than the buffers of both sockets take
SLOW_SIDE, SLOW_BYTES_PER_S = 450, 60_000  # 200 kB an object, 3.4 s of the line
HANGING = {
    "hangs after the connection": DEAF,
    "hangs after the association": Fault("mute", once_answered=True),
    "hangs in the middle of an object": Fault("deaf", after=20_000),
}
LINES = {
    **HANGING,
    "aborts in the middle of an object": Fault("abort", after=20_000),
    "is cut off in the middle of an object": Fault("reset", after=20_000),
}
FOR_NOW, FOR_EVER = (2, 3, 2), (1, 1, 7)  # local limit exceeded; called AE title not recognised (PS3.8 table 9-21)
BadPacs = Callable[[int, int], AbstractContextManager[object]]


def rejecting(result: int, source: int, reason: int) -> BadPacs:
    def reject(event: Event) -> None:
        event.assoc.acse.send_reject(result, source, reason)
        event.assoc.is_rejected = True
        event.assoc.kill()

    return lambda port, _behind: Pacs(port, handlers=[(evt.EVT_REQUESTED, reject)])


def answering(status: int) -> BadPacs:
    return lambda port, _behind: Pacs(port, answer=lambda _event: status)


def behind_a(fault: Fault) -> BadPacs:
    @contextmanager
    def line(port: int, behind: int) -> Iterator[None]:
        with Pacs(behind), BadLine(port, behind, fault):
            yield

    return line


PASSING: dict[str, BadPacs] = {
    "is down": lambda _port, _behind: nullcontext(),
    "rejects the association for now": rejecting(*FOR_NOW),
    "is out of resources": answering(0xA700),
    "fails": answering(0x0110),
    **{name: behind_a(fault) for name, fault in LINES.items()},
}
FINAL: dict[str, BadPacs] = {
    "does not know whom we call": rejecting(*FOR_EVER),
    "takes no class": lambda port, _behind: Pacs(port, classes=[]),
    "cannot keep the class": answering(0x0122),
    "says that the data set does not match": answering(0xA900),
}


@dataclass
class Outbox:
    """Couriers at work on a store."""

    store: Store
    couriers: Sequence[Courier]

    def rows(self, name: str = "pacs") -> tuple[DeliveryRow, ...]:
        return tuple(row for row in deliveries.deliveries(self.store) if row.destination == name)

    def states(self, name: str = "pacs") -> set[DeliveryState]:
        return {row.state for row in self.rows(name)}

    def all_are_there(self, name: str = "pacs") -> bool:
        return self.states(name) == {DeliveryState.CONFIRMED}

    def have_failed_once(self, name: str = "pacs") -> bool:
        return self.states(name) == {DeliveryState.DUE} and {row.attempts for row in self.rows(name)} == {1}

    def kick(self) -> None:
        for courier in self.couriers:
            courier.kick()


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(store: Store, wait_until: WaitUntil) -> Iterator[None]:
    """No thread and no socket, ours or pynetdicom's."""
    gc.collect()
    threads, sockets = threading.active_count(), open_sockets()
    yield
    wait_until(lambda: threading.active_count() <= threads, LIMIT_S, "threads of associations end")
    assert open_sockets() <= sockets, store.root


def open_sockets() -> int:
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found += str(descriptor.readlink()).startswith("socket:")
    return found


def destination(port: int, times: dict[str, int], name: str = "pacs") -> Destination:
    return Destination.model_validate({"name": name, "ae_title": "PACS", "host": "127.0.0.1", "port": port, **times})


@contextmanager
def sending(store: Store, *destinations: Destination) -> Iterator[Outbox]:
    daemon = DaemonSettings(destinations=destinations)
    with ExitStack() as stack:
        running = [Courier(store, to, daemon) for to in destinations]
        for courier in running:
            courier.start()
            stack.callback(courier.join)
        for courier in running:
            stack.callback(courier.stop)
        yield Outbox(store, running)


@pytest.mark.parametrize("fault", PASSING)
def test_a_pacs_that_is_back_after_an_hour_gets_everything_once(
    fault: str, store: Store, clock: MovingClock, free_ports: FreePort, wait_until: WaitUntil
) -> None:
    port, behind = free_ports(), free_ports()
    made = add_finished_job(store, side=SIDE)
    with sending(store, destination(port, SHORT)) as outbox:
        with PASSING[fault](port, behind):
            wait_until(outbox.have_failed_once, LIMIT_S, "each has failed once")
        assert all(row.error and row.next_at > store.clock() for row in outbox.rows())
        assert open_alarms(store) == ()
        with Pacs(port) as pacs:
            clock.ahead = timedelta(hours=1)
            outbox.kick()
            wait_until(outbox.all_are_there, LIMIT_S, "all are there")
    assert sorted(pacs.order) == sorted(made.uids)


def test_a_pacs_that_reads_no_more_of_a_large_object_is_left(
    store: Store, clock: MovingClock, free_ports: FreePort, wait_until: WaitUntil
) -> None:
    """Our thread is then in the middle of a write that cannot end."""
    port, behind = free_ports(), free_ports()
    made = add_finished_job(store, heatmaps=1, seg=False, side=DEEP)
    with Pacs(behind) as pacs, BadLine(port, behind, Fault("deaf", after=20_000)) as line:
        with sending(store, destination(port, SHORT)) as outbox:
            wait_until(outbox.have_failed_once, LIMIT_S, "it has failed once")
            line.mend()
            clock.ahead = timedelta(hours=1)
            outbox.kick()
            wait_until(outbox.all_are_there, LIMIT_S, "it is there")
        assert tuple(pacs.order) == made.uids


@pytest.mark.parametrize("fault", FINAL)
def test_a_refusal_is_told_once_and_what_was_refused_is_sent_when_asked_for(
    fault: str, store: Store, free_ports: FreePort, wait_until: WaitUntil
) -> None:
    port, behind = free_ports(), free_ports()
    made = add_finished_job(store, side=SIDE)
    with sending(store, destination(port, SHORT)) as outbox:
        with FINAL[fault](port, behind):
            wait_until(lambda: outbox.states() == {DeliveryState.REFUSED}, LIMIT_S, "all are refused")
            outbox.kick()
        assert {row.attempts for row in outbox.rows()} == {1}
        assert [alarm.kind for alarm in open_alarms(store)] == ["delivery_refused"]
        with Pacs(port) as pacs:
            assert deliveries.retry_deliveries(store, made.job.id) == len(made.uids)
            outbox.kick()
            wait_until(outbox.all_are_there, LIMIT_S, "all are there")
    assert sorted(pacs.order) == sorted(made.uids)


def test_a_class_that_is_refused_does_not_keep_the_others_back(
    store: Store, free_port: int, wait_until: WaitUntil
) -> None:
    made = add_finished_job(store, side=SIDE)
    ended = {DeliveryState.CONFIRMED, DeliveryState.REFUSED}
    pictures_only = Pacs(free_port, classes=[SecondaryCaptureImageStorage])
    with pictures_only as pacs, sending(store, destination(free_port, SHORT)) as outbox:
        wait_until(lambda: outbox.states() == ended, LIMIT_S, "each has ended")
    assert sorted(pacs.order) == sorted(made.uids[:-1])
    (alarm,) = open_alarms(store)
    assert "Segmentation Storage" in alarm.text


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0107])
def test_a_warning_means_stored_and_is_kept(status: int, store: Store, free_port: int, wait_until: WaitUntil) -> None:
    add_finished_job(store, side=SIDE)
    with Pacs(free_port, answer=lambda _event: status), sending(store, destination(free_port, SHORT)) as outbox:
        wait_until(outbox.all_are_there, LIMIT_S, "all are there")
    assert {row.status for row in outbox.rows()} == {status}
    assert open_alarms(store) == ()


def test_a_slow_line_is_waited_for_as_long_as_something_passes(
    store: Store, free_ports: FreePort, wait_until: WaitUntil
) -> None:
    """One object takes longer than every time-out; none of them counts before the peer's side stands still."""
    port, behind = free_ports(), free_ports()
    made = add_finished_job(store, side=SLOW_SIDE)
    with Pacs(behind) as pacs, BadLine(port, behind, Fault(bytes_per_s=SLOW_BYTES_PER_S)) as line:
        with sending(store, destination(port, SHORT)) as outbox:
            wait_until(outbox.all_are_there, LIMIT_S, "all are there")
        assert line.connections == 1
    assert sorted(pacs.order) == sorted(made.uids)


@pytest.mark.parametrize("fault", HANGING)
def test_a_destination_that_hangs_delays_no_other(
    fault: str, store: Store, clock: MovingClock, free_ports: FreePort, wait_until: WaitUntil
) -> None:
    """Its time-outs are a minute each: the other has everything before the first of them is over."""
    port, behind, other = free_ports(), free_ports(), free_ports()
    made = add_finished_job(store, side=SIDE, destinations=("bad", "pacs"))
    with ExitStack() as stack:
        late, pacs = stack.enter_context(Pacs(behind)), stack.enter_context(Pacs(other))
        line = stack.enter_context(BadLine(port, behind, HANGING[fault]))
        with sending(store, destination(port, LONG, "bad"), destination(other, LONG)) as outbox:
            wait_until(lambda: line.connections, LIMIT_S, "the bad one is called")
            wait_until(outbox.all_are_there, LIMIT_S, "all are at the good one")
            assert outbox.states("bad") == {DeliveryState.SENDING}
            line.mend()
            wait_until(lambda: DeliveryState.SENDING not in outbox.states("bad"), LIMIT_S, "the call has ended")
            clock.ahead = timedelta(hours=1)
            outbox.kick()
            wait_until(lambda: outbox.all_are_there("bad"), LIMIT_S, "all are at the bad one")
    assert sorted(pacs.order) == sorted(late.order) == sorted(made.uids)
