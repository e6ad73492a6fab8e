"""Killed at each step between a superseded result and its rejection note: there is one note, sent once by its UID."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anomalyd.ids import InstanceUID, SeriesUID
from anomalyd.pipeline.terms import DEFAULT_KINDS
from anomalyd.storage import audit, deliveries, objects, queue
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.jobs import JobKind
from anomalyd.storage.publication import NewResult
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.tables import DeliveryState, JobState
from part10_objects import part10_object
from rows import add_finished_job, new_job
from running import ReceivingPacs, RunningDaemon
from tiny_bundle import tiny_bundle
from waiting import wait_until

pytestmark = pytest.mark.faults
LIMIT_S = 90.0


class Course:
    """An answer in the PACS, another that takes its place, and the roles that withdraw the first."""

    def __init__(self, folder: Path, pacs: ReceivingPacs) -> None:
        tiny_bundle(folder / "tiny")
        to = {**pacs.destination, "send": [*DEFAULT_KINDS, "rejection_note"]}
        self.daemon = RunningDaemon(
            folder / "run", roles=(), daemon={"worker": {"lease": 1.5}, "destinations": [to]},
            pipeline={"bundles": [str(folder / "tiny")]},
        )  # fmt: skip
        self.pacs, self.script = pacs, folder / "script"
        self.script.write_text("done", encoding="ascii")

    def begin(self) -> None:
        """Both answers are made, by no worker; nothing is sent."""
        self.store: Store = open_store(StorageSettings(root=self.daemon.store_root, disk_floor=0))
        self.old = add_finished_job(self.store, heatmaps=3)
        self.until_confirmed()
        newer = queue.enqueue(self.store, new_job(self.old.job.series_uid, "later set"))
        lease = queue.lease(self.store, "test", 60)
        assert lease is not None
        uid = InstanceUID("2.25.777")
        (file,) = objects.write_results(self.store, [part10_object(uid)])
        made = NewResult("heatmap", "1.2.840.10008.5.1.4.1.1.7", uid, SeriesUID("2.25.77"), file)
        queue.finish(self.store, lease, JobState.DONE, [made], ["pacs"], report={"lesions": []})
        self.new = newer

    def until_confirmed(self) -> None:
        """A dispatcher runs until all that is due is confirmed."""
        self.daemon.start("dispatcher")
        wait_until(self.is_confirmed, limit_s=LIMIT_S, what="all results confirmed")
        self.daemon.stop()

    def is_confirmed(self) -> bool:
        return {row.state for row in deliveries.deliveries(self.store)} == {DeliveryState.CONFIRMED}

    def notes(self) -> list[queue.Job]:
        return [job for job in queue.jobs(self.store) if job.kind is JobKind.REJECTION_NOTE]

    def note_is_there(self) -> bool:
        return bool(self.notes()) and self.is_confirmed() and self.notes()[0].state is JobState.DONE

    def dispatcher_dies_at(self, point: str) -> None:
        self.daemon.dies_at("dispatcher", point, limit_s=LIMIT_S)

    def worker_dies_at(self, point: str) -> None:
        self.daemon.start("dispatcher")
        wait_until(self.notes, limit_s=LIMIT_S, what="a note is queued")
        with self.daemon.scripted_worker(self.script, crash_at=point) as worker:
            wait_until(lambda: worker.poll() is not None, limit_s=LIMIT_S, what=f"death at {point}")
            assert worker.returncode == -signal.SIGKILL
        self.daemon.stop()

    def sending_dies_at(self, point: str) -> None:
        self.daemon.start("dispatcher")
        wait_until(self.notes, limit_s=LIMIT_S, what="a note is queued")
        self.daemon.stop()
        with self.daemon.scripted_worker(self.script):
            wait_until(lambda: self.notes()[0].state is JobState.DONE, limit_s=LIMIT_S, what="the note is made")
        self.dispatcher_dies_at(point)


@pytest.fixture
def course(tmp_path: Path) -> Iterator[Course]:
    with ReceivingPacs(tmp_path / "pacs") as pacs:
        made = Course(tmp_path, pacs)
        with made.daemon:
            made.begin()
            yield made
            made.store.close()


@pytest.mark.parametrize(
    ("dies", "point"),
    [
        (Course.dispatcher_dies_at, "withdraw.before_commit"),
        (Course.worker_dies_at, "lease.after_commit"),
        (Course.worker_dies_at, "results.written_before_commit"),
        (Course.sending_dies_at, "delivery.mid_send"),
        (Course.sending_dies_at, "delivery.after_send_before_row"),
    ],
)
def test_one_note_however_often_the_roles_die(dies: Callable[[Course, str], None], point: str, course: Course) -> None:
    dies(course, point)
    course.daemon.start("dispatcher")
    with course.daemon.scripted_worker(course.script):
        wait_until(course.note_is_there, limit_s=LIMIT_S, what="the note confirmed")
    (note,) = course.notes()
    assert {uid for uid, _ in note.instances} == set(course.old.uids)
    (delivered,) = deliveries.deliveries(course.store, job_id=note.id)
    wanted = {*course.old.uids, "2.25.777", delivered.sop_instance_uid}
    assert {path.stem for path in course.pacs.files} == wanted
    queued = list(audit.query(course.store, AuditFilter(job_id=note.id, kind=AuditKind.QUEUED)))
    assert len(queued) == 1
    assert audit.verify(course.store).problems == ()
