"""The real worker in a thread of the test, over real child processes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from anomalyd.daemon.settings import Settings
from anomalyd.daemon.wake import Role, Waiter
from anomalyd.daemon.worker.loop import Worker
from anomalyd.daemon.worker.process import Child
from anomalyd.storage.engine import Store


@contextmanager
def worker_thread(
    store: Store, settings: Settings, start_child: Callable[[], Child], *, limit_s: float
) -> Iterator[threading.Event]:
    """Yields what stops it; it has ended afterwards, within limit_s."""
    stop = threading.Event()

    def run() -> None:
        worker = Worker(store, settings, start_child, alive=lambda: None)
        with Waiter(store.root, Role.WORKER) as waiter:
            worker.run(waiter, stop)
        worker.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(limit_s)
    assert not thread.is_alive()
