"""Sweeps run by clock, at once when kicked, never twice at a time, and survive their own errors and clock steps."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from anomalyd.daemon.dispatcher import timers as module
from anomalyd.daemon.dispatcher.timers import Sweep, Timers

WaitUntil = Callable[..., None]
NEVER_S = 3600.0


@contextmanager
def started(*sweeps: Sweep, errors: list[str] | None = None) -> Iterator[Timers]:
    def on_error(name: str, error: BaseException) -> None:
        if errors is None:
            raise error
        errors.append(name)

    running = Timers(sweeps, on_error)
    running.start()
    try:
        yield running
    finally:
        running.stop()


class Counter:
    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> None:
        self.runs += 1


def test_a_sweep_runs_at_start_and_then_by_clock(wait_until: WaitUntil) -> None:
    count = Counter()
    with started(Sweep("closing", 0.05, count)):
        wait_until(lambda: count.runs >= 3, 5)


def test_a_kick_runs_it_at_once(wait_until: WaitUntil) -> None:
    count = Counter()
    with started(Sweep("closing", NEVER_S, count)) as running:
        wait_until(lambda: count.runs == 1, 5)
        running.kick("closing")
        wait_until(lambda: count.runs == 2, 5)


def test_a_sweep_that_a_full_database_refuses_is_told_and_pauses_however_often_it_is_kicked(
    wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_S", NEVER_S)
    count = Counter()
    errors: list[str] = []

    def refused() -> None:
        count()
        with closing(sqlite3.connect(":memory:")) as database:
            database.execute("CREATE TABLE t (x)")
            database.execute("PRAGMA max_page_count = 2")
            database.execute("INSERT INTO t VALUES (zeroblob(100000))")

    with capture_logs() as logs, started(Sweep("closing", 0.01, refused), errors=errors) as running:
        wait_until(lambda: bool(logs), 5)
        running.kick("closing")
    assert (count.runs, errors) == (1, [])
    assert [(line["event"], line["sweep"]) for line in logs] == [("store.refuses", "closing")]
    assert "disk is full" in logs[0]["reason"]


def test_a_kick_during_a_run_is_not_lost_and_runs_never_overlap(wait_until: WaitUntil) -> None:
    entered, leave, overlaps = threading.Semaphore(0), threading.Semaphore(0), []
    busy = threading.Lock()
    count = Counter()

    def sweep() -> None:
        if not busy.acquire(blocking=False):
            overlaps.append(1)
            return
        entered.release()
        leave.acquire(timeout=5)
        count()
        busy.release()

    with started(Sweep("closing", NEVER_S, sweep)) as running:
        assert entered.acquire(timeout=5)
        for _ in range(3):
            running.kick("closing")
        leave.release()
        assert entered.acquire(timeout=5)  # the one run that follows
        leave.release()
        wait_until(lambda: count.runs == 2, 5)
    assert not overlaps


def test_an_error_is_told_and_the_sweep_goes_on(wait_until: WaitUntil) -> None:
    errors: list[str] = []
    count = Counter()

    def sweep() -> None:
        count()
        raise ValueError("on purpose")

    with started(Sweep("closing", 0.05, sweep), errors=errors):
        wait_until(lambda: count.runs >= 2 and len(errors) >= 2, 5)
    assert set(errors) == {"closing"}


def test_one_slow_sweep_does_not_hold_up_another(wait_until: WaitUntil) -> None:
    leave = threading.Event()
    count = Counter()
    with started(Sweep("slow", NEVER_S, lambda: (leave.wait(10), None)[1]), Sweep("closing", 0.05, count)):
        wait_until(lambda: count.runs >= 3, 5)
        leave.set()


def test_a_clock_set_back_by_an_hour_holds_nothing_up(wait_until: WaitUntil) -> None:
    """APScheduler then waits for a wall time an hour away: the state that such a step leaves is made by hand."""
    count = Counter()
    with started(Sweep("closing", 0.05, count)) as running:
        wait_until(lambda: count.runs >= 1, 5)
        scheduler = running._scheduler  # noqa: SLF001 - stands for the wall clock
        scheduler.modify_job("closing", next_run_time=datetime.now(UTC) + timedelta(hours=1))
        held = count.runs

        def goes_on() -> bool:
            running.check()
            return count.runs > held + 2

        wait_until(goes_on, module.OVERDUE_SLACK_S + 5)
