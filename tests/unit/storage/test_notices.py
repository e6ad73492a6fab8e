"""Notices that a series was not analysed: which series have one, and when one that waits is not sent any more."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from anomalyd.daemon.history import sentence
from anomalyd.ids import Digest, InstanceUID
from anomalyd.storage import audit, deliveries, queue
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.jobs import Job, JobKind
from anomalyd.storage.refusing import OURS, NewNotice, refuse_series
from anomalyd.storage.series import SeriesRow
from anomalyd.storage.tables import DeliveryState, JobState
from stored import SERIES, STUDY, SteppedStore

REASON = {"criterion": "slices", "value": 3, "limit": 10, "text": "3 slices, at least 10 are needed"}
NOTICE = NewNotice(((InstanceUID(f"{SERIES}.1"), None),), Digest("5" * 64), Digest("0" * 64))
PACS = "pacs"


def jobs(stepped: SteppedStore) -> tuple[Job, ...]:
    return queue.jobs_of_series(stepped.store, STUDY, SERIES)


def states(stepped: SteppedStore, job_id: int) -> list[tuple[str, DeliveryState]]:
    return [(row.kind, row.state) for row in deliveries.deliveries(stepped.store, job_id=job_id)]


def refused(stepped: SteppedStore, row: SeriesRow, notice: NewNotice = NOTICE) -> Job:
    assert refuse_series(stepped.store, row, REASON, notice=notice)
    return jobs(stepped)[-1]


def finish(stepped: SteppedStore, state: JobState, kinds: Sequence[str]) -> Job:
    """The next job, with results of these kinds, due at the PACS."""
    lease = queue.lease(stepped.store, "worker-1", 60.0)
    assert lease is not None
    made = [replace(one, kind=kind) for one, kind in zip(stepped.results(lease.job, len(kinds)), kinds, strict=True)]
    if state is JobState.WITHHELD:  # a retried job has other results
        made = [replace(one, sop_instance_uid=InstanceUID(f"{one.sop_instance_uid}.9")) for one in made]
        return queue.finish(stepped.store, lease, JobState.WITHHELD, made, [PACS], report={}, reason="no brain")
    return queue.finish(stepped.store, lease, JobState.DONE, made, [PACS], report={"lesions": []})


def send(stepped: SteppedStore, job_id: int) -> None:
    ids = [row.id for row in deliveries.deliveries(stepped.store, job_id=job_id)]
    deliveries.mark_sending(stepped.store, ids, timedelta(minutes=5))
    deliveries.mark_sent(stepped.store, ids)


def told(stepped: SteppedStore, kind: AuditKind) -> list[str]:
    return [sentence(row) for row in audit.query(stepped.store, AuditFilter(series_uid=SERIES, kind=kind))]


def test_a_refused_series_has_a_job_that_knows_what_to_tell(stepped: SteppedStore) -> None:
    job = refused(stepped, stepped.closed())
    assert (job.kind, job.state, job.instances) == (JobKind.NOTICE, JobState.QUEUED, NOTICE.instances)
    assert job.report is not None
    assert job.report["reason"] == REASON
    done = finish(stepped, JobState.DONE, ["ineligible"])
    assert (done.id, states(stepped, done.id)) == (job.id, [("ineligible", DeliveryState.DUE)])
    assert told(stepped, AuditKind.FINISHED)[0].endswith("made 1 ineligible")


def test_without_a_notice_there_is_no_job(stepped: SteppedStore) -> None:
    assert refuse_series(stepped.store, stepped.closed(), REASON)
    assert jobs(stepped) == ()


def test_why_there_can_be_none_stands_in_the_audit(stepped: SteppedStore) -> None:
    assert refuse_series(stepped.store, stepped.closed(), REASON, no_notice="no object of the series can be read")
    assert jobs(stepped) == ()
    assert told(stepped, AuditKind.REFUSED)[0].endswith("no notice of it: no object of the series can be read")


def test_what_was_made_here_and_comes_back_has_none(stepped: SteppedStore) -> None:
    """Also if the PACS has changed its Manufacturer: its UID is known."""
    made = stepped.done(PACS)
    (ours, *_) = queue.results_of(stepped.store, made.id)
    back = stepped.closed(series=ours.series_uid)
    assert refuse_series(stepped.store, back, REASON, notice=NOTICE)
    assert queue.jobs_of_series(stepped.store, STUDY, ours.series_uid) == ()
    (row,) = audit.query(stepped.store, AuditFilter(series_uid=ours.series_uid, kind=AuditKind.REFUSED))
    assert row.detail["no_notice"] == OURS


@pytest.mark.parametrize("is_made", [False, True])
def test_the_same_images_refused_again_have_one_notice(is_made: bool, stepped: SteppedStore) -> None:  # noqa: FBT001 - a parameter
    first = refused(stepped, stepped.closed())
    if is_made:
        finish(stepped, JobState.DONE, ["ineligible"])
        send(stepped, first.id)
    stepped.arrive(4)
    again = refused(stepped, stepped.close())
    assert [job.id for job in jobs(stepped)] == [first.id]
    assert again.state is (JobState.DONE if is_made else JobState.QUEUED)
    assert [state for _, state in states(stepped, first.id)] == ([DeliveryState.SENT] if is_made else [])


def test_more_images_that_are_refused_too_have_a_notice_of_their_own_in_its_place(stepped: SteppedStore) -> None:
    first = refused(stepped, stepped.closed())
    finish(stepped, JobState.DONE, ["ineligible"])
    stepped.arrive(4)
    second = refused(stepped, stepped.close(), replace(NOTICE, instance_set=Digest("6" * 64)))
    assert second.id != first.id
    assert queue.job(stepped.store, first.id).superseded_by == second.id
    assert states(stepped, first.id) == [("ineligible", DeliveryState.CLOSED)]


def test_late_images_that_make_it_eligible_take_the_notice_back(stepped: SteppedStore) -> None:
    notice = refused(stepped, stepped.closed())
    finish(stepped, JobState.DONE, ["ineligible"])
    stepped.arrive(4)
    analysis = queue.enqueue(stepped.store, stepped.new_job(stepped.close()))
    assert queue.job(stepped.store, notice.id).superseded_by == analysis.id
    assert states(stepped, notice.id) == [("ineligible", DeliveryState.CLOSED)]


def test_a_notice_that_was_not_sent_is_dropped_when_the_scan_is_analysed_after_all(stepped: SteppedStore) -> None:
    stepped.queued()
    withheld = finish(stepped, JobState.WITHHELD, ["not_analysed"])
    queue.retry_job(stepped.store, withheld.id)
    assert states(stepped, withheld.id) == [("not_analysed", DeliveryState.DUE)]
    finish(stepped, JobState.DONE, ["seg", "heatmap"])
    assert states(stepped, withheld.id) == [
        ("not_analysed", DeliveryState.CLOSED), ("seg", DeliveryState.DUE), ("heatmap", DeliveryState.DUE),
    ]  # fmt: skip
    assert told(stepped, AuditKind.DELIVERY_CLOSED) == [
        f"1 not_analysed will not be sent to {PACS}: job {withheld.id} has analysed the series since"
    ]
    assert [row.kind for row in deliveries.due(stepped.store)] == ["seg", "heatmap"]


def test_a_notice_in_the_pacs_stays_as_it_is(stepped: SteppedStore) -> None:
    stepped.queued()
    withheld = finish(stepped, JobState.WITHHELD, ["not_analysed"])
    send(stepped, withheld.id)
    queue.retry_job(stepped.store, withheld.id)
    finish(stepped, JobState.DONE, ["seg"])
    assert states(stepped, withheld.id) == [("not_analysed", DeliveryState.SENT), ("seg", DeliveryState.DUE)]


def test_another_scan_that_is_analysed_drops_no_notice(stepped: SteppedStore) -> None:
    stepped.queued()
    withheld = finish(stepped, JobState.WITHHELD, ["not_analysed"])
    stepped.done(PACS, series=type(SERIES)(f"{SERIES}.7"))
    assert states(stepped, withheld.id) == [("not_analysed", DeliveryState.DUE)]
