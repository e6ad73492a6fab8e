"""Purge and retention with the real segment log: what goes, what stays, and that nothing of a patient is left."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom.dsutils import encode

from anomalyd.errors import Broken
from anomalyd.ids import Digest, InstanceUID, SeriesUID, StudyUID
from anomalyd.storage import audit, confirmations, deliveries, erasing, objects, queue, retention, verify
from anomalyd.storage.engine import open_store
from anomalyd.storage.inbox import Inbox
from anomalyd.storage.peek import peek
from anomalyd.storage.received import ReceivedInstance, Sender
from anomalyd.storage.refusing import refuse_series
from anomalyd.storage.segments import SegmentLog
from anomalyd.storage.series import InstanceRow, instances_of, read_instance, series_row
from anomalyd.storage.studies import study_row
from anomalyd.storage.tables import DeliveryState, JobState, SeriesState
from stored import ACCESSION, PATIENT_ID, PATIENT_NAME, SteppedStore, settings_in

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
KEEP_FOR = timedelta(days=90)
STUDY, OTHER_STUDY = StudyUID("1.2.840.1"), StudyUID("1.2.840.2")
PIXELS = b"PIXELS OF A PATIENT " * 200


class Scanner:
    """Sends series into a store through the inbox, segments rolled after a few images."""

    def __init__(self, stepped: SteppedStore) -> None:
        self.stepped = stepped
        self.inbox = Inbox(stepped.store, disk_floor=0, segment_bytes=20_000)
        self.inbox.open(threading.Event())

    def send(self, study: StudyUID, images: int = 4, number: int = 1) -> SeriesUID:
        series = SeriesUID(f"{study}.{number}")
        for image in range(1, images + 1):
            ds = Dataset()
            ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, f"{series}.{image}"
            ds.StudyDate, ds.AccessionNumber, ds.Modality = "20260131", ACCESSION, "MR"
            ds.PatientName, ds.PatientID = PATIENT_NAME, PATIENT_ID
            ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
            ds.add_new(0x7FE00010, "OW", PIXELS)
            self.accept(ds)
        return series

    def accept(self, ds: Dataset) -> None:
        raw = encode(ds, is_implicit_vr=False, is_little_endian=True)
        assert raw is not None
        self.inbox.accept(
            ReceivedInstance(
                sender=Sender("SCANNER", "ANOMALYD", "10.1.2.3", "a-1"),
                received_at=self.stepped.clock.now,
                transfer_syntax=EXPLICIT_LITTLE,
                sha256=Digest(hashlib.sha256(raw).hexdigest()),
                peeked=peek(raw, EXPLICIT_LITTLE),
                data=[raw],
            )
        )

    def analysed(self, study: StudyUID, *destinations: str, number: int = 1) -> queue.Job:
        series = self.send(study, number=number)
        row = self.stepped.close(study, series)
        same_images = Digest(hashlib.sha256(series.encode()).hexdigest())
        queue.enqueue(self.stepped.store, self.stepped.new_job(row, instance_set=same_images))
        lease = queue.lease(self.stepped.store, "worker-1", 60)
        assert lease is not None
        text = f"{PATIENT_NAME} {PATIENT_ID} {study}".encode()
        (file,) = objects.write_results(self.stepped.store, [text])
        result = queue.NewResult("seg", "1.2", result_uid(study, number), SeriesUID(f"2.25.{number}"), file)
        return queue.finish(
            self.stepped.store, lease, JobState.DONE, [result], destinations, report={"lesions": [], "score": 0.5}
        )


def result_uid(study: StudyUID, number: int) -> InstanceUID:
    return InstanceUID(f"2.25.{study.replace('.', '')}{number}")


@pytest.fixture
def scanner(stepped: SteppedStore) -> Iterator[Scanner]:
    sending = Scanner(stepped)
    yield sending
    sending.inbox.close()


def images(stepped: SteppedStore, study: StudyUID) -> tuple[InstanceRow, ...]:
    return instances_of(stepped.store, study, SeriesUID(f"{study}.1"))


def bytes_on_disk(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


def test_promise_3_a_purged_study_leaves_no_byte_of_the_patient_behind(scanner: Scanner) -> None:
    stepped = scanner.stepped
    scanner.analysed(STUDY, "pacs")
    before = bytes_on_disk(stepped.store.root)
    for marker in (PATIENT_ID, PATIENT_NAME, ACCESSION, "PIXELS OF A PATIENT"):
        assert marker.encode() in before
    purged = retention.purge_study(stepped.store, STUDY, by="admin")
    assert (purged.images, purged.results, purged.undelivered, purged.is_complete) == (4, 1, 1, True)
    assert erasing.pending_images(stepped.store, STUDY) == 4
    assert erasing.erase_images(stepped.store) == erasing.ErasedImages(4, 0, ())
    assert erasing.pending_images(stepped.store) == 0
    after = bytes_on_disk(stepped.store.root)
    for marker in (PATIENT_ID, PATIENT_NAME, ACCESSION, "PIXELS OF A PATIENT"):
        assert marker.encode() not in after


def test_promise_3_a_purge_leaves_other_studies_alone_and_the_store_whole(scanner: Scanner) -> None:
    stepped = scanner.stepped
    scanner.analysed(STUDY, "pacs")
    scanner.analysed(OTHER_STUDY, "pacs")
    wanted = [read_instance(stepped.store, row) for row in images(stepped, OTHER_STUDY)]
    purged_rows = images(stepped, STUDY)
    retention.purge_study(stepped.store, STUDY, by="admin")
    erasing.erase_images(stepped.store)
    assert [read_instance(stepped.store, row) for row in images(stepped, OTHER_STUDY)] == wanted
    assert images(stepped, STUDY) == ()
    with pytest.raises(Broken):
        read_instance(stepped.store, purged_rows[0])
    verdict = verify.verify(stepped.store)
    assert verdict.is_whole, verdict.problems
    assert (verdict.images, verdict.results) == (4, 1)
    study = study_row(stepped.store, OTHER_STUDY)
    assert study is not None
    assert study.patient_name == PATIENT_NAME


def test_promise_3_a_purge_has_its_audit_rows_and_stops_running_analyses(scanner: Scanner) -> None:
    stepped = scanner.stepped
    series = scanner.send(STUDY)
    queue.enqueue(stepped.store, stepped.new_job(stepped.close(STUDY, series)))
    lease = queue.lease(stepped.store, "worker-1", 60)
    assert lease is not None
    assert retention.purge_study(stepped.store, STUDY, by="admin").jobs_cancelled == 1
    with pytest.raises(queue.LeaseLost):
        queue.finish(stepped.store, lease, JobState.DONE, [], [], report={})
    erasing.erase_images(stepped.store)
    row = series_row(stepped.store, STUDY, series)
    assert row is not None
    assert (row.state, (row.reason or {})["criterion"]) == (SeriesState.INELIGIBLE, "purged")
    assert [row.kind for row in audit.history_of(stepped.store, STUDY)][-2:] == ["purged", "erased"]
    assert [row.kind for row in audit.history_of(stepped.store, series)][-1] == "purged"
    asked = audit.AuditFilter(patient_id=PATIENT_ID, kind=audit.AuditKind.PURGED)
    assert len(list(audit.query(stepped.store, asked))) == 1
    assert audit.verify(stepped.store).is_intact


def test_a_purged_study_may_come_again(scanner: Scanner) -> None:
    stepped = scanner.stepped
    scanner.send(STUDY)
    retention.purge_study(stepped.store, STUDY, by="admin")
    scanner.send(STUDY)
    assert len(images(stepped, STUDY)) == 4
    study = study_row(stepped.store, STUDY)
    assert study is not None
    assert (study.patient_id, study.purged_at) == (PATIENT_ID, None)
    assert verify.verify(stepped.store).is_whole


def test_a_purged_study_that_comes_again_is_analysed_again(scanner: Scanner) -> None:
    stepped = scanner.stepped
    first = scanner.analysed(STUDY, "pacs")
    retention.purge_study(stepped.store, STUDY, by="admin")
    again = scanner.analysed(STUDY, "pacs")
    assert (again.id, again.state) == (first.id, JobState.DONE)
    assert [delivery.state for delivery in deliveries.due(stepped.store)] == [DeliveryState.DUE]
    assert verify.verify(stepped.store).is_whole


def test_an_analysis_cancelled_by_a_purge_runs_when_the_study_comes_again(scanner: Scanner) -> None:
    stepped = scanner.stepped
    series = scanner.send(STUDY)
    same_images = Digest(hashlib.sha256(series.encode()).hexdigest())
    queue.enqueue(stepped.store, stepped.new_job(stepped.close(STUDY, series), instance_set=same_images))
    retention.purge_study(stepped.store, STUDY, by="admin")
    assert queue.lease(stepped.store, "worker-1", 60) is None
    assert scanner.analysed(STUDY, "pacs").state is JobState.DONE


def test_an_unknown_study_is_told(stepped: SteppedStore) -> None:
    with pytest.raises(retention.NoSuchStudy, match=r"1\.2\.840\.1"):
        retention.purge_study(stepped.store, STUDY, by="admin")


def test_an_erasure_killed_in_the_middle_goes_on_at_the_next_one(scanner: Scanner, tmp_path: Path) -> None:
    stepped = scanner.stepped
    scanner.analysed(STUDY, "pacs")
    retention.purge_study(stepped.store, STUDY, "admin")
    script = (
        "import sys; from pathlib import Path;"
        "from anomalyd.storage.engine import open_store; from anomalyd.storage.settings import StorageSettings;"
        "from anomalyd.storage.erasing import erase_images;"
        "erase_images(open_store(StorageSettings(root=Path(sys.argv[1]))))"
    )
    environment = {**os.environ, "ANOMALYD_CRASH_AT": "purge.mid"}
    command = [sys.executable, "-c", script, str(stepped.store.root)]
    assert subprocess.run(command, env=environment, check=False, timeout=60).returncode == -9
    assert erasing.pending_images(stepped.store) == 4
    assert b"PIXELS OF A PATIENT" in bytes_on_disk(stepped.store.root)
    later = open_store(settings_in(tmp_path))
    assert erasing.erase_images(later).images == 4
    after = bytes_on_disk(stepped.store.root)
    for marker in (PATIENT_ID, PATIENT_NAME, ACCESSION, "PIXELS OF A PATIENT"):
        assert marker.encode() not in after
    assert verify.verify(later).is_whole
    later.close()


def test_a_record_that_cannot_be_overwritten_is_told_and_does_not_keep_others(scanner: Scanner) -> None:
    stepped = scanner.stepped
    scanner.send(STUDY)
    torn = images(stepped, STUDY)[1]
    with SegmentLog(stepped.store.root).path(torn.segment).open("r+b") as segment:
        segment.seek(torn.offset)
        segment.write(b"\xff" * 16)
    retention.purge_study(stepped.store, STUDY, "admin")
    erased = erasing.erase_images(stepped.store)
    assert erased.images == 3
    assert f"at {torn.offset}: no record begins here" in erased.damaged[0]
    assert erasing.pending_images(stepped.store) == 1


def confirm_all(stepped: SteppedStore) -> None:
    ids = [row.id for row in deliveries.due(stepped.store)]
    deliveries.mark_sent(stepped.store, ids)
    deliveries.mark_confirmed(stepped.store, ids, "query")


def swept(stepped: SteppedStore) -> list[StudyUID]:
    return [expired.study_uid for expired in retention.sweep(stepped.store, KEEP_FOR)]


def test_a_series_does_not_expire_before_its_results_are_confirmed(scanner: Scanner) -> None:
    stepped = scanner.stepped
    scanner.analysed(STUDY, "pacs")
    ids = [row.id for row in deliveries.due(stepped.store)]
    deliveries.mark_sent(stepped.store, ids)
    patience = confirmations.Patience()
    confirmations.mark_asked(stepped.store, ids, "storage commitment", patience, transaction_uid="2.25.7")
    stepped.clock.step(86400 * 91)
    assert swept(stepped) == []
    (row,) = deliveries.deliveries(stepped.store)
    assert confirmations.record_report(stepped.store, "2.25.7", [row.sop_instance_uid], {}) == "pacs"
    assert swept(stepped) == []  # nobody has acted on it yet
    confirmations.apply_reports(stepped.store, "pacs", patience.answer_within, patience)
    assert swept(stepped) == [STUDY]


def test_promise_9_a_confirmed_series_goes_after_its_time_with_segments_and_results(scanner: Scanner) -> None:
    stepped = scanner.stepped
    scanner.analysed(STUDY, "pacs")
    confirm_all(stepped)
    stepped.clock.step(86400 * 89)
    assert swept(stepped) == []
    stepped.clock.step(86400 * 2)
    scanner.send(OTHER_STUDY, images=6)
    segments = SegmentLog(stepped.store.root).segments()
    assert swept(stepped) == [STUDY]
    assert SegmentLog(stepped.store.root).segments() == segments
    assert erasing.erase_images(stepped.store).segments > 0
    left = SegmentLog(stepped.store.root).segments()
    assert left
    assert set(left) < set(segments)
    assert list((stepped.store.root / "results").iterdir()) == []
    study = study_row(stepped.store, STUDY)
    assert study is not None
    assert study.patient_name is None
    assert [row.kind for row in audit.history_of(stepped.store, STUDY)][-1] == "expired"
    assert len(images(stepped, OTHER_STUDY)) == 6
    assert [len(read_instance(stepped.store, row)) > 4000 for row in images(stepped, OTHER_STUDY)] == [True] * 6
    verdict = verify.verify(stepped.store)
    assert verdict.is_whole, verdict.problems


@pytest.mark.parametrize("state", [DeliveryState.DUE, DeliveryState.SENT, DeliveryState.REFUSED, DeliveryState.GAVE_UP])
def test_promise_9_what_is_not_confirmed_stays_however_old(scanner: Scanner, state: DeliveryState) -> None:
    stepped = scanner.stepped
    scanner.analysed(STUDY, "pacs")
    ids = [row.id for row in deliveries.due(stepped.store)]
    stepped.clock.step(86400 * 400)
    if state is DeliveryState.SENT:
        deliveries.mark_sent(stepped.store, ids)
    elif state is DeliveryState.REFUSED:
        deliveries.mark_refused(stepped.store, ids, "no")
    elif state is DeliveryState.GAVE_UP:
        deliveries.mark_retry(stepped.store, ids, "no", deliveries.BackOff())
    assert [row.state for row in deliveries.deliveries(stepped.store)] == [state]
    assert swept(stepped) == []
    deliveries.close_deliveries(stepped.store, ids, "by hand")
    assert swept(stepped) == [STUDY]


def test_promise_9_receiving_closed_running_and_failed_series_stay(scanner: Scanner) -> None:
    stepped = scanner.stepped
    scanner.send(STUDY, number=1)
    stepped.close(STUDY, scanner.send(STUDY, number=2))
    failing = stepped.close(STUDY, scanner.send(STUDY, number=3))
    job = queue.enqueue(stepped.store, stepped.new_job(failing))
    stepped.clock.step(86400 * 400)
    assert swept(stepped) == []
    lease = queue.lease(stepped.store, "worker-1", 60)
    assert lease is not None
    assert swept(stepped) == []
    queue.fail(stepped.store, lease, "cannot decode", retryable=False)
    assert swept(stepped) == []
    queue.cancel_job(stepped.store, job.id)
    assert swept(stepped) == [STUDY]


def test_promise_9_ineligible_withheld_and_superseded_series_go(scanner: Scanner) -> None:
    stepped = scanner.stepped
    reason = {"criterion": "modality", "value": "CT", "limit": "MR", "text": "CT, not MR"}
    assert refuse_series(stepped.store, stepped.close(STUDY, scanner.send(STUDY, number=1)), reason)
    queue.enqueue(stepped.store, stepped.new_job(stepped.close(STUDY, scanner.send(STUDY, number=2))))
    lease = queue.lease(stepped.store, "worker-1", 60)
    assert lease is not None
    queue.finish(stepped.store, lease, JobState.WITHHELD, [], [], report={}, reason="no registration")
    stepped.clock.step(86400 * 91)
    assert [expired.series_uid for expired in retention.sweep(stepped.store, KEEP_FOR)] == [f"{STUDY}.1", f"{STUDY}.2"]


def test_the_sweep_goes_oldest_first_and_a_late_image_keeps_its_series(scanner: Scanner) -> None:
    stepped = scanner.stepped
    reason = {"criterion": "modality", "value": "CT", "limit": "MR", "text": "CT, not MR"}
    for study in (OTHER_STUDY, STUDY):
        assert refuse_series(stepped.store, stepped.close(study, scanner.send(study)), reason)
        stepped.clock.step(3600)
    late = StudyUID("1.2.840.3")
    assert refuse_series(stepped.store, stepped.close(late, scanner.send(late)), reason)
    stepped.clock.step(86400 * 91)
    scanner.send(late, number=1, images=5)
    assert swept(stepped) == [OTHER_STUDY, STUDY]


def test_files_of_a_worker_that_died_before_publishing_go_when_they_are_old(stepped: SteppedStore) -> None:
    done = stepped.done("pacs")
    objects.write_results(stepped.store, [b"never published"])
    old = stepped.clock.now.timestamp() - 7200
    for file in (stepped.store.root / "results").glob("*/*"):
        os.utime(file, (old, old))
    assert erasing.remove_orphans(stepped.store) == 1
    for row in queue.results_of(stepped.store, done.id):
        objects.read_result(stepped.store, row.path, row.sha256)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE instance SET sha256 = 'x' WHERE id = 1", verify.ProblemKind.RECORD_DIFFERS),
        ("DELETE FROM instance WHERE id = 2", verify.ProblemKind.ROW_MISSING),
        ('UPDATE instance SET "offset" = "offset" + 1 WHERE id = 3', verify.ProblemKind.RECORD_MISSING),
        ("UPDATE result SET sha256 = 'x'", verify.ProblemKind.RESULT_DIFFERS),
        ("UPDATE result SET path = 'gone'", verify.ProblemKind.RESULT_MISSING),
    ],
)
def test_promise_1_verify_finds_a_difference_between_log_and_index(
    scanner: Scanner, statement: str, kind: verify.ProblemKind
) -> None:
    scanner.analysed(STUDY, "pacs")
    assert verify.verify(scanner.stepped.store).is_whole
    with scanner.stepped.store.write() as connection:
        connection.exec_driver_sql(statement)
    problems = verify.verify(scanner.stepped.store).problems
    assert kind in {problem.kind for problem in problems}


def test_promise_1_verify_finds_a_rotten_image(scanner: Scanner) -> None:
    stepped = scanner.stepped
    scanner.send(STUDY)
    row = images(stepped, STUDY)[1]
    with SegmentLog(stepped.store.root).path(row.segment).open("r+b") as segment:
        segment.seek(row.offset + row.length)
        segment.write(b"\xff")
    kinds = {problem.kind for problem in verify.verify(stepped.store).problems}
    assert verify.ProblemKind.RECORD_DAMAGED in kinds
