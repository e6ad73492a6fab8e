"""A clock that ran a year ahead and was put right holds nothing up."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from anomalyd.storage import deliveries, queue
from anomalyd.storage.clock_steps import ahead_of_clock, move_back
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
