"""The main job with a tiny bundle: a series sent over DICOM comes back as SEG and heatmaps, once, and is explained.

All three roles run as processes; the PACS is a real SCP. One run, looked at by several tests.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage

from anomalyd.storage import audit, deliveries, queue
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.objects import read_result
from anomalyd.storage.queue import Job
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.tables import DeliveryState, JobState
from phantoms import PhantomWriter, WrittenSeries, insert_lesion
from running import ReceivingPacs, RunningDaemon
from tiny_bundle import made_up_brain, tiny_bundle
from waiting import wait_until

pytestmark = pytest.mark.slow
LIMIT_S = 200.0
LESION = (25.0, 20.0, 15.0)


@dataclass(frozen=True)
class Run:
    """What one run left behind; the roles are still there."""

    series: WrittenSeries
    pacs: ReceivingPacs
    other_pacs: ReceivingPacs
    daemon: RunningDaemon
    store: Store

    def jobs(self) -> tuple[Job, ...]:
        """Of the series, oldest first."""
        return queue.jobs_of_series(self.store, self.series.study_uid, self.series.series_uid)

    def kinds(self) -> list[AuditKind]:
        """Audit rows of the series, in order."""
        return [AuditKind(row.kind) for row in audit.query(self.store, AuditFilter(series_uid=self.series.series_uid))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("end-to-end")
    tiny_bundle(folder / "tiny", threshold=0.2)
    head = insert_lesion(made_up_brain(noise=5.0), LESION, 9.0, 60.0)
    series = PhantomWriter(spacing_mm=(3.0, 2.0, 2.0), expected_count="absent").write_volume(head, folder / "in")
    pacs, other = ReceivingPacs(folder / "pacs"), ReceivingPacs(folder / "other", ae_title="OTHER", name="other")
    daemon = RunningDaemon(
        folder / "run",
        destinations=[pacs, other],
        daemon={"series_quiet_period": 2},
        pipeline={"bundles": [str(folder / "tiny")], "threads": 1},
    )
    with pacs, other, daemon:
        assert set(daemon.send(series.files[:-2])) == {0}
        store = open_store(StorageSettings(root=daemon.store_root, disk_floor=0))
        running = Run(series, pacs, other, daemon, store)
        wait_until(lambda: [job.state for job in running.jobs()] == [JobState.DONE], limit_s=LIMIT_S, what="a job done")
        assert set(daemon.send(series.files[-2:])) == {0}  # the late slices
        wait_until(lambda: len(running.jobs()) == 2, limit_s=LIMIT_S, what="a second job")
        assert set(daemon.send(series.files)) == {0}  # everything again
        wait_until(lambda: _ended(store), limit_s=LIMIT_S, what="all results confirmed")
        yield running
        store.close()
        daemon.stop()
        assert {child.returncode for child in daemon.children.values()} == {0}  # SIGTERM ends each in good order


def _ended(store: Store) -> bool:
    states = {row.state for row in deliveries.deliveries(store)}
    busy = {JobState.QUEUED, JobState.LEASED} & {job.state for job in queue.jobs(store)}
    return not busy and states <= {DeliveryState.CONFIRMED, DeliveryState.CLOSED}


def test_each_slice_comes_back_as_a_heatmap_and_the_lesion_as_a_seg(run: Run) -> None:
    job = run.jobs()[-1]
    made = Counter(row.kind for row in queue.results_of(run.store, job.id))
    assert made == {"heatmap": len(run.series.files), "summary": 1, "seg": 1, "sr": 1}
    datasets = run.pacs.datasets()
    assert {ds.StudyInstanceUID for ds in datasets} == {run.series.study_uid}
    (seg,) = [ds for ds in datasets if ds.SOPInstanceUID in _uids(run, job) and ds.SOPClassUID == SegmentationStorage]
    assert int(np.count_nonzero(seg.pixel_array)) > 0
    heatmaps = [ds for ds in datasets if ds.SOPInstanceUID in _uids(run, job)]
    sources = {
        ds.SourceImageSequence[0].ReferencedSOPInstanceUID
        for ds in heatmaps
        if ds.SOPClassUID == SecondaryCaptureImageStorage
    }
    assert sources == {dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in run.series.files}


def test_late_slices_make_a_new_job_that_supersedes_the_first(run: Run) -> None:
    first, second = run.jobs()
    assert first.superseded_by == second.id
    assert (len(first.instances), len(second.instances)) == (len(run.series.files) - 2, len(run.series.files))
    assert second.state is JobState.DONE


def test_the_second_report_names_the_first_where_that_was_sent(run: Run) -> None:
    first, second = (
        next(row for row in deliveries.deliveries(run.store, job_id=job.id) if row.kind == "sr") for job in run.jobs()
    )
    report = dcmread(run.pacs.folder / f"{second.sop_instance_uid}.dcm")
    named = [
        document.ReferencedSOPInstanceUID
        for study in report.get("PredecessorDocumentsSequence", ())
        for series in study.ReferencedSeriesSequence
        for document in series.ReferencedSOPSequence
    ]
    states = {row.state for row in deliveries.deliveries(run.store, job_id=first.job_id) if row.kind == "sr"}
    assert named == ([first.sop_instance_uid] if DeliveryState.CONFIRMED in states else [])


def test_the_same_series_again_makes_no_further_job(run: Run) -> None:
    assert len(run.jobs()) == 2
    assert run.kinds().count(AuditKind.DUPLICATE) == len(run.series.files)


def test_what_the_pacs_holds_is_byte_for_byte_what_was_made(run: Run) -> None:
    for row in queue.results_of(run.store, run.jobs()[-1].id):
        sent = dcmread(run.pacs.folder / f"{row.sop_instance_uid}.dcm")
        made = dcmread(_written(run, read_result(run.store, row.path, row.sha256)))
        assert sent == made
        assert sent.get("PixelData") == made.get("PixelData")


def test_both_destinations_got_every_result_of_the_job_once(run: Run) -> None:
    job = run.jobs()[-1]
    for pacs in (run.pacs, run.other_pacs):
        arrived = Counter(uid for uid in pacs.stores if uid in _uids(run, job))
        assert arrived == dict.fromkeys(_uids(run, job), 1)


def test_heatmaps_go_before_the_seg_and_the_report_that_refers_to_it_last(run: Run) -> None:
    of_job = [uid for uid in run.pacs.stores if uid in _uids(run, run.jobs()[-1])]
    kinds: dict[str, str] = {row.sop_instance_uid: row.kind for row in queue.results_of(run.store, run.jobs()[-1].id)}
    assert [kinds[uid] for uid in of_job[-2:]] == ["seg", "sr"]


def test_the_audit_tells_the_course_and_is_intact(run: Run) -> None:
    kinds = run.kinds()
    course = [
        AuditKind.RECEIVED,
        AuditKind.CLOSED,
        AuditKind.SELECTED,
        AuditKind.QUEUED,
        AuditKind.STARTED,
        AuditKind.FINISHED,
        AuditKind.SENDING,
        AuditKind.SENT,
        AuditKind.CONFIRMED,
    ]
    places = [kinds.index(kind) for kind in course]
    assert places == sorted(places)
    assert audit.verify(run.store).problems == ()


def test_explain_shows_it_on_one_page(run: Run) -> None:
    shown = run.daemon.command("explain", run.series.series_uid)
    assert shown.returncode == 0
    for words in (
        "received",
        "job 1",
        "job 2",
        "superseded",
        "takes the place of",
        "confirmed at pacs",
        "confirmed at other",
    ):
        assert words in shown.stdout


def _uids(run: Run, job: Job) -> set[str]:
    return {row.sop_instance_uid for row in queue.results_of(run.store, job.id)}


def _written(run: Run, part10: bytes) -> Path:
    path = run.daemon.root / "made.dcm"
    path.write_bytes(part10)
    return path
