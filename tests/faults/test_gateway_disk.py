"""A disk that refuses, by real errors of the kernel (a limit on the size of files): nothing unkept is acknowledged."""

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalyd.storage.segments import SegmentLog
from anomalyd.storage.verify import verify
from images import image, uid_of
from raw_scu import RawAssociation, Rejected, comment_of, status_of, store_message
from running import RunningDaemon
from waiting import wait_until

pytestmark = pytest.mark.faults
SUCCESS, NO_SPACE = 0x0000, 0xA700
FILE_LIMIT = 4_000_000
LIMIT_S = 60.0


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path / "daemon", roles=()) as daemon:
        # a sign of life each 0.2 s, so that a door that was not ready tries again soon
        daemon.start("gateway", environment={"WATCHDOG_USEC": "600000"})
        resource.prlimit(daemon.children["gateway"].pid, resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))
        yield daemon


def sent(scu: RawAssociation, number: int, size: int) -> tuple[int, str]:
    scu.socket.sendall(store_message(image(number, pixels=os.urandom(size)), uid_of(number)))
    response = scu.response()
    return status_of(response), comment_of(response)


def test_a_write_that_fails_is_a700_and_the_next_goes_into_a_new_segment(gateway: RunningDaemon) -> None:
    with RawAssociation(gateway.port) as scu:
        answers = [sent(scu, number, 1_500_000) for number in range(1, 6)]
        scu.release()
    assert answers[:2] == [(SUCCESS, "")] * 2
    assert answers[2] == (NO_SPACE, "could not be made durable")
    assert answers[3] == (SUCCESS, ""), "the failed segment is left, a new one begun"
    gateway.stop()
    log = SegmentLog(gateway.store_root)
    assert log.segments() == (1, 2)
    store = gateway.open_store()
    verdict = verify(store)
    store.close()
    assert verdict.is_whole, verdict.problems
    assert verdict.images == [status for status, _ in answers].count(SUCCESS)


def test_after_two_failures_the_door_is_shut_until_a_write_succeeds(gateway: RunningDaemon) -> None:
    with RawAssociation(gateway.port) as scu:
        assert [sent(scu, number, 4_100_000)[0] for number in (1, 2)] == [NO_SPACE] * 2
    wait_until(lambda: _takes_an_image(gateway), limit_s=LIMIT_S, what="the door is open again")
    assert gateway.children["gateway"].poll() is None
    text = gateway.log_text("gateway")
    assert "c_store.not_stored" in text
    assert "Traceback" not in text


def _takes_an_image(gateway: RunningDaemon) -> bool:
    try:
        with RawAssociation(gateway.port) as scu:
            return sent(scu, 3, 1000)[0] == SUCCESS
    except Rejected:
        return False


def test_a_gateway_that_cannot_write_at_all_stays_and_says_so(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path / "daemon", roles=("gateway",)) as daemon:
        child = daemon.children["gateway"]
        with RawAssociation(daemon.port) as scu:
            assert sent(scu, 1, 1000)[0] == SUCCESS
            resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (100, 100))
            assert [sent(scu, number, 1000)[0] for number in (2, 3, 4)] == [NO_SPACE] * 3
        with pytest.raises(Rejected) as caught:
            RawAssociation(daemon.port).release()
        assert caught.value.reason == (2, 3, 1)
        assert child.poll() is None
        child.send_signal(signal.SIGKILL)  # it could write neither rows nor an orderly end
        child.wait(LIMIT_S)
        daemon.start("gateway")
        with RawAssociation(daemon.port) as scu:
            assert [sent(scu, number, 1000)[0] for number in (2, 3, 4)] == [SUCCESS] * 3
