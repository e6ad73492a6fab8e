"""When a rejection note is due: after the newer results are proven to lie there, once, only where notes are taken."""

import sqlite3
from collections.abc import Collection
from datetime import timedelta

import pytest

from anomalyd.daemon.history import sentence
from anomalyd.errors import Broken
from anomalyd.ids import Digest
from anomalyd.storage import audit, confirmations, deliveries, queue
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.jobs import JobKind
from anomalyd.storage.retention import purge_study
from anomalyd.storage.tables import JobState
from anomalyd.storage.withdrawing import enqueue_notes, is_withdrawn, withdrawal_of
from stored import SERIES, STUDY, SteppedStore, open_stepped

TAKES_NOTES = ("pacs",)


def delivered(stepped: SteppedStore, job: queue.Job, destinations: Collection[str] = ("pacs", "other")) -> None:
    """All that goes to these destinations is stored and confirmed there."""
    rows = deliveries.deliveries(stepped.store, job_id=job.id)
    ids = [row.id for row in rows if row.destination in destinations]
    deliveries.mark_sending(stepped.store, ids, timedelta(minutes=5))
    deliveries.mark_sent(stepped.store, ids)
    deliveries.mark_confirmed(stepped.store, ids, "response")


def succeeded(stepped: SteppedStore, **more: object) -> queue.Job:
    """A newer answer of the same series, to be delivered to both."""
    stepped.clock.step(10)
    job = queue.enqueue(stepped.store, stepped.new_job(stepped.row(), **more))
    lease = queue.lease(stepped.store, "worker-1", 60.0)
    assert lease is not None
    assert lease.job.id == job.id
    made = stepped.results(job)
    return queue.finish(stepped.store, lease, JobState.DONE, made, ["pacs", "other"], report={"lesions": []})


def other_bundle(mark: str = "c") -> dict[str, object]:
    return {"bundle": Digest(mark * 64), "bundle_id": f"t1w-{mark}"}


def test_a_note_lists_all_that_was_stored_there_once_the_new_is_confirmed_there(stepped: SteppedStore) -> None:
    old = stepped.done("pacs", "other")
    delivered(stepped, old)
    assert enqueue_notes(stepped.store, TAKES_NOTES) == ()  # nothing takes its place
    new = succeeded(stepped, **other_bundle())
    assert enqueue_notes(stepped.store, TAKES_NOTES) == ()  # not there yet
    delivered(stepped, new, ["other"])
    assert enqueue_notes(stepped.store, TAKES_NOTES) == ()  # there, but not where notes are taken
    delivered(stepped, new)
    (note,) = enqueue_notes(stepped.store, TAKES_NOTES)
    assert (note.kind, note.state, note.series_uid) == (JobKind.REJECTION_NOTE, JobState.QUEUED, SERIES)
    assert (note.bundle, note.settings) == (old.bundle, old.settings)
    found = withdrawal_of(stepped.store, note)
    assert (found.withdrawn.id, found.by, found.destination) == (old.id, new.id, "pacs")
    assert found.results == queue.results_of(stepped.store, old.id)
    assert is_withdrawn(stepped.store, old.id)
    assert not is_withdrawn(stepped.store, new.id)
    assert enqueue_notes(stepped.store, TAKES_NOTES) == ()
    (row,) = (row for row in audit.query(stepped.store, AuditFilter(job_id=note.id, kind=AuditKind.QUEUED)))
    assert sentence(row) == "job 3 queued: a rejection note for the 2 results of job 1 at pacs, replaced by job 2"


def test_each_destination_has_a_note_of_its_own_and_the_note_does_not_supersede(stepped: SteppedStore) -> None:
    delivered(stepped, stepped.done("pacs", "other"))
    delivered(stepped, new := succeeded(stepped, **other_bundle()))
    notes = enqueue_notes(stepped.store, ["pacs", "other"])
    assert len({note.instance_set for note in notes}) == 2
    assert {withdrawal_of(stepped.store, note).destination for note in notes} == {"pacs", "other"}
    assert queue.job(stepped.store, new.id).superseded_by is None


def test_what_was_not_stored_is_not_listed(stepped: SteppedStore) -> None:
    old = stepped.done("pacs", results=3)
    first, *_ = deliveries.deliveries(stepped.store, job_id=old.id)
    deliveries.mark_sent(stepped.store, [first.id])
    delivered(stepped, succeeded(stepped, **other_bundle()))
    (note,) = enqueue_notes(stepped.store, TAKES_NOTES)
    assert [row.sop_instance_uid for row in withdrawal_of(stepped.store, note).results] == [first.sop_instance_uid]


def test_what_is_withdrawn_is_neither_asked_for_nor_sent_again(stepped: SteppedStore) -> None:
    """A PACS that hides it would report it missing."""
    old = stepped.done("pacs", "other", results=3)
    rows = [row for row in deliveries.deliveries(stepped.store, job_id=old.id) if row.destination == "pacs"]
    deliveries.mark_confirmed(stepped.store, [rows[0].id], "response")
    for row in rows:
        deliveries.mark_sent(stepped.store, [row.id])
    deliveries.mark_refused(stepped.store, [rows[2].id], "reported missing")
    delivered(stepped, succeeded(stepped, **other_bundle()))
    assert confirmations.due(stepped.store, "pacs") != ()
    (note,) = enqueue_notes(stepped.store, TAKES_NOTES)
    assert len(note.instances) == 3
    assert confirmations.due(stepped.store, "pacs") == ()
    assert deliveries.retry_deliveries(stepped.store, old.id) == 0
    told = list(audit.query(stepped.store, AuditFilter(job_id=old.id, kind=AuditKind.DELIVERY_CLOSED)))
    assert {row.detail["reason"] for row in told} == {f"withdrawn by the rejection note of job {note.id}"}


def test_nothing_stored_needs_no_note(stepped: SteppedStore) -> None:
    stepped.done("pacs")
    delivered(stepped, succeeded(stepped, **other_bundle()))
    assert enqueue_notes(stepped.store, TAKES_NOTES) == ()


def test_a_result_that_is_refused_holds_the_note_back_until_a_person_closes_it(stepped: SteppedStore) -> None:
    delivered(stepped, stepped.done("pacs"))
    new = succeeded(stepped, **other_bundle())
    first, second = (row for row in deliveries.deliveries(stepped.store, job_id=new.id) if row.destination == "pacs")
    deliveries.mark_confirmed(stepped.store, [first.id], "response")
    deliveries.mark_refused(stepped.store, [second.id], "SOP class not taken")
    assert enqueue_notes(stepped.store, TAKES_NOTES) == ()
    deliveries.close_of_job(stepped.store, new.id, "closed by hand")
    assert len(enqueue_notes(stepped.store, TAKES_NOTES)) == 1


def test_of_three_answers_the_last_withdraws_both_before(stepped: SteppedStore) -> None:
    delivered(stepped, first := stepped.done("pacs"))
    second = succeeded(stepped, **other_bundle())
    delivered(stepped, second)
    third = succeeded(stepped, **other_bundle("d"))  # before a note was due
    assert enqueue_notes(stepped.store, TAKES_NOTES) == ()
    delivered(stepped, third)
    notes = enqueue_notes(stepped.store, TAKES_NOTES)
    found = [withdrawal_of(stepped.store, note) for note in notes]
    assert [(one.withdrawn.id, one.by) for one in found] == [(first.id, third.id), (second.id, third.id)]


def test_a_withdrawn_answer_that_comes_back_withdraws_nothing(stepped: SteppedStore) -> None:
    """It is hidden in the PACS: the one beside it must stay to be seen."""
    delivered(stepped, old := stepped.done("pacs"))
    delivered(stepped, new := succeeded(stepped, **other_bundle()))
    assert len(enqueue_notes(stepped.store, TAKES_NOTES)) == 1
    again = queue.enqueue(stepped.store, stepped.new_job(stepped.row()))
    assert (again.id, queue.job(stepped.store, new.id).superseded_by) == (old.id, old.id)
    assert enqueue_notes(stepped.store, TAKES_NOTES) == ()


def test_a_purged_study_has_no_note(stepped: SteppedStore) -> None:
    delivered(stepped, stepped.done("pacs"))
    delivered(stepped, succeeded(stepped, **other_bundle()))
    (note,) = enqueue_notes(stepped.store, TAKES_NOTES)
    purge_study(stepped.store, STUDY, "test")
    assert queue.job(stepped.store, note.id).state is JobState.CANCELLED
    with pytest.raises(Broken, match="2 of the results to be withdrawn are not kept any more"):
        withdrawal_of(stepped.store, note)
    assert enqueue_notes(stepped.store, ["other"]) == ()


def test_a_store_of_an_earlier_snapshot_gets_table_and_index(stepped: SteppedStore) -> None:
    root = stepped.store.root
    stepped.store.close()
    with sqlite3.connect(root / "anomalyd.db") as database:
        database.executescript("DROP TABLE withdrawal; DROP INDEX superseded_jobs")
    database.close()
    again = open_stepped(root.parent)
    delivered(again, again.done("pacs"))
    delivered(again, succeeded(again, **other_bundle()))
    assert len(enqueue_notes(again.store, TAKES_NOTES)) == 1
    again.store.close()
    with sqlite3.connect(root / "anomalyd.db") as database:
        (plan,) = database.execute("EXPLAIN QUERY PLAN SELECT id FROM job WHERE superseded_by IS NOT NULL").fetchall()
    database.close()
    assert "superseded_jobs" in plan[3]
