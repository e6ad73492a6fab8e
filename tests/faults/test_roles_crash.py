"""Crash table of dispatcher and worker (DESIGN 8): killed with SIGKILL at each step, started again, promises checked.

What must hold after each row: exactly one job, every result in the PACS under one UID, nothing due, audit chain intact.
"""

import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from anomalyd.pipeline.bundle import bundle_identity
from anomalyd.storage import audit, deliveries, queue
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.queue import Job
from anomalyd.storage.series import series_in
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.tables import DeliveryState, JobState, SeriesState
from arrivals import Arrivals
from phantoms import PhantomWriter
from rows import add_finished_job, add_job
from running import ReceivingPacs, RunningDaemon
from tiny_bundle import tiny_bundle
from waiting import wait_until

pytestmark = pytest.mark.faults
LIMIT_S = 60.0
RESULTS = 21


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    tiny_bundle(path)
    return path


@dataclass
class Stage:
    """The store, a PACS, and the roles as processes."""

    store: Store
    pacs: ReceivingPacs
    daemon: RunningDaemon
    script: Path
    bundle: str

    def only_job(self) -> Job:
        (job,) = queue.jobs(self.store)
        return job

    def delivered(self) -> bool:
        states = {row.state for row in deliveries.deliveries(self.store)}
        return states == {DeliveryState.CONFIRMED}

    def check_promises(self, uids: set[str]) -> None:
        """One job, every result at the PACS once by UID, audit intact."""
        assert self.only_job().state is JobState.DONE
        assert {path.stem for path in self.pacs.files} == uids
        assert {row.sop_instance_uid for row in deliveries.deliveries(self.store)} == uids
        assert audit.verify(self.store).problems == ()


@pytest.fixture
def stage(tmp_path: Path, bundle: Path) -> Iterator[Stage]:
    with ReceivingPacs(tmp_path / "pacs") as pacs:
        daemon = RunningDaemon(
            tmp_path / "run",
            destinations=[pacs],
            roles=(),
            daemon={"worker": {"lease": 1.5}, "settle_period": 0.2, "series_quiet_period": 1},
            pipeline={"bundles": [str(bundle)]},
        )
        with daemon:
            store = open_store(StorageSettings(root=daemon.store_root, disk_floor=0))
            script = tmp_path / "script"
            script.write_text("slow 0.5", encoding="ascii")
            yield Stage(store, pacs, daemon, script, bundle_identity(bundle).digest)
            store.close()


@pytest.mark.parametrize(
    ("point", "state_after"),
    [("close.before_commit", SeriesState.RECEIVING), ("enqueue.before_commit", SeriesState.CLOSED)],
)
def test_killed_while_a_series_is_closed_or_queued(
    point: str, state_after: SeriesState, stage: Stage, tmp_path: Path
) -> None:
    series = PhantomWriter(spacing_mm=(8.0, 2.5, 2.5)).write(tmp_path / "in")
    with Arrivals(stage.store) as arrivals:
        arrivals.take(series.files)
    stage.daemon.dies_at("dispatcher", point, limit_s=LIMIT_S)
    assert [row.series_uid for row in series_in(stage.store, state_after)] == [series.series_uid]
    assert queue.jobs(stage.store) == ()
    stage.daemon.start("dispatcher")
    wait_until(lambda: queue.jobs(stage.store), limit_s=LIMIT_S, what="a job")
    assert stage.only_job().state is JobState.QUEUED
    for kind in (AuditKind.CLOSED, AuditKind.SELECTED, AuditKind.QUEUED):
        assert len(list(audit.query(stage.store, AuditFilter(kind=kind)))) == 1
    assert audit.verify(stage.store).problems == ()


@pytest.mark.parametrize("point", ["lease.after_commit", "worker.after_lease", "results.written_before_commit"])
def test_the_worker_killed_around_its_analysis(point: str, stage: Stage) -> None:
    add_job(stage.store, bundle=stage.bundle)
    stage.daemon.start("dispatcher")
    with stage.daemon.scripted_worker(stage.script, crash_at=point) as worker:
        wait_until(lambda: worker.poll() is not None, limit_s=LIMIT_S, what=f"death at {point}")
        assert worker.returncode == -signal.SIGKILL
    assert stage.only_job().state in {JobState.LEASED, JobState.QUEUED}
    assert deliveries.deliveries(stage.store) == ()
    with stage.daemon.scripted_worker(stage.script):
        wait_until(stage.delivered, limit_s=LIMIT_S, what="all results confirmed")
    stage.check_promises({f"2.25.{stage.only_job().id}1"})
    assert stage.only_job().attempts == 2


def test_the_child_killed_in_the_middle_of_its_analysis(stage: Stage) -> None:
    add_job(stage.store, bundle=stage.bundle)
    stage.daemon.start("dispatcher")
    with stage.daemon.scripted_worker(stage.script, crash_at="worker.mid_analysis"):
        wait_until(lambda: stage.only_job().reason, limit_s=LIMIT_S, what="the death is noticed")
    job = stage.only_job()
    assert job.state is JobState.QUEUED
    assert "killed by SIGKILL: most likely out of memory in stage reconstruct" in (job.reason or "")
    _end_back_off(stage)
    with stage.daemon.scripted_worker(stage.script):
        wait_until(stage.delivered, limit_s=LIMIT_S, what="all results confirmed")
    stage.check_promises({f"2.25.{job.id}1"})


@pytest.mark.parametrize(
    "point",
    [
        "delivery.before_send_commit",
        "delivery.mid_send",
        "delivery.mid_send:11",
        "delivery.after_send_before_row",
    ],
)
def test_killed_while_results_are_sent(point: str, stage: Stage) -> None:
    made = add_finished_job(stage.store, heatmaps=RESULTS - 1)
    stage.daemon.dies_at("dispatcher", point, limit_s=LIMIT_S)
    stage.daemon.start("dispatcher")
    wait_until(stage.delivered, limit_s=LIMIT_S, what="all results confirmed")
    stage.check_promises(set(made.uids))


def test_roles_that_run_twice_make_one_job_and_one_set_of_results(stage: Stage, tmp_path: Path) -> None:
    series = PhantomWriter(spacing_mm=(8.0, 2.5, 2.5)).write(tmp_path / "in")
    with Arrivals(stage.store) as arrivals:
        arrivals.take(series.files)
    stage.daemon.start("dispatcher")
    first = stage.daemon.children["dispatcher"]
    stage.daemon.start("dispatcher")
    with stage.daemon.scripted_worker(stage.script), stage.daemon.scripted_worker(stage.script):
        wait_until(stage.delivered, limit_s=LIMIT_S, what="all results confirmed")
    first.terminate()
    first.wait(LIMIT_S)
    stage.check_promises({f"2.25.{stage.only_job().id}1"})
    assert len(list(audit.query(stage.store, AuditFilter(kind=AuditKind.FINISHED)))) == 1


def _end_back_off(stage: Stage) -> None:
    """The retry waits half a minute at least: its time is brought forward by hand."""
    database = sqlite3.connect(stage.daemon.store_root / "anomalyd.db")
    with database:
        database.execute("UPDATE job SET not_before = created_at")
    database.close()
