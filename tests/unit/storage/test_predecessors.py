"""What a job takes the place of: found in the store, told in the audit, whether its document is in a PACS or not."""

from datetime import timedelta

from anomalyd.daemon.history import sentence
from anomalyd.ids import Digest
from anomalyd.storage import audit, deliveries, queue
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.predecessors import Document, predecessor_of
from anomalyd.storage.tables import JobState
from stored import SERIES, SteppedStore

KIND = "seg"  # the first result that `stepped` makes


def sent(stepped: SteppedStore, job: queue.Job) -> None:
    ids = [row.id for row in deliveries.deliveries(stepped.store, job_id=job.id)]
    deliveries.mark_sending(stepped.store, ids, timedelta(minutes=5))
    deliveries.mark_sent(stepped.store, ids)


def finished(stepped: SteppedStore, job: queue.Job) -> queue.Job:
    lease = queue.lease(stepped.store, "worker-1", 60.0)
    assert lease is not None
    assert lease.job.id == job.id
    follows = predecessor_of(stepped.store, job, KIND)
    made = stepped.results(job)
    return queue.finish(stepped.store, lease, JobState.DONE, made, ["pacs"], report={"lesions": []}, follows=follows)


def with_late_image(stepped: SteppedStore, **more: object) -> queue.Job:
    stepped.arrive(stepped.row().arrivals + 1)
    return queue.enqueue(stepped.store, stepped.new_job(stepped.close(), **more))


def last_told(stepped: SteppedStore) -> str:
    rows = list(audit.query(stepped.store, AuditFilter(series_uid=SERIES, kind=AuditKind.FINISHED)))
    return sentence(rows[-1])


def test_a_first_answer_takes_no_place(stepped: SteppedStore) -> None:
    job = stepped.done("pacs")
    assert predecessor_of(stepped.store, job, KIND) is None
    assert "takes the place" not in last_told(stepped)


def test_late_slices_name_the_document_that_was_sent(stepped: SteppedStore) -> None:
    first = stepped.done("pacs")
    sent(stepped, first)
    second = with_late_image(stepped)
    found = predecessor_of(stepped.store, second, KIND)
    assert found is not None
    (result, *_) = queue.results_of(stepped.store, first.id)
    assert found.document == Document(first.id, result.series_uid, result.sop_instance_uid)
    assert (found.job_id, found.differs) == (first.id, ("other images",))
    assert predecessor_of(stepped.store, second, "sr") is not None
    finished(stepped, second)
    assert "takes the place of job 1 (other images; that was bundle t1w-test)" in last_told(stepped)
    assert "its report names that of job 1 as predecessor" in last_told(stepped)


def test_a_document_that_was_never_sent_is_not_named_and_the_one_before_is(stepped: SteppedStore) -> None:
    first = stepped.done("pacs")
    second = with_late_image(stepped)  # drops what of the first was unsent
    found = predecessor_of(stepped.store, second, KIND)
    assert found is not None
    assert (found.job_id, found.document) == (first.id, None)
    finished(stepped, second)
    assert "its report names none as predecessor" in last_told(stepped)
    sent(stepped, second)
    third = with_late_image(stepped)
    finished(stepped, third)
    fourth = with_late_image(stepped)  # the third was not sent, the second was
    found = predecessor_of(stepped.store, fourth, KIND)
    assert found is not None
    assert found.document is not None
    assert (found.job_id, found.document.job_id) == (third.id, second.id)


def test_another_bundle_takes_the_place_of_the_same_images(stepped: SteppedStore) -> None:
    first = stepped.done("pacs")
    sent(stepped, first)
    job = queue.enqueue(stepped.store, stepped.new_job(stepped.row(), bundle=Digest("c" * 64), bundle_id="t1w-new"))
    found = predecessor_of(stepped.store, job, KIND)
    assert found is not None
    assert found.document is not None
    assert (found.job_id, found.differs) == (first.id, ("another bundle",))
    finished(stepped, job)
    assert "takes the place of job 1 (another bundle; that was bundle t1w-test)" in last_told(stepped)
