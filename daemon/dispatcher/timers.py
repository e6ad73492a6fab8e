"""When the dispatcher's sweeps run: by clock as a safety net, and at once when somebody kicks them.

APScheduler runs timers and nothing else; every fact lies in the tables, so its job store is in memory (DESIGN 2).
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from anomalyd.daemon.dispatcher.refusals import PAUSE_S, tell_refusal

MIN_THREADS = 4
OVERDUE_FACTOR, OVERDUE_SLACK_S = 1.5, 2.0
"""A sweep that did not run for so long (monotonic) is started: APScheduler's wall clock was set back."""
STUCK_S = 120.0
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sweep:
    """One repeated look at the store; short, or it hands its work to a thread of its own."""

    name: str
    every_s: float
    run: Callable[[], None]


@dataclass(slots=True)
class _Running:
    sweep: Sweep
    wanted_again: threading.Event = field(default_factory=threading.Event)
    busy_since: float | None = None
    last_end: float = field(default_factory=time.monotonic)


OnError = Callable[[str, BaseException], None]


class Timers:
    """Runs sweeps, each at most once at a time. A kick during a run makes one more run follow it."""

    def __init__(self, sweeps: Sequence[Sweep], on_error: OnError) -> None:
        self._running = {sweep.name: _Running(sweep) for sweep in sweeps}
        self._on_error = on_error
        self._stopping = threading.Event()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(max(MIN_THREADS, len(sweeps)))},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._scheduler.add_listener(self._failed, EVENT_JOB_ERROR)
        for sweep in sweeps:
            self._scheduler.add_job(
                self._run,
                "interval",
                args=[self._running[sweep.name]],
                id=sweep.name,
                seconds=sweep.every_s,
                next_run_time=datetime.now(UTC),
            )

    def start(self) -> None:
        """Every sweep runs at once for the first time."""
        self._scheduler.start()

    def stop(self) -> None:
        """Returns when no sweep runs any more."""
        self._stopping.set()
        self._scheduler.shutdown(wait=True)

    def kick(self, *names: str) -> None:
        """Run these sweeps now, or once more as soon as they are done."""
        for name in names:
            self._running[name].wanted_again.set()
            self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))

    def check(self) -> None:
        """Called every second or so: starts what a step of the wall clock has put off."""
        now = time.monotonic()
        for name, running in self._running.items():
            if running.busy_since is not None:
                continue
            if now - running.last_end > running.sweep.every_s * OVERDUE_FACTOR + OVERDUE_SLACK_S:
                log.warning("sweep.overdue", sweep=name, silent_s=round(now - running.last_end, 1))
                running.last_end = now
                self.kick(name)

    def stuck(self) -> tuple[str, ...]:
        """Frequent sweeps that have not come back for STUCK_S: the watchdog should know."""
        now = time.monotonic()
        return tuple(
            name
            for name, running in self._running.items()
            if running.sweep.every_s < STUCK_S and running.busy_since is not None and now - running.busy_since > STUCK_S
        )

    def _run(self, running: _Running) -> None:
        running.wanted_again.clear()
        running.busy_since = time.monotonic()
        try:
            running.sweep.run()
        except Exception as exc:
            if not tell_refusal(exc, sweep=running.sweep.name):
                raise
            self._stopping.wait(PAUSE_S)
        finally:
            running.last_end, running.busy_since = time.monotonic(), None
            if running.wanted_again.is_set() and self._scheduler.running:
                self._scheduler.modify_job(running.sweep.name, next_run_time=datetime.now(UTC))

    def _failed(self, event: JobExecutionEvent) -> None:
        error = event.exception
        log.error("sweep.failed", sweep=event.job_id, exc_info=error)
        self._on_error(event.job_id, error)
