"""The worker: takes jobs from the queue, one at a time. Start more of them for more."""

import threading

import structlog

from anomalyd.daemon.bundles import bundles_in_force, facts_in_force
from anomalyd.daemon.lifecycle import Lifecycle
from anomalyd.daemon.settings import Settings
from anomalyd.daemon.wake import Role, Waiter
from anomalyd.daemon.worker.child import serve_jobs
from anomalyd.daemon.worker.loop import Worker
from anomalyd.daemon.worker.process import Child
from anomalyd.errors import Broken
from anomalyd.storage.alarms import AlarmKind, NewAlarm, raise_alarm
from anomalyd.storage.engine import Store, open_store

EXIT_OK, EXIT_INTERNAL = 0, 70
START_LIMIT_S = 300.0
"""For loading and one canary analysis on a slow machine."""
log = structlog.get_logger()


def run_worker(settings: Settings, stop: threading.Event) -> int:
    """Runs until `stop` is set; 0, or 70 when no child comes up (and an alarm). Raises ConfigError."""
    bundles = bundles_in_force(settings.pipeline)
    store = open_store(settings.storage)
    facts = facts_in_force(bundles, settings.pipeline)
    try:
        with Lifecycle(store, Role.WORKER, settings, facts) as life, Waiter(store.root, Role.WORKER) as waiter:
            worker = Worker(store, settings, lambda: _start_child(settings), life.alive)
            life.ready("loading models")
            try:
                worker.run(waiter, stop)
            except Broken as exc:
                log.error("worker.cannot_work", reason=str(exc))  # noqa: TRY400 - the text is the whole story
                _tell(store, str(exc))
                return EXIT_INTERNAL
            finally:
                worker.close()
    finally:
        store.close()
    return EXIT_OK


def _start_child(settings: Settings) -> Child:
    return Child(serve_jobs, (settings,), start_limit_s=START_LIMIT_S)


def _tell(store: Store, why: str) -> None:
    with store.write() as connection:
        raise_alarm(
            connection,
            NewAlarm(
                kind=AlarmKind.ROLE_FAILED,
                subject="worker",
                text=f"the worker cannot analyse: {why}",
                next_step="`anomalyd check` tries bundles and device; the worker's log says more",
                at=store.clock(),
            ),
        )
