"""Crash table of receiving (GATEWAY 5): a real gateway process, SIGKILL at each step, restart, promises compared.

What must hold after each row: whatever was acknowledged is there byte for byte, nothing half-written is visible, the
repeat of an image is a success and no second row, log, index and audit chain agree.
"""

import hashlib
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anomalyd.storage.engine import Store
from anomalyd.storage.segments import SegmentLog
from anomalyd.storage.verify import verify
from images import image, uid_of
from raw_scu import Ended, RawAssociation, store_message
from running import RunningDaemon
from waiting import wait_until

pytestmark = pytest.mark.faults
LIMIT_S = 60.0
SUCCESS = 0x0000
PIXELS = bytes(range(256)) * 500


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    """Only a gateway; started by the test."""
    with RunningDaemon(tmp_path / "daemon", roles=()) as idle:
        yield idle


def killed_at(daemon: RunningDaemon, point: str, *, index_sync: str = "normal") -> None:
    """Starts a gateway that dies at the point."""
    sync = {"ANOMALYD_DAEMON__GATEWAY__INDEX_SYNC": index_sync}
    daemon.start("gateway", environment={"ANOMALYD_CRASH_AT": point, **sync})


def wait_for_death(daemon: RunningDaemon, point: str) -> None:
    child = daemon.children["gateway"]
    wait_until(lambda: child.poll() is not None, limit_s=LIMIT_S, what=f"death at {point}")
    assert child.returncode == -signal.SIGKILL, daemon.log_text("gateway")


def sent(daemon: RunningDaemon, number: int) -> int | None:
    """Status of one image, None when the connection was lost before an answer."""
    raw = image(number, pixels=PIXELS)
    try:
        with RawAssociation(daemon.port) as scu:
            return scu.ask(store_message(raw, uid_of(number), pdu_bytes=16384))
    except (Ended, ConnectionError):
        return None


def restart(daemon: RunningDaemon) -> Store:
    daemon.start("gateway")
    return daemon.open_store()


def stop(daemon: RunningDaemon) -> None:
    daemon.children["gateway"].terminate()
    assert daemon.children["gateway"].wait(LIMIT_S) == 0


def instances(store: Store) -> list[str]:
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT instance_uid FROM instance ORDER BY id").fetchall()
    return [row[0] for row in rows]


def kinds(store: Store) -> list[str]:
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT kind FROM audit ORDER BY seq").fetchall()
    return [row[0] for row in rows if row[0] not in ("role_started", "role_stopped")]


def assert_whole(store: Store) -> None:
    verdict = verify(store)
    assert verdict.is_whole, verdict.problems
    assert verdict.not_indexed == 0


@pytest.mark.parametrize("point", ["gateway.receiving:3", "gateway.received"])
def test_killed_while_an_image_arrives(daemon: RunningDaemon, point: str) -> None:
    killed_at(daemon, point)
    assert sent(daemon, 1) is None
    wait_for_death(daemon, point)
    store = restart(daemon)
    assert instances(store) == []
    assert sent(daemon, 1) == SUCCESS
    stop(daemon)
    assert instances(store) == [uid_of(1)]
    assert kinds(store) == ["received"]
    assert_whole(store)
    store.close()


@pytest.mark.parametrize(
    ("point", "index_sync"),
    [
        ("gateway.written", "normal"),
        ("gateway.flushed", "normal"),
        ("gateway.flushed", "full"),
        ("gateway.committed", "full"),
    ],
)
def test_killed_between_the_write_and_the_answer(daemon: RunningDaemon, point: str, index_sync: str) -> None:
    killed_at(daemon, point, index_sync=index_sync)
    assert sent(daemon, 1) is None
    wait_for_death(daemon, point)
    store = restart(daemon)
    wait_until(lambda: instances(store) == [uid_of(1)], limit_s=LIMIT_S, what="one row, by commit or replay")
    assert sent(daemon, 1) == SUCCESS
    stop(daemon)
    assert instances(store) == [uid_of(1)]
    assert kinds(store) == ["received", "duplicate"]
    assert_whole(store)
    store.close()


@pytest.mark.parametrize("kept", [1, 100_000])
def test_a_record_that_the_crash_tore_is_cut_off(daemon: RunningDaemon, kept: int) -> None:
    daemon.start("gateway")
    assert sent(daemon, 1) == SUCCESS
    stop(daemon)
    killed_at(daemon, "gateway.written")
    segment = SegmentLog(daemon.store_root)
    whole = segment.size(1)
    assert sent(daemon, 2) is None
    wait_for_death(daemon, "gateway.written")
    with segment.path(1).open("r+b") as file:
        file.truncate(whole + kept)
    store = restart(daemon)
    assert instances(store) == [uid_of(1)]
    assert sent(daemon, 2) == SUCCESS
    stop(daemon)
    assert instances(store) == [uid_of(1), uid_of(2)]
    assert kinds(store) == ["received", "received"]
    assert_whole(store)
    store.close()


@pytest.mark.parametrize("point", ["gateway.answered", "gateway.committed"])
def test_killed_after_the_answer(daemon: RunningDaemon, point: str) -> None:
    killed_at(daemon, point)
    assert sent(daemon, 1) == SUCCESS
    wait_for_death(daemon, point)
    store = restart(daemon)
    wait_until(lambda: instances(store) == [uid_of(1)], limit_s=LIMIT_S, what="the acknowledged image")
    assert sent(daemon, 1) == SUCCESS
    stop(daemon)
    assert instances(store) == [uid_of(1)]
    assert kinds(store) == ["received", "duplicate"]
    assert_whole(store)
    store.close()


def test_killed_in_the_middle_of_an_audit_append(daemon: RunningDaemon) -> None:
    killed_at(daemon, "audit.mid_append:2")  # the first one says that the role has started
    assert sent(daemon, 1) == SUCCESS
    wait_for_death(daemon, "audit.mid_append")
    store = restart(daemon)
    wait_until(lambda: instances(store) == [uid_of(1)], limit_s=LIMIT_S, what="the acknowledged image")
    stop(daemon)
    assert kinds(store) == ["received"]
    assert_whole(store)
    store.close()


def test_killed_during_replay_it_is_replayed_again(daemon: RunningDaemon) -> None:
    killed_at(daemon, "gateway.flushed:3")
    assert [sent(daemon, number) for number in (1, 2, 3)] == [SUCCESS, SUCCESS, None]
    wait_for_death(daemon, "gateway.flushed")
    with pytest.raises(AssertionError, match="code -9"):
        killed_at(daemon, "audit.mid_append")
    store = restart(daemon)
    wait_until(lambda: len(instances(store)) == 3, limit_s=LIMIT_S, what="all three")
    stop(daemon)
    assert kinds(store) == ["received"] * 3
    assert_whole(store)
    store.close()


@pytest.mark.slow
def test_killed_again_and_again_under_load_nothing_acknowledged_is_lost(daemon: RunningDaemon) -> None:
    acknowledged: dict[str, str] = {}
    lock = threading.Lock()
    chance = random.Random(4)  # noqa: S311 - moments of death

    def sender(number: int) -> None:
        try:
            with RawAssociation(daemon.port) as scu:
                for turn in range(1000):
                    uid = f"{uid_of(number)}.{turn}"
                    raw = image(pixels=PIXELS + uid.encode().ljust(64), SOPInstanceUID=uid)
                    if scu.ask(store_message(raw, uid)) == SUCCESS:
                        with lock:
                            acknowledged[uid] = hashlib.sha256(raw).hexdigest()
        except (Ended, ConnectionError):
            return

    for life in range(1, 5):
        daemon.start("gateway")
        before = len(acknowledged)
        with ThreadPoolExecutor(6) as senders:
            running = [senders.submit(sender, 10 * life + number) for number in range(6)]
            enough = before + chance.randint(30, 200)
            wait_until(lambda enough=enough: len(acknowledged) >= enough, limit_s=LIMIT_S, what="some images")  # type: ignore[misc]  # the loop's value
            daemon.kill("gateway")
            for one in running:
                one.result()
    store = restart(daemon)
    stop(daemon)
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT instance_uid, sha256 FROM instance").fetchall()
    kept = {uid: sha256 for uid, sha256 in rows}  # noqa: C416 - rows are no tuples
    assert acknowledged.items() <= kept.items()
    assert_whole(store)
    store.close()
