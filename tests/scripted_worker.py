"""A worker whose child follows a script (children.py), as a process of its own: `scripted_worker.py CONFIG SCRIPT`."""

import signal
import sys
import threading
from pathlib import Path

from anomalyd.daemon.logs import configure_logging
from anomalyd.daemon.settings import load_settings
from anomalyd.daemon.wake import Role, Waiter
from anomalyd.daemon.worker.loop import Worker
from anomalyd.daemon.worker.process import Child
from anomalyd.storage.engine import open_store
from children import scripted


def main(config: str, script: str) -> None:
    """Until SIGTERM."""
    configure_logging("worker", "info", "json")
    settings = load_settings(Path(config))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    store = open_store(settings.storage)
    worker = Worker(
        store, settings, lambda: Child(scripted, (store.root, script), start_limit_s=60), alive=lambda: None
    )
    with Waiter(store.root, Role.WORKER) as waiter:
        worker.run(waiter, stop)
    worker.close()
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
