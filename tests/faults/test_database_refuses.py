"""A database that another process holds, or whose bytes are not what was written: refused, told in words, no trace."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anomalyd.storage.verify import verify
from images import image, uid_of
from notify_listener import NotifyListener
from raw_scu import RawAssociation, Rejected
from running import RunningDaemon
from waiting import wait_until

pytestmark = pytest.mark.faults
LIMIT_S = 60.0
SUCCESS, NO_SPACE = 0x0000, 0xA700
PAGE = 4096


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A gateway with a sign of life each 0.2 s, so that a door that was not ready tries again soon."""
    with RunningDaemon(tmp_path / "daemon", roles=(), environment={"WATCHDOG_USEC": "600000"}) as running:
        yield running


def answer(daemon: RunningDaemon, number: int) -> int | None:
    """The status of one image; None where the association is rejected for now."""
    try:
        with RawAssociation(daemon.port) as scu:
            status = scu.store(image(number), uid_of(number))
            scu.release()
    except Rejected as rejected:
        if rejected.reason != (2, 3, 1):
            raise
        return None
    return status


@contextmanager
def held(database: Path, how: str) -> Iterator[None]:
    """Another program that begins a transaction and does not end it."""
    with sqlite3.connect(database, isolation_level=None, timeout=LIMIT_S) as other:
        other.execute(f"BEGIN {how}")
        yield
        other.execute("ROLLBACK")
    other.close()


def database_of(daemon: RunningDaemon) -> Path:
    return daemon.store_root / "anomalyd.db"


def overwritten(database: Path, *, begin: int) -> None:
    """Everything from a page on, and the write-ahead log is gone into it before."""
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(begin)
        file.write(b"\xa5" * (size - begin))


@pytest.mark.long
def test_a_database_that_is_held_for_long_shuts_the_door_and_opens_it_when_it_is_let_go(
    daemon: RunningDaemon,
) -> None:
    daemon.start("gateway")
    numbers = iter(range(1, 100_000))
    assert answer(daemon, next(numbers)) == SUCCESS
    acknowledged = 1
    with held(database_of(daemon), "IMMEDIATE"):
        while (status := answer(daemon, next(numbers))) == SUCCESS:
            acknowledged += 1  # flushed in the log: its rows follow
        assert status in (NO_SPACE, None)
        wait_until(lambda: answer(daemon, next(numbers)) != SUCCESS, limit_s=LIMIT_S, what="nothing is taken")
        told = daemon.command("status")
        assert "database" in told.stderr + told.stdout
        assert "Traceback" not in told.stderr
    wait_until(lambda: answer(daemon, next(numbers)) == SUCCESS, limit_s=LIMIT_S, what="the door is open again")
    acknowledged += 1
    log = daemon.log_text("gateway")
    assert "the index cannot be written" in log
    assert "Traceback" not in log
    daemon.stop()
    store = daemon.open_store()
    verdict = verify(store)
    store.close()
    assert verdict.is_whole, verdict.problems
    assert verdict.images >= acknowledged


def test_a_gateway_whose_database_is_held_by_another_is_alive_and_refuses_from_the_first_transaction_on(
    daemon: RunningDaemon, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with NotifyListener(tmp_path_factory.getbasetemp() / "held") as listener:
        daemon.start("gateway", environment=listener.environment)
        assert listener.next_but() == "READY=1"
        with held(database_of(daemon), "IMMEDIATE"):
            wait_until(lambda: "inbox.not_ready" in daemon.log_text("gateway"), limit_s=LIMIT_S, what="a refusal")
            assert daemon.log_text("gateway").count("inbox.not_ready") == 1
            assert answer(daemon, 1) != SUCCESS
            listener.forget()
            assert listener.next_but() == "WATCHDOG=1", "its probe is answered, in words"
        wait_until(lambda: answer(daemon, 2) == SUCCESS, limit_s=LIMIT_S, what="the door is open again")


def test_a_gateway_whose_database_is_damaged_gives_no_sign_of_life(
    daemon: RunningDaemon, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """So that it is started anew, and then says what is wrong (78)."""
    with NotifyListener(tmp_path_factory.getbasetemp() / "damaged") as listener:
        daemon.start("gateway", environment=listener.environment)
        assert listener.next_but() == "READY=1"
        assert answer(daemon, 1) == SUCCESS
        overwritten(database_of(daemon), begin=PAGE)
        wait_until(lambda: "malformed" in daemon.log_text("gateway"), limit_s=LIMIT_S, what="a refusal")
        listener.forget()
        told = daemon.log_text("gateway").count("inbox.not_ready")
        wait_until(
            lambda: daemon.log_text("gateway").count("inbox.not_ready") > told + 1, limit_s=LIMIT_S, what="two more"
        )
        daemon.kill("gateway")
        assert not listener.has_more()
    assert daemon.command("gateway").returncode == 78


@pytest.mark.parametrize("role", ["gateway", "dispatcher", "worker"])
def test_a_role_that_starts_while_the_database_is_held_says_so_and_may_be_started_again(
    daemon: RunningDaemon, role: str
) -> None:
    daemon.open_store().close()
    with held(database_of(daemon), "EXCLUSIVE"):
        ended = daemon.command(role)
    assert ended.returncode == 1, "not 78, after which systemd does not try again"
    assert "is locked by another process" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("begin", [0, 2 * PAGE], ids=["its first page", "all but its first pages"])
def test_a_damaged_database_is_refused_in_words(daemon: RunningDaemon, tmp_path: Path, begin: int) -> None:
    daemon.start("gateway")
    assert answer(daemon, 1) == SUCCESS
    daemon.stop()
    shutil.copytree(daemon.store_root, tmp_path / "backup")
    overwritten(database_of(daemon), begin=begin)
    for command in (("gateway",), ("status",), ("audit", "verify"), ("verify",)):
        ended = daemon.command(*command)
        assert ended.returncode in (1, 70, 78), (command, ended.returncode)
        assert "database" in ended.stdout + ended.stderr, (command, ended.stderr)
        assert "Traceback" not in ended.stdout + ended.stderr
    shutil.rmtree(daemon.store_root)
    shutil.copytree(tmp_path / "backup", daemon.store_root)
    daemon.start("gateway")
    assert answer(daemon, 2) == SUCCESS


def test_without_a_backup_a_new_index_is_made_of_the_log(daemon: RunningDaemon, tmp_path: Path) -> None:
    """The commands of docs/operations.md; what was purged does not come back."""
    daemon.start("gateway")
    assert [answer(daemon, number) for number in (1, 2, 3)] == [SUCCESS] * 3
    daemon.stop()  # their rows stand
    study = series_uids(daemon)
    assert len(study) == 1
    overwritten(database_of(daemon), begin=PAGE)
    kept = tmp_path / "damaged"
    kept.mkdir()
    for path in daemon.store_root.glob("anomalyd.db*"):
        path.rename(kept / path.name)
    daemon.start("gateway")
    assert answer(daemon, 1) == SUCCESS, "known again: a duplicate"
    assert series_uids(daemon) == study
    purged = daemon.command("purge", "--study", study[0][0], "--yes")
    assert purged.returncode == 0, purged.stderr
    daemon.stop()
    assert daemon.command("audit", "accept-head", "--why", "made anew").returncode == 0
    assert daemon.command("audit", "verify").returncode == 0
    assert daemon.command("verify").returncode == 0
    for path in daemon.store_root.glob("anomalyd.db*"):
        path.rename(kept / f"second-{path.name}")
    daemon.start("gateway")
    assert series_uids(daemon) == []


def series_uids(daemon: RunningDaemon) -> list[tuple[str, int]]:
    """Study UID and number of images of each series."""
    with sqlite3.connect(database_of(daemon)) as database:
        rows = database.execute("SELECT study_uid, arrivals FROM series").fetchall()
    database.close()
    return rows


def test_a_database_that_is_damaged_at_work_gets_no_acknowledgement_beyond_what_the_log_holds(
    daemon: RunningDaemon,
) -> None:
    daemon.start("gateway")
    assert answer(daemon, 1) == SUCCESS
    overwritten(database_of(daemon), begin=PAGE)
    numbers = iter(range(2, 100_000))
    wait_until(lambda: answer(daemon, next(numbers)) is None, limit_s=LIMIT_S, what="the door is shut")
    log = daemon.log_text("gateway")
    assert "malformed" in log
    assert "Traceback" not in log
    daemon.kill("gateway")
