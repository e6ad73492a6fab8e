import threading
from datetime import timedelta

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from anomalyd.ids import Digest, SeriesUID
from anomalyd.storage import deliveries, queue
from anomalyd.storage import tables as t
from anomalyd.storage.alarms import AlarmKind, open_alarms
from anomalyd.storage.jobs import Priority
from anomalyd.storage.refusing import refuse_series
from anomalyd.storage.series import close_series, receiving_series
from anomalyd.storage.tables import DeliveryState, JobState, SeriesState
from stored import SERIES, STUDY, SteppedStore


def leased(stepped: SteppedStore, worker: str = "worker-1", lease_s: float = 60.0) -> queue.Lease:
    lease = queue.lease(stepped.store, worker, lease_s)
    assert lease is not None
    return lease


def count(stepped: SteppedStore, table: type[t.Base]) -> int:
    with stepped.store.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_promise_4_one_job_for_the_same_images_bundle_and_settings(stepped: SteppedStore) -> None:
    new = stepped.new_job(stepped.closed())
    first = queue.enqueue(stepped.store, new)
    again = queue.enqueue(stepped.store, new)
    assert first.id == again.id
    assert [job.id for job in queue.jobs(stepped.store)] == [first.id]


def test_promise_4_two_dispatchers_at_once_make_one_job(stepped: SteppedStore) -> None:
    new = stepped.new_job(stepped.closed())
    ids: list[int] = []
    threads = [threading.Thread(target=lambda: ids.append(queue.enqueue(stepped.store, new).id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1


def test_promise_4_the_database_itself_refuses_a_second_job_of_the_same_key(stepped: SteppedStore) -> None:
    job = stepped.queued()
    columns = [column for column in t.Job.__table__.c if column.name != "id"]
    with pytest.raises(IntegrityError, match="UNIQUE"), stepped.store.write() as connection:
        connection.execute(insert(t.Job).from_select(columns, select(*columns).where(t.Job.id == job.id)))


def test_promise_4_another_bundle_or_setting_is_another_job(stepped: SteppedStore) -> None:
    row = stepped.closed()
    ids = {
        queue.enqueue(stepped.store, stepped.new_job(row)).id,
        queue.enqueue(stepped.store, stepped.new_job(row, bundle=Digest("c" * 64))).id,
        queue.enqueue(stepped.store, stepped.new_job(row, settings=Digest("1" * 64))).id,
    }
    assert len(ids) == 3
    states = {job.id: (job.state, job.superseded_by is None) for job in queue.jobs(stepped.store)}
    newest = max(ids)  # it is the series' one answer to come
    assert states == dict.fromkeys(ids, (JobState.SUPERSEDED, False)) | {newest: (JobState.QUEUED, True)}


def test_an_answer_of_a_bundle_that_is_put_back_comes_back_without_computing(stepped: SteppedStore) -> None:
    old = stepped.done("pacs")
    newer = queue.enqueue(stepped.store, stepped.new_job(stepped.row(), bundle=Digest("c" * 64)))
    assert queue.job(stepped.store, old.id).superseded_by == newer.id
    assert deliveries.due(stepped.store) == ()
    again = queue.enqueue(stepped.store, stepped.new_job(stepped.row()))
    assert (again.id, again.state, again.superseded_by) == (old.id, JobState.DONE, None)
    assert queue.job(stepped.store, newer.id).state is JobState.SUPERSEDED
    assert len(deliveries.due(stepped.store)) == 2


def test_promise_4_a_late_slice_supersedes_the_queued_job(stepped: SteppedStore) -> None:
    old = stepped.queued(3)
    stepped.arrive(4)
    new = queue.enqueue(stepped.store, stepped.new_job(stepped.close()))
    assert new.id != old.id
    old = queue.job(stepped.store, old.id)
    assert (old.state, old.superseded_by) == (JobState.SUPERSEDED, new.id)
    assert leased(stepped).job.id == new.id
    assert queue.lease(stepped.store, "worker-2", 60.0) is None


def test_promise_4_a_late_slice_takes_the_lease_from_a_running_job(stepped: SteppedStore) -> None:
    stepped.queued(3)
    lease = leased(stepped)
    stepped.arrive(4)
    queue.enqueue(stepped.store, stepped.new_job(stepped.close()))
    assert not queue.heartbeat(stepped.store, lease, 60.0)
    results = stepped.results(lease.job)
    with pytest.raises(queue.LeaseLost):
        queue.finish(stepped.store, lease, JobState.DONE, results, ["pacs"], report={})
    assert count(stepped, t.Result) == count(stepped, t.Delivery) == 0


def test_promise_4_what_was_not_sent_of_a_superseded_job_is_not_sent(stepped: SteppedStore) -> None:
    old = stepped.done("pacs", results=3)
    first = deliveries.due(stepped.store)[0]
    deliveries.mark_sent(stepped.store, [first.id])
    stepped.arrive(4)
    new = queue.enqueue(stepped.store, stepped.new_job(stepped.close()))
    old = queue.job(stepped.store, old.id)
    assert (old.state, old.superseded_by) == (JobState.DONE, new.id)
    states = [row.state for row in deliveries.deliveries(stepped.store, job_id=old.id)]
    assert states == [DeliveryState.SENT, DeliveryState.CLOSED, DeliveryState.CLOSED]
    assert deliveries.due(stepped.store) == ()


def test_a_set_that_is_chosen_again_brings_its_job_back(stepped: SteppedStore) -> None:
    row = stepped.closed(3)
    old = queue.enqueue(stepped.store, stepped.new_job(row))
    newer = queue.enqueue(stepped.store, stepped.new_job(row, instance_set=Digest("e" * 64)))
    again = queue.enqueue(stepped.store, stepped.new_job(row))
    assert (again.id, again.state, again.superseded_by) == (old.id, JobState.QUEUED, None)
    assert queue.job(stepped.store, newer.id).superseded_by == old.id


def test_a_finished_set_that_is_chosen_again_is_delivered_and_not_computed_again(stepped: SteppedStore) -> None:
    old = stepped.done("pacs")
    row = stepped.row()
    queue.enqueue(stepped.store, stepped.new_job(row, instance_set=Digest("e" * 64)))
    assert deliveries.due(stepped.store) == ()
    again = queue.enqueue(stepped.store, stepped.new_job(row))
    assert (again.id, again.state, again.superseded_by) == (old.id, JobState.DONE, None)
    assert len(deliveries.due(stepped.store)) == 2


def test_a_choice_made_before_the_last_image_came_is_not_queued(stepped: SteppedStore) -> None:
    row = stepped.closed(3)
    stepped.arrive(4)
    with pytest.raises(queue.SeriesChanged):
        queue.enqueue(stepped.store, stepped.new_job(row))
    stepped.close()
    with pytest.raises(queue.SeriesChanged):
        queue.enqueue(stepped.store, stepped.new_job(row))
    assert queue.jobs(stepped.store) == ()


def test_a_series_is_not_closed_over_an_image_that_came_meanwhile(stepped: SteppedStore) -> None:
    stepped.arrive(1)
    seen = stepped.row()
    stepped.arrive(2)
    assert not close_series(stepped.store, seen, "quiet", "no image for 30 s")
    assert [row.state for row in receiving_series(stepped.store)] == [SeriesState.RECEIVING]


def test_a_refused_series_keeps_criterion_and_value_and_cancels_its_unfinished_job(stepped: SteppedStore) -> None:
    job = stepped.queued()
    reason = {"criterion": "missing_slices", "value": 5, "limit": 2, "text": "5 slices are missing, 2 may be"}
    assert refuse_series(stepped.store, stepped.row(), reason)
    row = stepped.row()
    assert (row.state, row.reason) == (SeriesState.INELIGIBLE, reason)
    assert queue.job(stepped.store, job.id).state is JobState.CANCELLED


def test_a_reason_with_a_value_that_json_lacks_is_kept(stepped: SteppedStore) -> None:
    reason = {"criterion": "spacing", "value": float("nan"), "limit": 0.01, "text": "no spacing"}
    assert refuse_series(stepped.store, stepped.closed(), reason)
    kept = stepped.row().reason
    assert kept is not None
    assert kept["value"] == "nan"


def test_live_goes_before_batch_and_oldest_first(stepped: SteppedStore) -> None:
    wanted = []
    for number, priority in enumerate([Priority.BATCH, Priority.LIVE, Priority.REPLAYED, Priority.LIVE]):
        row = stepped.closed(series=SeriesUID(f"1.2.3.{number + 1}"))
        wanted.append((priority, queue.enqueue(stepped.store, stepped.new_job(row, priority=priority)).id))
        stepped.clock.step(1)
    assert [leased(stepped).job.id for _ in wanted] == [job_id for _, job_id in sorted(wanted)]


def test_promise_5_two_workers_never_get_the_same_job(stepped: SteppedStore) -> None:
    for number in range(12):
        stepped.queued(1, series=SeriesUID(f"1.2.3.{number + 1}"))
    got: list[int] = []

    def work(name: str) -> None:
        while (lease := queue.lease(stepped.store, name, 60.0)) is not None:
            got.append(lease.job.id)

    threads = [threading.Thread(target=work, args=(f"worker-{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted({job.id for job in queue.jobs(stepped.store)})


def test_promise_5_a_worker_back_from_the_dead_cannot_publish(stepped: SteppedStore) -> None:
    stepped.queued()
    dead = leased(stepped, "worker-1", 60.0)
    stepped.clock.step(61)
    alive = leased(stepped, "worker-2", 60.0)
    assert (alive.job.id, alive.token) == (dead.job.id, dead.token + 1)
    results = stepped.results(dead.job)
    with pytest.raises(queue.LeaseLost):
        queue.finish(stepped.store, dead, JobState.DONE, results, ["pacs"], report={})
    with pytest.raises(queue.LeaseLost):
        queue.fail(stepped.store, dead, "late", retryable=False)
    assert not queue.heartbeat(stepped.store, dead, 60.0)
    assert not queue.release(stepped.store, dead, "late")
    assert count(stepped, t.Result) == 0
    done = queue.finish(stepped.store, alive, JobState.DONE, results, ["pacs"], report={})
    assert done.state is JobState.DONE


def test_promise_5_the_database_refuses_a_leased_job_without_a_lease(stepped: SteppedStore) -> None:
    job = stepped.queued()
    with pytest.raises(IntegrityError, match="only_a_leased_job_has_a_lease"), stepped.store.write() as connection:
        connection.execute(update(t.Job).where(t.Job.id == job.id).values(state=JobState.LEASED))
    with pytest.raises(IntegrityError, match="is_known"), stepped.store.write() as connection:
        connection.exec_driver_sql("UPDATE job SET state = 'lost'")


def test_a_heartbeat_keeps_the_lease_and_tells_the_stage(stepped: SteppedStore) -> None:
    stepped.queued()
    lease = leased(stepped, lease_s=60)
    stepped.clock.step(50)
    assert queue.heartbeat(stepped.store, lease, 60, stage="reconstruct")
    stepped.clock.step(50)
    assert queue.lease(stepped.store, "worker-2", 60) is None
    assert queue.reap(stepped.store) == ()
    assert queue.job(stepped.store, lease.job.id).stage == "reconstruct"


def test_a_job_that_killed_three_workers_is_failed_with_the_reason_and_an_alarm(stepped: SteppedStore) -> None:
    poison = stepped.queued()
    reaped: list[queue.Job] = []
    for attempt in (1, 2, 3):
        leased(stepped, f"worker-{attempt}", 60)
        stepped.clock.step(61)
        reaped += queue.reap(stepped.store, max_attempts=3)
    assert [job.state for job in reaped] == [JobState.QUEUED, JobState.QUEUED, JobState.FAILED]
    assert reaped[-1].reason == "worker died 3 times"
    (alarm,) = open_alarms(stepped.store)
    assert (alarm.kind, alarm.job_id) == (AlarmKind.JOB_FAILED, poison.id)
    assert queue.lease(stepped.store, "worker-4", 60) is None


@pytest.mark.parametrize("is_dead", [True, False], ids=["the worker died", "the worker failed"])
def test_a_job_that_had_more_attempts_than_a_lowered_limit_is_failed_with_the_reason(
    stepped: SteppedStore,
    is_dead: bool,  # noqa: FBT001 - parametrised
) -> None:
    job = stepped.queued()
    for _ in range(2):
        stepped.clock.step(timedelta(hours=2).total_seconds())
        lease = leased(stepped)
        if is_dead:
            stepped.clock.step(61)
            queue.reap(stepped.store, max_attempts=3)
        else:
            queue.fail(stepped.store, lease, "out of GPU memory", retryable=True, max_attempts=3)
    assert queue.reap(stepped.store, max_attempts=3) == ()
    (failed,) = queue.reap(stepped.store, max_attempts=2)
    before = "worker died 2 times" if is_dead else "out of GPU memory"
    assert (failed.id, failed.state) == (job.id, JobState.FAILED)
    assert failed.reason == f"tried 2 times, and max_attempts is 2 now: {before}"
    (alarm,) = open_alarms(stepped.store)
    assert (alarm.kind, alarm.job_id) == (AlarmKind.JOB_FAILED, job.id)
    assert queue.reap(stepped.store, max_attempts=2) == ()


def test_a_poison_job_leaves_the_queue_to_the_others_without_a_reaper(stepped: SteppedStore) -> None:
    stepped.queued(series=SeriesUID("1.2.3.1"))
    healthy = stepped.queued(series=SeriesUID("1.2.3.2"))
    for _ in range(3):
        leased(stepped)
        stepped.clock.step(61)
    assert leased(stepped).job.id == healthy.id


def test_promise_7_result_delivery_and_audit_are_one_transaction(stepped: SteppedStore) -> None:
    done = stepped.done("pacs", "archive", results=3)
    assert done.state is JobState.DONE
    rows = deliveries.deliveries(stepped.store, job_id=done.id)
    assert {(row.sop_instance_uid, row.destination) for row in rows} == {
        (result.sop_instance_uid, destination)
        for result in queue.results_of(stepped.store, done.id)
        for destination in ("pacs", "archive")
    }
    assert {row.state for row in rows} == {DeliveryState.DUE}


def test_promise_7_a_finish_that_fails_half_way_leaves_nothing(stepped: SteppedStore) -> None:
    first = stepped.done("pacs")
    stepped.queued(series=SeriesUID("1.2.3.9"))
    lease = leased(stepped)
    stolen = stepped.results(first, 1)
    with pytest.raises(Exception, match="belongs to job"):
        queue.finish(stepped.store, lease, JobState.DONE, [*stepped.results(lease.job), *stolen], ["pacs"], report={})
    assert queue.job(stepped.store, lease.job.id).state is JobState.LEASED
    assert count(stepped, t.Result) == 2


def test_promise_6_a_job_that_runs_again_renews_its_results_under_the_same_uids(stepped: SteppedStore) -> None:
    stepped.queued()
    lease = leased(stepped)
    results = stepped.results(lease.job)
    queue.finish(stepped.store, lease, JobState.WITHHELD, results, ["pacs"], report={}, reason="no registration")
    ids = [row.id for row in deliveries.due(stepped.store)]
    deliveries.mark_sent(stepped.store, ids)
    queue.retry_job(stepped.store, lease.job.id)
    queue.finish(stepped.store, leased(stepped), JobState.DONE, results, ["pacs"], report={})
    assert [row.id for row in deliveries.due(stepped.store)] == ids
    assert count(stepped, t.Result) == 2


def test_a_failure_that_a_retry_may_mend_waits_and_runs_again(stepped: SteppedStore) -> None:
    stepped.queued()
    again = queue.fail(stepped.store, leased(stepped), "out of GPU memory", retryable=True)
    assert again.state is JobState.QUEUED
    assert queue.lease(stepped.store, "worker-1", 60) is None
    stepped.clock.step(60)
    assert leased(stepped).job.attempts == 2


def test_a_failure_that_no_retry_mends_is_failed_at_once(stepped: SteppedStore) -> None:
    stepped.queued()
    failed = queue.fail(stepped.store, leased(stepped), "cannot decode instance 1.2.3", retryable=False)
    assert (failed.state, failed.attempts) == (JobState.FAILED, 1)
    assert len(open_alarms(stepped.store)) == 1


def test_retries_end(stepped: SteppedStore) -> None:
    stepped.queued()
    states = []
    for _ in range(3):
        stepped.clock.step(timedelta(hours=2).total_seconds())
        states.append(queue.fail(stepped.store, leased(stepped), "no", retryable=True, max_attempts=3).state)
    assert states == [JobState.QUEUED, JobState.QUEUED, JobState.FAILED]


def test_a_worker_told_to_stop_gives_its_job_back_uncounted(stepped: SteppedStore) -> None:
    stepped.queued()
    assert queue.release(stepped.store, leased(stepped), "told to stop")
    assert leased(stepped).job.attempts == 1


def test_retry_and_cancel_by_hand(stepped: SteppedStore) -> None:
    job = stepped.queued()
    assert queue.cancel_job(stepped.store, job.id).state is JobState.CANCELLED
    with pytest.raises(queue.NotPossible, match="cancelled"):
        queue.cancel_job(stepped.store, job.id)
    assert queue.retry_job(stepped.store, job.id).state is JobState.QUEUED
    lease = leased(stepped)
    queue.cancel_job(stepped.store, job.id)
    assert not queue.heartbeat(stepped.store, lease, 60)
    with pytest.raises(queue.NoSuchJob):
        queue.retry_job(stepped.store, 4711)


def test_a_cancelled_job_is_not_retried_beside_the_newer_one(stepped: SteppedStore) -> None:
    old = stepped.queued()
    queue.cancel_job(stepped.store, old.id)
    stepped.arrive(4)
    newer = queue.enqueue(stepped.store, stepped.new_job(stepped.close()))
    with pytest.raises(queue.NotPossible, match=f"cancelled and superseded by job {newer.id}"):
        queue.retry_job(stepped.store, old.id)


def test_a_finished_job_is_not_retried_by_hand(stepped: SteppedStore) -> None:
    done = stepped.done("pacs")
    with pytest.raises(queue.NotPossible, match="done"):
        queue.retry_job(stepped.store, done.id)


def test_jobs_are_found_by_state_and_series(stepped: SteppedStore) -> None:
    job = stepped.queued()
    assert queue.jobs(stepped.store, JobState.QUEUED) == (job,)
    assert queue.jobs(stepped.store, JobState.DONE) == ()
    assert queue.jobs_of_series(stepped.store, STUDY, SERIES) == (job,)
    assert job.instances[0] == (f"{SERIES}.1", None)
