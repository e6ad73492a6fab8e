"""Crash table, the rows that are the store's: a process dies by SIGKILL inside a step; what the next one finds."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from anomalyd.storage import audit, deliveries, objects, queue
from anomalyd.storage.tables import DeliveryState, JobState, SeriesState
from stored import SERIES, SteppedStore

pytestmark = pytest.mark.faults
TESTS = Path(__file__).parents[2]


def killed_at(point: str, step: str, root: Path) -> None:
    """Runs one step in a process of its own, which must die at the point."""
    script = f"from stored_steps import run; run({step!r}, {str(root)!r})"
    environment = {**os.environ, "ANOMALYD_CRASH_AT": point, "PYTHONPATH": str(TESTS)}
    child = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=False, timeout=60, capture_output=True, text=True
    )
    assert child.returncode == -signal.SIGKILL, child.stderr


def leased(stepped: SteppedStore) -> queue.Lease:
    lease = queue.lease(stepped.store, "the next worker", 60)
    assert lease is not None
    return lease


def test_killed_during_close_the_series_is_still_receiving(stepped: SteppedStore) -> None:
    stepped.arrive(1)
    killed_at("close.before_commit", "close", stepped.store.root)
    assert stepped.row().state is SeriesState.RECEIVING
    assert audit.history_of(stepped.store, SERIES) == ()
    stepped.close()
    assert [row.kind for row in audit.history_of(stepped.store, SERIES)] == ["closed"]


def test_killed_during_enqueue_there_is_no_job_and_the_series_is_still_closed(stepped: SteppedStore) -> None:
    row = stepped.closed()
    killed_at("enqueue.before_commit", "enqueue", stepped.store.root)
    assert queue.jobs(stepped.store) == ()
    assert stepped.row().state is SeriesState.CLOSED
    queue.enqueue(stepped.store, stepped.new_job(row))
    assert len(queue.jobs(stepped.store)) == 1


def test_killed_after_lease_the_job_runs_again_and_counts_the_death(stepped: SteppedStore) -> None:
    stepped.queued()
    killed_at("lease.after_commit", "lease", stepped.store.root)
    assert queue.lease(stepped.store, "the next worker", 60) is None
    stepped.clock.step(3600)
    (reaped,) = queue.reap(stepped.store)
    assert (reaped.state, reaped.attempts, reaped.reason) == (JobState.QUEUED, 1, "worker died once")
    assert leased(stepped).token == 2


def test_killed_with_results_written_but_not_published_nothing_is_published(stepped: SteppedStore) -> None:
    stepped.queued()
    killed_at("results.written_before_commit", "finish", stepped.store.root)
    assert deliveries.deliveries(stepped.store) == ()
    files = sorted((stepped.store.root / "results").glob("*/*"))
    assert len(files) == 2
    stepped.clock.step(3600)
    lease = leased(stepped)
    results = stepped.results(lease.job)
    queue.finish(stepped.store, lease, JobState.DONE, results, ["pacs"], report={})
    assert sorted((stepped.store.root / "results").glob("*/*")) == files
    for row in deliveries.due(stepped.store):
        objects.read_result(stepped.store, row.path, row.sha256)


def test_killed_before_sending_is_noted_the_results_are_still_due(stepped: SteppedStore) -> None:
    stepped.done("pacs")
    killed_at("delivery.before_send_commit", "send", stepped.store.root)
    assert len(deliveries.due(stepped.store)) == 2


def test_killed_after_sending_before_the_row_the_same_objects_are_sent_again(stepped: SteppedStore) -> None:
    stepped.done("pacs")
    before = {row.sop_instance_uid for row in deliveries.due(stepped.store)}
    killed_at("delivery.after_send_before_row", "send", stepped.store.root)
    assert {row.state for row in deliveries.deliveries(stepped.store)} == {DeliveryState.SENDING}
    deliveries.recover_sending(stepped.store)
    stepped.clock.step(3600)
    assert {row.sop_instance_uid for row in deliveries.due(stepped.store)} == before
    ids = [row.id for row in deliveries.due(stepped.store)]
    assert deliveries.mark_sending(stepped.store, ids, timedelta(minutes=5)) == tuple(ids)


def test_killed_during_audit_append_the_chain_is_whole(stepped: SteppedStore) -> None:
    stepped.arrive(1)
    killed_at("audit.mid_append", "close", stepped.store.root)
    verdict = audit.verify(stepped.store)
    assert verdict.is_intact
    assert verdict.rows == 0
    stepped.close()
    assert audit.verify(stepped.store).is_intact
