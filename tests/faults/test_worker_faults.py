"""The real worker over real children that die in every way: another process tries again, and nobody else waits.

The back-off between two tries is on our clock; what the children do is in children.py.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from anomalyd.daemon.settings import Settings
from anomalyd.daemon.worker.process import Child
from anomalyd.pipeline.bundle import bundle_identity
from anomalyd.storage import audit, queue
from anomalyd.storage.alarms import open_alarms
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.engine import Store
from anomalyd.storage.queue import Job
from anomalyd.storage.tables import JobState
from children import scripted
from conftest import WaitUntil
from moving_clock import MovingClock
from rows import add_job
from running import RunningDaemon
from tiny_bundle import tiny_bundle
from waiting import wait_until as wait
from worker_thread import worker_thread

pytestmark = pytest.mark.faults
LIMIT_S = 60.0
MAX_ATTEMPTS = 3
DEATHS = {
    "segfault": "died of SIGSEGV in stage reconstruct",
    "killed": "killed by SIGKILL: most likely out of memory in stage reconstruct",
    "starved": "out of memory in stage reconstruct",
    "hungry": "killed: out of memory, exceeded 0.35 GB in stage reconstruct",
    "hangs 60": "killed: exceeded job_time_limit (2 s) in stage register",
    "bug": "an error of the program (ValueError) in stage score",
}
SHORT = ("segfault", "starved", "hangs 60")
"""The others are named in tests/unit/daemon/worker/test_loop.py, too."""
OF_THE_GPU = {
    "gpu_memory": "out of memory in stage reconstruct",
    "gpu_error": "the GPU failed (AcceleratorError) in stage reconstruct",
}


@dataclass
class Bench:
    """A worker at work, in a thread."""

    store: Store
    script: Path
    pids: list[int] = field(default_factory=list)
    """Of its children, as they were started."""

    def now(self, job: Job) -> Job:
        return queue.job(self.store, job.id)

    def is_waiting(self, job: Job, attempts: int) -> bool:
        now = self.now(job)
        return (now.state, now.attempts) == (JobState.QUEUED, attempts)

    def kinds(self, job: Job) -> Counter[str]:
        return Counter(row.kind for row in audit.query(self.store, AuditFilter(job_id=job.id)))


@contextmanager
def working(store: Store, script: Path, *, memory: str = "350 MB", job_limit_s: float = LIMIT_S) -> Iterator[Bench]:
    """Afterwards none of its children is left."""
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    settings = Settings.model_validate(
        {
            "daemon": {"destinations": [pacs], "worker": {"memory_limit": memory}},
            "pipeline": {"max_attempts": MAX_ATTEMPTS, "job_time_limit": job_limit_s},
            "storage": {"root": store.root},
        }
    )
    bench = Bench(store, script)

    def start_child() -> Child:
        child = Child(scripted, (store.root, str(script)), start_limit_s=LIMIT_S)
        bench.pids.append(child.pid)
        return child

    with worker_thread(store, settings, start_child, limit_s=LIMIT_S):
        yield bench
    assert [pid for pid in bench.pids if Path(f"/proc/{pid}").exists()] == []


def check_retried(store: Store, clock: MovingClock, bench: Bench, words: str, wait_until: WaitUntil) -> None:
    """A job that dies once is done at its second try, by another process."""
    job = add_job(store)
    wait_until(lambda: bench.is_waiting(job, 1), LIMIT_S, "the death is noticed")
    assert bench.now(job).reason == words
    clock.ahead = timedelta(hours=1)
    wait_until(lambda: bench.now(job).state is JobState.DONE, LIMIT_S, "the second try")
    first, second = bench.pids
    assert (bench.now(job).report or {})["pid"] == second != first
    kinds = bench.kinds(job)
    assert [kinds[k] for k in (AuditKind.STARTED, AuditKind.REQUEUED, AuditKind.FINISHED)] == [2, 1, 1]
    assert open_alarms(store) == ()


@pytest.mark.parametrize(
    "death", [*SHORT, *(pytest.param(death, marks=pytest.mark.long) for death in DEATHS if death not in SHORT)]
)
def test_whatever_a_child_dies_of_another_one_tries_again(
    death: str, store: Store, clock: MovingClock, tmp_path: Path, wait_until: WaitUntil
) -> None:
    script = tmp_path / "script"
    script.write_text(f"once {death}", encoding="ascii")
    with working(store, script, job_limit_s=2 if "hangs" in death else LIMIT_S) as bench:
        check_retried(store, clock, bench, DEATHS[death], wait_until)


@pytest.mark.parametrize("error", OF_THE_GPU)
def test_an_error_of_the_gpu_is_tried_again_in_a_fresh_process(
    error: str, store: Store, clock: MovingClock, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """After an illegal access every further call to the GPU fails in the same process."""
    script = tmp_path / "script"
    script.write_text(f"once {error}", encoding="ascii")
    with working(store, script, memory="6 GB") as bench:
        check_retried(store, clock, bench, OF_THE_GPU[error], wait_until)


def test_a_poisonous_series_is_failed_after_max_attempts_and_the_others_go_on(
    store: Store, clock: MovingClock, tmp_path: Path, wait_until: WaitUntil
) -> None:
    script = tmp_path / "script"
    script.write_text("poison segfault", encoding="ascii")
    poison, *others = [add_job(store, number) for number in (1, 2, 3)]
    with working(store, script) as bench:
        for attempt in range(1, MAX_ATTEMPTS):
            wait_until(lambda n=attempt: bench.is_waiting(poison, n), LIMIT_S, f"try {attempt}")
            wait_until(lambda: {bench.now(job).state for job in others} == {JobState.DONE}, LIMIT_S, "the others")
            others.append(add_job(store, 10 + attempt))
            clock.ahead += timedelta(hours=1)
        wait_until(lambda: bench.now(poison).state is JobState.FAILED, LIMIT_S, "the last try")
        others.append(add_job(store, 20))
        wait_until(lambda: {bench.now(job).state for job in others} == {JobState.DONE}, LIMIT_S, "what came later")
        assert len(bench.pids) == MAX_ATTEMPTS + 1
    assert bench.now(poison).reason == DEATHS["segfault"]
    kinds = bench.kinds(poison)
    assert [kinds[k] for k in (AuditKind.STARTED, AuditKind.REQUEUED, AuditKind.FAILED)] == [3, 2, 1]
    (alarm,) = open_alarms(store)
    assert (alarm.kind, alarm.job_id) == ("job_failed", poison.id)
    assert all(bench.kinds(job)[AuditKind.STARTED] == 1 for job in others)


@pytest.mark.long
def test_a_series_that_kills_the_worker_itself_is_failed_too(tmp_path: Path) -> None:
    """The dispatcher counts: the lease of each dead worker runs out."""
    tiny_bundle(tmp_path / "tiny")
    script = tmp_path / "script"
    script.write_text("done", encoding="ascii")
    daemon = RunningDaemon(
        tmp_path / "run", roles=("dispatcher",), daemon={"worker": {"lease": 1}},
        pipeline={"bundles": [str(tmp_path / "tiny")], "max_attempts": MAX_ATTEMPTS},
    )  # fmt: skip
    with daemon:
        store = daemon.open_store()
        poison = add_job(store, 1, bundle=bundle_identity(tmp_path / "tiny").digest)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            with daemon.scripted_worker(script, crash_at="worker.after_lease") as worker:
                wait(lambda it=worker: it.poll() is not None, limit_s=LIMIT_S, what=f"death {attempt}")  # type: ignore[misc]  # the loop's value
            wait(
                lambda: queue.job(store, poison.id).state is not JobState.LEASED, limit_s=LIMIT_S, what="it is noticed"
            )
        failed = queue.job(store, poison.id)
        assert (failed.state, failed.reason) == (JobState.FAILED, f"worker died {MAX_ATTEMPTS} times")
        later = add_job(store, 2, bundle=failed.bundle)
        with daemon.scripted_worker(script):
            wait(lambda: queue.job(store, later.id).state is JobState.DONE, limit_s=LIMIT_S, what="the next one")
        assert [alarm.job_id for alarm in open_alarms(store)] == [poison.id]
        store.close()
