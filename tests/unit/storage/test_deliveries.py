import random
from datetime import timedelta

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from anomalyd.ids import SeriesUID, StudyUID
from anomalyd.storage import audit, confirmations, deliveries, publication, queue
from anomalyd.storage import tables as t
from anomalyd.storage.alarms import AlarmKind, NoSuchAlarm, acknowledge, open_alarms
from anomalyd.storage.deliveries import BackOff
from anomalyd.storage.tables import DeliveryState, JobState
from stored import SERIES, SteppedStore

FIVE_MINUTES = timedelta(minutes=5)
BACK_OFF = BackOff(first=timedelta(seconds=30), cap=timedelta(hours=1), give_up_after=timedelta(days=1))


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - jitter, no secret


def due_ids(stepped: SteppedStore, destination: str | None = None) -> list[int]:
    return [row.id for row in deliveries.due(stepped.store, destination=destination)]


def states(stepped: SteppedStore) -> list[DeliveryState]:
    return [row.state for row in deliveries.deliveries(stepped.store)]


def kinds(stepped: SteppedStore) -> list[str]:
    return [row.kind for row in audit.history_of(stepped.store, SERIES)]


def done_of_a_late_slice(stepped: SteppedStore) -> queue.Job:
    stepped.arrive(4)
    queue.enqueue(stepped.store, stepped.new_job(stepped.close()))
    lease = queue.lease(stepped.store, "worker-1", 60)
    assert lease is not None
    made = stepped.results(lease.job)
    return queue.finish(stepped.store, lease, JobState.DONE, made, ["pacs"], report={})


def test_a_delivery_goes_from_due_to_confirmed_with_a_row_each(stepped: SteppedStore) -> None:
    stepped.done("pacs", results=1)
    (row,) = deliveries.due(stepped.store)
    assert deliveries.mark_sending(stepped.store, [row.id], FIVE_MINUTES) == (row.id,)
    assert due_ids(stepped) == []
    deliveries.mark_sent(stepped.store, [row.id], status=0xB000)
    assert [sent.id for sent in deliveries.awaiting_confirmation(stepped.store, "pacs")] == [row.id]
    deliveries.mark_confirmed(stepped.store, [row.id], "query")
    assert states(stepped) == [DeliveryState.CONFIRMED]
    assert kinds(stepped)[-3:] == ["sending", "sent", "confirmed"]


def test_two_dispatchers_do_not_take_the_same_delivery(stepped: SteppedStore) -> None:
    stepped.done("pacs", results=4)
    ids = due_ids(stepped)
    assert deliveries.mark_sending(stepped.store, ids[:3], FIVE_MINUTES) == tuple(ids[:3])
    assert deliveries.mark_sending(stepped.store, ids, FIVE_MINUTES) == (ids[3],)


def test_what_a_dead_dispatcher_was_sending_is_sent_again(stepped: SteppedStore) -> None:
    stepped.done("pacs")
    ids = due_ids(stepped)
    deliveries.mark_sending(stepped.store, ids, FIVE_MINUTES)
    assert deliveries.recover_sending(stepped.store) == 2
    assert due_ids(stepped) == ids


def test_what_a_silent_dispatcher_was_sending_falls_due_after_its_time(stepped: SteppedStore) -> None:
    stepped.done("pacs")
    ids = due_ids(stepped)
    deliveries.mark_sending(stepped.store, ids, FIVE_MINUTES)
    stepped.clock.step(301)
    assert due_ids(stepped) == ids


def test_a_dispatcher_that_stops_puts_back_what_it_had_not_tried(stepped: SteppedStore) -> None:
    stepped.done("pacs")
    ids = due_ids(stepped)
    deliveries.mark_sending(stepped.store, ids, FIVE_MINUTES)
    deliveries.mark_sent(stepped.store, ids[:1])
    deliveries.put_back(stepped.store, ids)
    assert [row.attempts for row in deliveries.deliveries(stepped.store)] == [1, 0]
    assert due_ids(stepped) == ids[1:]


def test_a_dead_destination_does_not_delay_another(stepped: SteppedStore) -> None:
    stepped.done("dead", "alive")
    assert deliveries.destinations_due(stepped.store) == ("alive", "dead")
    deliveries.mark_retry(stepped.store, due_ids(stepped, "dead"), "connection refused", BACK_OFF)
    assert deliveries.destinations_due(stepped.store) == ("alive",)
    assert len(due_ids(stepped, "alive")) == 2


def test_a_retry_waits_longer_each_time_and_survives_a_restart(stepped: SteppedStore) -> None:
    stepped.done("pacs", results=1)
    ids = due_ids(stepped)
    waits = []
    for _ in range(4):
        assert deliveries.mark_retry(stepped.store, ids, "time-out", BACK_OFF, chance=seeded(1)) == ()
        (row,) = deliveries.deliveries(stepped.store)
        waits.append((row.next_at - stepped.clock.now).total_seconds())
        assert due_ids(stepped) == []
        stepped.clock.step(waits[-1])
        assert due_ids(stepped) == ids
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(8 * waits[0])
    assert deliveries.deliveries(stepped.store)[0].error == "time-out"


def test_the_back_off_lies_between_half_and_whole_and_under_the_cap() -> None:
    chance = seeded(4711)
    for attempts in range(1, 60):
        longest = min(30.0 * 2 ** (attempts - 1), 3600.0)
        wait = BACK_OFF.wait(attempts, chance).total_seconds()
        assert longest / 2 <= wait <= longest


def test_results_that_failed_together_come_due_together(stepped: SteppedStore) -> None:
    stepped.done("pacs", results=5)
    deliveries.mark_retry(stepped.store, due_ids(stepped), "time-out", BACK_OFF)
    assert len({row.next_at for row in deliveries.deliveries(stepped.store)}) == 1


def test_past_its_time_a_delivery_gives_up_with_one_alarm_and_retry_revives_it(stepped: SteppedStore) -> None:
    job = stepped.done("pacs", results=3)
    ids = due_ids(stepped)
    stepped.clock.step(86400)
    assert deliveries.mark_retry(stepped.store, ids, "no route", BACK_OFF) == tuple(ids)
    assert set(states(stepped)) == {DeliveryState.GAVE_UP}
    (alarm,) = open_alarms(stepped.store)
    assert (alarm.kind, alarm.destination, alarm.times) == (AlarmKind.DELIVERY_GAVE_UP, "pacs", 3)
    assert kinds(stepped).count("gave_up") == 3
    assert deliveries.retry_deliveries(stepped.store, job.id) == 3
    assert due_ids(stepped) == ids
    assert deliveries.mark_retry(stepped.store, ids, "no route", BACK_OFF) == ()


def test_results_of_a_superseded_job_are_not_sent_after_the_newer_ones(stepped: SteppedStore) -> None:
    old = stepped.done("pacs", results=2)
    deliveries.mark_refused(stepped.store, due_ids(stepped), "not authorised", status=0x0124)
    newer = done_of_a_late_slice(stepped)
    assert deliveries.retry_deliveries(stepped.store, old.id) == 0
    assert {row.job_id for row in deliveries.due(stepped.store)} == {newer.id}


def test_results_that_were_kept_are_not_sent_once_their_job_is_superseded(stepped: SteppedStore) -> None:
    old = stepped.done(results=2)
    done_of_a_late_slice(stepped)
    assert publication.deliver_kept(stepped.store, old.id, ["pacs"]) == 0
    assert deliveries.deliveries(stepped.store, job_id=old.id) == ()


def test_a_refusal_that_no_retry_mends_is_final_and_alarms(stepped: SteppedStore) -> None:
    stepped.done("pacs", "archive", results=1)
    ids = due_ids(stepped, "pacs")
    deliveries.mark_refused(stepped.store, ids, "SOP class not supported", status=0x0122)
    stepped.clock.step(86400 * 30)
    assert due_ids(stepped, "pacs") == []
    (alarm,) = open_alarms(stepped.store)
    assert (alarm.kind, alarm.destination) == (AlarmKind.DELIVERY_REFUSED, "pacs")
    row = deliveries.deliveries(stepped.store, state=DeliveryState.REFUSED)[0]
    assert (row.status, row.error) == (0x0122, "SOP class not supported")


def test_a_confirmed_delivery_does_not_go_back(stepped: SteppedStore) -> None:
    stepped.done("pacs", results=1)
    ids = due_ids(stepped)
    deliveries.mark_sent(stepped.store, ids)
    deliveries.mark_confirmed(stepped.store, ids, "response")
    deliveries.mark_retry(stepped.store, ids, "late time-out", BACK_OFF)
    deliveries.mark_refused(stepped.store, ids, "late")
    deliveries.close_deliveries(stepped.store, ids, "by hand")
    assert deliveries.mark_sending(stepped.store, ids, FIVE_MINUTES) == ()
    assert states(stepped) == [DeliveryState.CONFIRMED]


def test_what_one_dispatcher_got_through_is_not_undone_by_another_that_failed(stepped: SteppedStore) -> None:
    stepped.done("pacs", results=1)
    ids = due_ids(stepped)
    deliveries.mark_sent(stepped.store, ids)
    assert deliveries.mark_retry(stepped.store, ids, "late time-out", BACK_OFF) == ()
    deliveries.mark_refused(stepped.store, ids, "late")
    assert states(stepped) == [DeliveryState.SENT]
    assert open_alarms(stepped.store) == ()


def test_an_outdated_answer_that_is_missing_is_not_sent_after_the_newer_one(stepped: SteppedStore) -> None:
    old = stepped.done("pacs", results=1)
    ids = due_ids(stepped)
    deliveries.mark_sent(stepped.store, ids)
    patience = confirmations.Patience()
    assert confirmations.mark_asked(stepped.store, ids, "storage commitment", patience, transaction_uid="2.25.7")
    stepped.arrive(9)
    new = queue.enqueue(stepped.store, stepped.new_job(stepped.close()))
    lost = deliveries.deliveries(stepped.store)[0].sop_instance_uid
    confirmations.record_report(stepped.store, "2.25.7", [], {lost: 0x0112})
    confirmations.apply_reports(stepped.store, "pacs", timedelta(seconds=1), patience)
    stepped.clock.step(3600)
    assert new.id != old.id
    assert states(stepped) == [DeliveryState.CLOSED]
    assert due_ids(stepped) == []
    assert "reported_missing" in kinds(stepped)


def test_the_number_of_a_purged_delivery_is_never_given_again(stepped: SteppedStore) -> None:
    stepped.done("pacs")
    before = due_ids(stepped)
    with stepped.store.write() as connection:
        connection.execute(delete(t.Delivery))
    stepped.done("pacs", study=StudyUID("1.2.77"), series=SeriesUID("1.2.77.1"))
    assert min(due_ids(stepped)) > max(before)


def test_what_was_closed_by_hand_is_not_sent(stepped: SteppedStore) -> None:
    job = stepped.done("pacs")
    deliveries.mark_confirmed(stepped.store, due_ids(stepped)[:1], "response")
    assert deliveries.close_of_job(stepped.store, job.id, "wrong PACS") == 1
    assert states(stepped) == [DeliveryState.CONFIRMED, DeliveryState.CLOSED]
    assert kinds(stepped)[-1] == "delivery_closed"


def test_oldest_job_first_and_its_results_together(stepped: SteppedStore) -> None:
    first = stepped.done("pacs")
    second = stepped.done("pacs", series=SeriesUID("1.2.3.9"))
    assert [row.job_id for row in deliveries.due(stepped.store)] == [first.id] * 2 + [second.id] * 2


def test_the_database_refuses_a_second_delivery_of_a_result_to_a_destination(stepped: SteppedStore) -> None:
    stepped.done("pacs", results=1)
    columns = [column for column in t.Delivery.__table__.c if column.name != "id"]
    with pytest.raises(IntegrityError, match="UNIQUE"), stepped.store.write() as connection:
        connection.execute(insert(t.Delivery).from_select(columns, select(*columns)))
    results = [column for column in t.Result.__table__.c if column.name != "id"]
    with pytest.raises(IntegrityError, match="UNIQUE"), stepped.store.write() as connection:
        connection.execute(insert(t.Result).from_select(results, select(*results)))
    with pytest.raises(IntegrityError, match="is_known"), stepped.store.write() as connection:
        connection.exec_driver_sql("UPDATE delivery SET state = 'lost'")


def test_an_alarm_stands_until_somebody_acknowledges_it(stepped: SteppedStore) -> None:
    stepped.done("pacs", results=1)
    deliveries.mark_refused(stepped.store, due_ids(stepped), "no")
    (alarm,) = open_alarms(stepped.store)
    acknowledge(stepped.store, alarm.id, by="admin")
    assert open_alarms(stepped.store) == ()
    assert kinds(stepped)[-1] == "acknowledged"
    with pytest.raises(NoSuchAlarm):
        acknowledge(stepped.store, alarm.id, by="admin")


def test_the_same_alarm_again_counts_and_does_not_pile_up(stepped: SteppedStore) -> None:
    stepped.done("pacs", results=1)
    ids = due_ids(stepped)
    for _ in range(3):
        deliveries.mark_refused(stepped.store, ids, "no")
        with stepped.store.write() as connection:
            connection.execute(update(t.Delivery).values(state=DeliveryState.DUE))
    (alarm,) = open_alarms(stepped.store)
    assert alarm.times == 3
