"""The worker with real child processes that misbehave: each death gets its name, and no job holds up another."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from anomalyd.daemon.settings import Settings
from anomalyd.daemon.worker import loop as module
from anomalyd.daemon.worker.process import Child, ChildDied, death_in_words
from anomalyd.errors import Broken
from anomalyd.storage import deliveries, queue
from anomalyd.storage.alarms import open_alarms
from anomalyd.storage.audit import AuditFilter, AuditKind, query
from anomalyd.storage.engine import Store
from anomalyd.storage.queue import Job
from anomalyd.storage.series import series_row
from anomalyd.storage.tables import DeliveryState, JobState, SeriesState
from children import cannot_start, dies_at_start, scripted
from rows import add_job, add_series, new_job
from worker_thread import worker_thread

WaitUntil = Callable[..., None]
LIMIT_S = 40.0  # a child needs a second or two to start on a loaded machine


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script"
    path.write_text("done", encoding="ascii")
    return path


def settings_of(store: Store, **pipeline: Any) -> Settings:
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    return Settings.model_validate(
        {
            "daemon": {"destinations": [pacs], "worker": {"lease": 3, "memory_limit": "350 MB"}},
            "pipeline": {"max_attempts": 2, **pipeline},
            "storage": {"root": store.root},
        }
    )


@contextmanager
def working(store: Store, script: Path, **pipeline: Any) -> Iterator[threading.Event]:
    """A worker; yields its stop event."""
    arguments = (store.root, str(script))
    settings = settings_of(store, **pipeline)
    with worker_thread(store, settings, lambda: Child(scripted, arguments, start_limit_s=30), limit_s=LIMIT_S) as stop:
        yield stop


def state(store: Store, job: Job) -> JobState:
    return queue.job(store, job.id).state


def test_a_job_is_done_and_its_results_are_due(store: Store, script: Path, wait_until: WaitUntil) -> None:
    job = add_job(store)
    with working(store, script):
        wait_until(lambda: state(store, job) is JobState.DONE, LIMIT_S)
    (row,) = deliveries.deliveries(store)
    assert (row.destination, row.state, row.job_id) == ("pacs", DeliveryState.DUE, job.id)


def test_the_child_stays_warm_from_job_to_job(store: Store, script: Path, wait_until: WaitUntil) -> None:
    made = [add_job(store, number) for number in (1, 2, 3)]
    with working(store, script):
        wait_until(lambda: {state(store, job) for job in made} == {JobState.DONE}, LIMIT_S)
    reports = [queue.job(store, job.id).report or {} for job in made]
    assert len({report["pid"] for report in reports}) == 1


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("killed", "out of memory in stage reconstruct"),
        ("segfault", "died of SIGSEGV in stage reconstruct"),
        ("memory_error", "out of memory in stage reconstruct"),
        ("hungry", "out of memory, exceeded 0.35 GB in stage reconstruct"),
        ("bug", "ValueError) in stage score"),
    ],
)
def test_each_death_is_named_and_the_next_job_is_done(
    behaviour: str, words: str, store: Store, script: Path, wait_until: WaitUntil
) -> None:
    script.write_text(behaviour, encoding="ascii")
    poison = add_job(store, 1)
    with working(store, script):
        wait_until(lambda: state(store, poison) is JobState.QUEUED and queue.job(store, poison.id).reason, LIMIT_S)
        script.write_text("done", encoding="ascii")
        healthy = add_job(store, 2)
        wait_until(lambda: state(store, healthy) is JobState.DONE, LIMIT_S)
    reason = queue.job(store, poison.id).reason or ""
    assert words in reason
    assert "Doe" not in reason


def test_a_job_that_hangs_is_killed_at_its_time_limit(store: Store, script: Path, wait_until: WaitUntil) -> None:
    script.write_text("hangs 60", encoding="ascii")
    job = add_job(store)
    with working(store, script, job_time_limit=1.0, max_attempts=1):
        wait_until(lambda: state(store, job) is JobState.FAILED, LIMIT_S)
    assert "exceeded job_time_limit (1 s) in stage register" in (queue.job(store, job.id).reason or "")
    assert [alarm.kind for alarm in open_alarms(store)] == ["job_failed"]


def test_what_no_retry_can_mend_is_failed_at_once(store: Store, script: Path, wait_until: WaitUntil) -> None:
    script.write_text("broken", encoding="ascii")
    job = add_job(store)
    with working(store, script):
        wait_until(lambda: state(store, job) is JobState.FAILED, LIMIT_S)
    assert queue.job(store, job.id).attempts == 1


def test_a_withheld_scan_sends_nothing_and_keeps_its_report(store: Store, script: Path, wait_until: WaitUntil) -> None:
    script.write_text("withheld", encoding="ascii")
    job = add_job(store)
    with working(store, script):
        wait_until(lambda: state(store, job) is JobState.WITHHELD, LIMIT_S)
    after = queue.job(store, job.id)
    assert after.report == {"status": "withheld"}
    assert "similarity" in (after.reason or "")
    assert deliveries.deliveries(store) == ()
    assert [row.kind for row in query(store, AuditFilter(kind=AuditKind.WITHHELD))] == [AuditKind.WITHHELD]


def test_pixels_that_do_not_decode_make_the_series_ineligible(
    store: Store, script: Path, wait_until: WaitUntil
) -> None:
    script.write_text("ineligible", encoding="ascii")
    job = add_job(store)
    with working(store, script):
        wait_until(lambda: state(store, job) is JobState.CANCELLED, LIMIT_S)
    row = series_row(store, job.study_uid, job.series_uid)
    assert row is not None
    assert row.state is SeriesState.INELIGIBLE
    assert row.reason is not None
    assert row.reason["criterion"] == "pixels"


def test_a_superseded_job_is_stopped_and_the_new_one_done_by_the_same_child(
    store: Store, script: Path, wait_until: WaitUntil
) -> None:
    script.write_text("slow 60", encoding="ascii")
    series = add_series(store)
    old = queue.enqueue(store, new_job(series))
    with working(store, script):
        wait_until(lambda: state(store, old) is JobState.LEASED, LIMIT_S)
        script.write_text("done", encoding="ascii")
        new = queue.enqueue(store, new_job(series, "later set"))
        wait_until(lambda: state(store, new) is JobState.DONE, LIMIT_S)
    assert state(store, old) is JobState.SUPERSEDED
    assert {row.job_id for row in deliveries.deliveries(store)} == {new.id}


def test_a_worker_told_to_stop_finishes_its_job(store: Store, script: Path, wait_until: WaitUntil) -> None:
    script.write_text("slow 2", encoding="ascii")
    job = add_job(store)
    with working(store, script) as stop:
        wait_until(lambda: state(store, job) is JobState.LEASED, LIMIT_S)
        stop.set()
    assert state(store, job) is JobState.DONE


def test_or_gives_it_back_without_counting_the_attempt(
    store: Store, script: Path, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_GRACE_S", 0.2)
    script.write_text("slow 60", encoding="ascii")
    job = add_job(store)
    with working(store, script) as stop:
        wait_until(lambda: state(store, job) is JobState.LEASED, LIMIT_S)
        stop.set()
    after = queue.job(store, job.id)
    assert (after.state, after.attempts) == (JobState.QUEUED, 0)


def test_a_long_job_keeps_its_lease(store: Store, script: Path, wait_until: WaitUntil) -> None:
    script.write_text("slow 5", encoding="ascii")  # lease: 3 s
    job = add_job(store)
    with working(store, script):
        wait_until(lambda: queue.job(store, job.id).stage == "reconstruct", LIMIT_S)
        assert queue.reap(store) == ()
        wait_until(lambda: state(store, job) is JobState.DONE, LIMIT_S)
    assert queue.job(store, job.id).attempts == 1


def test_a_child_that_cannot_start_says_why() -> None:
    child = Child(cannot_start, (), start_limit_s=30)
    with pytest.raises(Broken, match="weights are not what was recorded"):
        child.wait_ready(lambda: True)
    child.close()


def test_a_child_that_dies_at_its_start_is_noticed() -> None:
    child = Child(dies_at_start, (), start_limit_s=30)
    started = time.monotonic()
    with pytest.raises(ChildDied, match="exit code 3"):
        child.wait_ready(lambda: True)
    assert time.monotonic() - started < 20
    child.close()


@pytest.mark.parametrize(
    ("code", "words"), [(-9, "out of memory"), (137, "out of memory"), (-11, "SIGSEGV"), (1, "exit code 1")]
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    assert words in death_in_words(code)
