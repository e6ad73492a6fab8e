"""`send` of a destination: which kinds of result it gets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalyd.daemon.settings import DaemonSettings
from anomalyd.daemon.worker.messages import Analysed
from anomalyd.daemon.worker.publish import publish
from anomalyd.storage import deliveries, queue
from stored import SteppedStore, open_stepped


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[SteppedStore]:
    opened = open_stepped(tmp_path)
    yield opened
    opened.store.close()


def test_a_destination_gets_the_kinds_that_it_asks_for(stepped: SteppedStore) -> None:
    at = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    daemon = DaemonSettings.model_validate(
        {"destinations": [{"name": "all", **at}, {"name": "viewer", **at, "send": ["heatmap"]}]}
    )
    stepped.queued()
    lease = queue.lease(stepped.store, "worker-1", 60.0)
    assert lease is not None
    publish(stepped.store, lease, Analysed(stepped.results(lease.job, 3), {"lesions": []}), daemon, 3)
    due = {(row.destination, row.kind) for row in deliveries.deliveries(stepped.store, job_id=lease.job.id)}
    assert due == {("all", "seg"), ("all", "heatmap"), ("viewer", "heatmap")}
