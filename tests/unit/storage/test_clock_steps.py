"""A clock that ran a year ahead and was put right holds nothing up; one that is set forward hurries nothing."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from anomalyd.storage import deliveries, queue
from anomalyd.storage.clock_steps import ahead_of_clock, move_back, move_forward
from anomalyd.storage.erasing import remove_orphans
from anomalyd.storage.tables import JobState
from stored import SteppedStore, open_stepped

YEAR_S = 365 * 86_400.0


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[SteppedStore]:
    opened = open_stepped(tmp_path)
    yield opened
    opened.store.close()


def put_right(stepped: SteppedStore) -> None:
    stepped.clock.step(-YEAR_S)
    by = ahead_of_clock(stepped.store)
    assert by > timedelta(days=364)
    move_back(stepped.store, by)


def test_a_steady_clock_is_not_ahead(stepped: SteppedStore) -> None:
    stepped.queued()
    stepped.clock.step(60)
    assert ahead_of_clock(stepped.store) == timedelta(0)


def test_queued_jobs_are_leased_at_once(stepped: SteppedStore) -> None:
    stepped.queued()
    stepped.clock.step(-YEAR_S)
    assert queue.lease(stepped.store, "worker", 60) is None
    move_back(stepped.store, ahead_of_clock(stepped.store))
    assert queue.lease(stepped.store, "worker", 60) is not None


def test_due_deliveries_are_sent_at_once(stepped: SteppedStore) -> None:
    stepped.done("pacs")
    put_right(stepped)
    assert len(deliveries.due(stepped.store)) == 2


def test_the_lease_of_a_dead_worker_ends_as_if_nothing_had_been(stepped: SteppedStore) -> None:
    stepped.queued()
    assert queue.lease(stepped.store, "dead", 60) is not None
    put_right(stepped)
    assert queue.reap(stepped.store) == ()
    stepped.clock.step(61)
    assert [job.state for job in queue.reap(stepped.store)] == [JobState.QUEUED]


def test_a_living_worker_keeps_its_job(stepped: SteppedStore) -> None:
    stepped.queued()
    lease = queue.lease(stepped.store, "alive", 60)
    assert lease is not None
    put_right(stepped)
    assert queue.heartbeat(stepped.store, lease, 60)
    assert queue.reap(stepped.store) == ()


def test_a_back_off_keeps_what_was_left_of_it(stepped: SteppedStore) -> None:
    stepped.done("pacs", results=1)
    (row,) = deliveries.due(stepped.store)
    deliveries.mark_retry(stepped.store, [row.id], "no route", deliveries.BackOff())
    put_right(stepped)
    assert deliveries.due(stepped.store) == ()
    stepped.clock.step(31)
    assert len(deliveries.due(stepped.store)) == 1


HOUR = timedelta(hours=1)


def test_back_a_sign_of_life_after_the_step_is_not_moved(stepped: SteppedStore) -> None:
    stepped.queued()
    lease = queue.lease(stepped.store, "alive", 60)
    assert lease is not None
    stepped.clock.step(-YEAR_S)
    assert queue.heartbeat(stepped.store, lease, 60)
    move_back(stepped.store, timedelta(seconds=YEAR_S))
    assert queue.reap(stepped.store) == ()
    stepped.clock.step(61)
    assert len(queue.reap(stepped.store)) == 1


def set_forward(stepped: SteppedStore) -> None:
    stepped.clock.step(HOUR.total_seconds())
    move_forward(stepped.store, HOUR)


def test_forward_a_living_worker_keeps_its_job_and_a_dead_one_as_long_as_before(stepped: SteppedStore) -> None:
    stepped.queued()
    assert queue.lease(stepped.store, "worker", 60) is not None
    set_forward(stepped)
    assert queue.reap(stepped.store) == ()
    stepped.clock.step(61)
    assert [job.state for job in queue.reap(stepped.store)] == [JobState.QUEUED]


def test_forward_a_sign_of_life_after_the_step_is_not_moved(stepped: SteppedStore) -> None:
    stepped.queued()
    lease = queue.lease(stepped.store, "worker", 60)
    assert lease is not None
    stepped.clock.step(HOUR.total_seconds())
    assert queue.heartbeat(stepped.store, lease, 60)
    move_forward(stepped.store, HOUR)
    stepped.clock.step(61)
    assert len(queue.reap(stepped.store)) == 1


def test_forward_a_back_off_keeps_what_was_left_of_it(stepped: SteppedStore) -> None:
    stepped.done("pacs", results=1)
    (row,) = deliveries.due(stepped.store)
    deliveries.mark_retry(stepped.store, [row.id], "no route", deliveries.BackOff())
    set_forward(stepped)
    assert deliveries.due(stepped.store) == ()
    stepped.clock.step(31)
    assert len(deliveries.due(stepped.store)) == 1


def test_forward_what_was_due_or_came_since_is_due(stepped: SteppedStore) -> None:
    stepped.done("pacs", results=1)
    (was_due,) = deliveries.due(stepped.store)
    stepped.clock.step(HOUR.total_seconds())
    deliveries.mark_refused(stepped.store, [was_due.id], "not now", status=None)
    assert deliveries.retry_deliveries(stepped.store, was_due.job_id) == 1  # due now, by the new time
    stepped.clock.step(1)
    move_forward(stepped.store, HOUR + timedelta(seconds=1))
    assert [row.id for row in deliveries.due(stepped.store)] == [was_due.id]


def test_a_worker_that_cannot_tell_whether_a_lease_ran_out_takes_none_over(stepped: SteppedStore) -> None:
    stepped.queued()
    assert queue.lease(stepped.store, "alive", 60) is not None
    stepped.clock.step(HOUR.total_seconds())
    assert queue.lease(stepped.store, "other", 60, takes_over=False) is None
    assert queue.lease(stepped.store, "other", 60) is not None


def test_forward_results_that_wait_to_be_published_are_no_leftovers(stepped: SteppedStore) -> None:
    job = stepped.queued()
    lease = queue.lease(stepped.store, "alive", 60)
    assert lease is not None
    results = stepped.results(job)
    written_at = stepped.clock().timestamp()
    files = list((stepped.store.root / "results").glob("*/*"))
    for file in files:
        os.utime(file, (written_at, written_at))
    set_forward(stepped)
    stepped.clock.step(1)
    assert remove_orphans(stepped.store) == 0
    assert queue.release(stepped.store, lease, "its worker stops")
    assert remove_orphans(stepped.store) == len(files) == len(results)
