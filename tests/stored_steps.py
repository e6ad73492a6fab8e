"""Single steps of the store for a child process that a test lets die in the middle: `run("close", root)`."""

from datetime import timedelta
from pathlib import Path

from anomalyd.storage import deliveries, queue
from anomalyd.storage.engine import open_store
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.tables import JobState
from stored import SteppedClock, SteppedStore


def run(step: str, root: str) -> None:
    clock = SteppedClock()
    stepped = SteppedStore(open_store(StorageSettings(root=Path(root)), clock=clock), clock)
    store = stepped.store
    if step == "close":
        stepped.close()
    elif step == "enqueue":
        queue.enqueue(store, stepped.new_job(stepped.row()))
    elif step in {"lease", "finish"}:
        lease = queue.lease(store, "the first worker", 60)
        assert lease is not None
        results = stepped.results(lease.job)
        queue.finish(store, lease, JobState.DONE, results, ["pacs"], report={})
    elif step == "send":
        ids = [row.id for row in deliveries.due(store)]
        deliveries.mark_sent(store, deliveries.mark_sending(store, ids, timedelta(minutes=5)))
