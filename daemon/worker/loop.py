"""The worker's loop: lease a job, have the child do it, publish its answer; one poisonous job holds up no other."""

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.exc import DBAPIError

from anomalyd.daemon.settings import Settings
from anomalyd.daemon.wake import Role, Waiter, notify
from anomalyd.daemon.wall_clock import SteadyTime
from anomalyd.daemon.worker.heart import Heart
from anomalyd.daemon.worker.messages import Cancel, Failed, Task
from anomalyd.daemon.worker.process import Child
from anomalyd.daemon.worker.publish import publish
from anomalyd.storage import queue
from anomalyd.storage.crash import crash_point
from anomalyd.storage.engine import Store
from anomalyd.storage.queue import Lease
from anomalyd.storage.trouble import StoreRefuses, trouble_of

IDLE_S = 1.0
"""How often an idle worker looks at the queue by clock."""
STOP_GRACE_S = 20.0
"""A job that runs when the worker is told to stop may go on for so long, then it is given back."""
CANCEL_GRACE_S = 30.0
"""A child that does not hear that its lease is lost (it hears between stages) is killed after so long."""
RETRY_S = 1.0
"""A database that refused is asked again after so long."""
log = structlog.get_logger()

Written = TypeVar("Written")
StartChild = Callable[[], Child]


class Worker:
    """Parent of one child; does not load what the child loads."""

    def __init__(self, store: Store, settings: Settings, start_child: StartChild, alive: Callable[[], None]) -> None:
        """start_child: gives a new child, not yet ready. alive: called often, as long as the work goes on."""
        self._store, self._start_child, self._alive = store, start_child, alive
        self._daemon, self._pipeline = settings.daemon, settings.pipeline
        self._lease_s = settings.daemon.worker.lease
        self.name = f"{socket.gethostname()}-{os.getpid()}"[:128]
        self._child: Child | None = None
        self._steady = SteadyTime(store.clock)

    def run(self, waiter: Waiter, stop: threading.Event) -> None:
        """Until `stop`. Raises ConfigError, Broken or ChildDied when no child comes up: then nothing can be done."""
        while not stop.is_set():
            self._alive()
            child = self.child(stop)
            if child is None:
                return
            lease = self._written_down(self._leased, stop)
            if lease is None:
                waiter.wait(IDLE_S)
                continue
            crash_point("worker.after_lease")
            self._work(child, lease, stop)
            notify(self._store.root, Role.DISPATCHER)

    def child(self, stop: threading.Event) -> Child | None:
        """A warm child, a new one if the last has died; None when `stop` came first."""
        if self._child is not None and self._child.is_alive:
            return self._child
        self.close()
        self._child = self._start_child()

        def goes_on() -> bool:
            self._alive()
            return not stop.is_set()

        ready = self._child.wait_ready(goes_on)
        if ready is None:
            return None
        log.info(
            "child.ready",
            pid=self._child.pid,
            device=ready.device,
            bundles=ready.bundles,
            load_s=round(ready.load_s, 1),
            canary_s=round(ready.canary_s, 1),
        )
        if ready.trouble:
            log.error("canary.failed", reason=ready.trouble)
        return self._child

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _leased(self) -> Lease | None:
        # After a step forward a lease has as long to be renewed as it lasts: its worker may be alive
        takes_over = self._steady.lasts(self._lease_s)
        attempts = self._pipeline.max_attempts
        return queue.lease(self._store, self.name, self._lease_s, max_attempts=attempts, takes_over=takes_over)

    def _written_down(self, write: Callable[[], Written], stop: threading.Event) -> Written | None:
        """What `write` gives, as soon as the database takes it: a full disk or a lock costs no analysis.

        None when `stop` came first. Raises what is neither.
        """
        while True:
            try:
                return write()
            except DBAPIError as exc:
                trouble = trouble_of(exc)
                if not isinstance(trouble, StoreRefuses):
                    raise
                log.error("store.refuses", reason=str(trouble))  # noqa: TRY400 - in words
            self._alive()
            if stop.wait(RETRY_S):
                return None

    def _work(self, child: Child, lease: Lease, stop: threading.Event) -> None:
        job = lease.job
        log.info("job.started", job_id=job.id, series_uid=job.series_uid, attempt=job.attempts)
        with Heart(self._store, lease, self._lease_s) as heart:
            watch = _Watch(heart, stop, self._alive)
            answer = child.run(
                Task(job),
                time_limit_s=self._pipeline.job_time_limit,
                memory_limit=self._daemon.worker.memory_limit,
                tick=watch.tick,
            )
            if watch.is_given_back:
                why = "the worker was told to stop"
                self._written_down(lambda: queue.release(self._store, lease, why), stop)
                log.info("job.given_back", job_id=job.id, series_uid=job.series_uid)
            else:
                attempts = self._pipeline.max_attempts
                self._written_down(lambda: publish(self._store, lease, answer, self._daemon, attempts), stop)
        if isinstance(answer, Failed) and answer.leaves:
            self.close()


class _Watch:
    """What the parent does several times a second while the child computes."""

    def __init__(self, heart: Heart, stop: threading.Event, alive: Callable[[], None]) -> None:
        self._heart, self._stop, self._alive = heart, stop, alive
        self._cancelled_at: float | None = None
        self._stopping_since: float | None = None
        self.is_given_back = False

    def tick(self, child: Child) -> None:
        """Raises ChildDied."""
        self._alive()
        self._heart.reached(child.stage or None)
        now = time.monotonic()
        if self._heart.lost.is_set():
            self._cancel(child, now)
        if self._stop.is_set():
            self._stopping_since = self._stopping_since or now
            if now - self._stopping_since > STOP_GRACE_S and not self.is_given_back:
                self.is_given_back = True
                child.kill("the worker was told to stop")

    def _cancel(self, child: Child, now: float) -> None:
        if self._cancelled_at is None:
            self._cancelled_at = now
            child.say(Cancel())
        elif now - self._cancelled_at > CANCEL_GRACE_S:
            child.kill("its lease was lost")
