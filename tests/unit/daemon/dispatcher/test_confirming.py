"""Is it in the PACS: asked by storage commitment or query, answered in every way that a PACS has, or not at all."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import pytest
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time by pynetdicom
    StorageCommitmentPushModel,
)

from anomalyd.daemon.dispatcher.confirming import Confirmer
from anomalyd.daemon.dispatcher.outbox import Courier
from anomalyd.daemon.settings import DaemonSettings, Destination
from anomalyd.ids import StudyUID
from anomalyd.storage import audit, confirmations, deliveries
from anomalyd.storage.alarms import open_alarms
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.engine import Store
from anomalyd.storage.tables import DeliveryState
from committing_pacs import CommittingPacs
from moving_clock import MovingClock
from pacs import Pacs
from rows import STUDY, add_finished_job

WaitUntil = Callable[..., None]
LIMIT_S = 15.0
unclosed_by_pynetdicom = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def destination(port: int, **changes: object) -> Destination:
    values: Mapping[str, object] = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port}
    quick = {"connect_timeout": 1, "acse_timeout": 1, "dimse_timeout": 2, "network_timeout": 2}
    return Destination.model_validate({**values, **quick, **changes})


@contextmanager
def delivering(store: Store, to: Destination, **confirmation: object) -> Iterator[Callable[[], None]]:
    """Courier and confirmer of one destination; gives a kick for both."""
    daemon = DaemonSettings.model_validate({"destinations": [to.model_dump()], "confirmation": confirmation})
    confirmer = Confirmer(store, to, daemon)
    courier = Courier(store, to, daemon, confirmer.kick)
    for thread in (courier, confirmer):
        thread.start()

    def kick() -> None:
        courier.kick()
        confirmer.kick()

    try:
        yield kick
    finally:
        for thread in (courier, confirmer):
            thread.stop()
        for thread in (courier, confirmer):
            thread.join()


def states(store: Store) -> set[DeliveryState]:
    return {row.state for row in deliveries.deliveries(store)}


def told(store: Store, kind: AuditKind) -> list[audit.AuditRow]:
    return list(audit.query(store, AuditFilter(kind=kind)))


def test_a_report_on_the_association_of_the_request_confirms(
    store: Store, free_port: int, wait_until: WaitUntil
) -> None:
    made = add_finished_job(store, heatmaps=20)
    with CommittingPacs(free_port) as pacs, delivering(store, destination(free_port, confirm="commitment")):
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)
        wait_until(lambda: pacs.reported == [0x0000], LIMIT_S)
    asked = [item.ReferencedSOPInstanceUID for item in pacs.requests[0].ReferencedSOPSequence]
    assert sorted(asked) == sorted(made.uids)
    assert len(told(store, AuditKind.ASKED)) == 1
    assert {row.detail["how"] for row in told(store, AuditKind.CONFIRMED)} == {"storage commitment"}
    assert len(told(store, AuditKind.CONFIRMED)) == len(made.uids)


def test_a_pacs_that_never_answers_is_asked_again_then_alarms_then_is_given_up(
    store: Store, clock: MovingClock, free_port: int, wait_until: WaitUntil
) -> None:
    made = add_finished_job(store)
    with (
        CommittingPacs(free_port, way="never") as pacs,
        delivering(store, destination(free_port, confirm="commitment"), answer_within=60, give_up_after=3600) as kick,
    ):
        for round_ in range(1, 5):
            wait_until(lambda n=round_: len(pacs.requests) == n, LIMIT_S)
            assert states(store) == {DeliveryState.SENT}
            assert bool(open_alarms(store)) == (round_ > 3)
            clock.ahead += timedelta(seconds=60 * 2 ** (round_ - 1) + 1)
            kick()
        wait_until(lambda: len(pacs.requests) == 5, LIMIT_S)
        clock.ahead += timedelta(hours=7)
        kick()
        wait_until(lambda: states(store) == {DeliveryState.GAVE_UP}, LIMIT_S)
        assert len({request.TransactionUID for request in pacs.requests}) == 5
        alarms = {alarm.subject for alarm in open_alarms(store)}
        assert alarms == {"destination pacs", f"job {made.job.id} to pacs"}
        # `anomalyd retry` sends and asks again
        pacs.way = "same"
        assert deliveries.retry_deliveries(store, made.job.id) == len(made.uids)
        kick()
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)


def test_what_is_reported_missing_is_sent_again_so_often_and_then_alarms(
    store: Store, clock: MovingClock, free_port: int, wait_until: WaitUntil
) -> None:
    made = add_finished_job(store)
    lost = made.uids[0]
    with (
        CommittingPacs(free_port, lost={lost}) as pacs,
        delivering(store, destination(free_port, confirm="commitment"), send_again=2) as kick,
    ):
        for sent in (1, 2, 3):
            wait_until(lambda n=sent: len(told(store, AuditKind.MISSING)) == n, LIMIT_S)
            assert pacs.pacs.order.count(lost) == sent
            clock.ahead += timedelta(minutes=5)
            kick()
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED, DeliveryState.GAVE_UP}, LIMIT_S)
        kick()
    assert pacs.pacs.order.count(lost) == 3
    assert pacs.pacs.order.count(made.uids[1]) == 1
    (alarm,) = open_alarms(store)
    assert "0x0112" in alarm.text
    assert alarm.kind == "delivery_unconfirmed"
    assert {row.instance_uid for row in told(store, AuditKind.MISSING)} == {lost}


def test_a_class_that_the_pacs_cannot_keep_is_not_sent_again(
    store: Store, free_port: int, wait_until: WaitUntil
) -> None:
    made = add_finished_job(store)
    with (
        CommittingPacs(free_port, lost=set(made.uids), reason=0x0122) as pacs,
        delivering(store, destination(free_port, confirm="commitment")),
    ):
        wait_until(lambda: states(store) == {DeliveryState.GAVE_UP}, LIMIT_S)
    assert len(pacs.pacs.order) == len(made.uids)


def test_a_pacs_without_the_service_alarms_at_once_and_is_asked_again_later(
    store: Store, free_port: int, wait_until: WaitUntil
) -> None:
    add_finished_job(store)
    with Pacs(free_port), delivering(store, destination(free_port, confirm="commitment")):
        wait_until(lambda: open_alarms(store), LIMIT_S)
    assert states(store) == {DeliveryState.SENT}
    (alarm,) = open_alarms(store)
    assert "does not offer storage commitment" in alarm.text
    assert confirmations.due(store, "pacs") == ()


def test_a_refused_request_is_put_again_later(
    store: Store, clock: MovingClock, free_port: int, wait_until: WaitUntil
) -> None:
    add_finished_job(store)
    with (
        CommittingPacs(free_port, refusal=0x0213) as pacs,
        delivering(store, destination(free_port, confirm="commitment")) as kick,
    ):
        wait_until(lambda: told(store, AuditKind.UNANSWERED), LIMIT_S)
        assert "resource limitation (0x0213)" in told(store, AuditKind.UNANSWERED)[0].detail["error"]
        pacs.refusal = 0x0000
        clock.ahead = timedelta(minutes=11)
        kick()
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)


@unclosed_by_pynetdicom
def test_a_pacs_restarted_in_between_is_asked_again(
    store: Store, clock: MovingClock, free_port: int, wait_until: WaitUntil
) -> None:
    add_finished_job(store)
    to = destination(free_port, confirm="commitment")
    with CommittingPacs(free_port, way="never") as first:
        with delivering(store, to):
            wait_until(lambda: first.requests, LIMIT_S)
        kept = dict(first.pacs.objects)
    with delivering(store, to) as kick:  # and so was the dispatcher
        clock.ahead = timedelta(minutes=11)
        kick()
        wait_until(lambda: told(store, AuditKind.UNANSWERED), LIMIT_S)  # it is down
        with CommittingPacs(free_port) as second:
            second.pacs.objects.update(kept)
            clock.ahead = timedelta(minutes=60)
            kick()
            wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)
            assert second.pacs.order == []


def test_a_late_report_counts_even_after_it_was_given_up(
    store: Store, clock: MovingClock, free_port: int, wait_until: WaitUntil
) -> None:
    made = add_finished_job(store)
    with (
        CommittingPacs(free_port, way="never") as pacs,
        delivering(store, destination(free_port, confirm="commitment"), give_up_after=60) as kick,
    ):
        wait_until(lambda: pacs.requests, LIMIT_S)
        clock.ahead = timedelta(hours=1)
        kick()
        wait_until(lambda: states(store) == {DeliveryState.GAVE_UP}, LIMIT_S)
        uid = pacs.requests[0].TransactionUID
        assert confirmations.record_report(store, "2.25.1", made.uids, {}) is None
        assert confirmations.record_report(store, uid, [*made.uids, "1.2.3.4"], {}) == "pacs"
        kick()
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)


def test_a_query_confirms_what_it_finds(store: Store, free_port: int, wait_until: WaitUntil) -> None:
    made = add_finished_job(store, heatmaps=5)
    with CommittingPacs(free_port) as pacs, delivering(store, destination(free_port, confirm="query")):
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)
    assert {row.detail["how"] for row in told(store, AuditKind.CONFIRMED)} == {"query"}
    assert {query.QueryRetrieveLevel for query in pacs.queries} == {"IMAGE"}
    assert len(told(store, AuditKind.CONFIRMED)) == len(made.uids)


def _waits_for_the_next_look(store: Store) -> bool:
    """The look that was asked for has ended: while it runs, the next is 10 minutes away."""
    soon = store.clock() + timedelta(minutes=5)
    return all(row.error and row.next_at < soon for row in deliveries.deliveries(store))


def test_a_query_that_finds_nothing_looks_again_before_it_counts_as_missing(
    store: Store, clock: MovingClock, free_port: int, wait_until: WaitUntil
) -> None:
    made = add_finished_job(store)
    with (
        CommittingPacs(free_port, lost=set(made.uids)) as pacs,
        delivering(store, destination(free_port, confirm="query"), send_again=0) as kick,
    ):
        for look in range(1, 4):
            wait_until(lambda n=look: len(told(store, AuditKind.ASKED)) == n, LIMIT_S)
            wait_until(lambda: _waits_for_the_next_look(store), LIMIT_S)
            assert told(store, AuditKind.MISSING) == []
            assert len(pacs.queries) == 2 * look  # one for each result series
            clock.ahead += timedelta(minutes=10)
            kick()
        wait_until(lambda: states(store) == {DeliveryState.GAVE_UP}, LIMIT_S)
    assert len(told(store, AuditKind.MISSING)) == len(made.uids)


def test_another_entity_of_the_pacs_may_be_the_one_to_ask(
    store: Store, free_ports: Callable[[], int], wait_until: WaitUntil
) -> None:
    add_finished_job(store)
    stores, answers = free_ports(), free_ports()
    ask_at = {"ae_title": "PACS_SC", "host": "127.0.0.1", "port": answers}
    with Pacs(stores) as archive, CommittingPacs(answers) as pacs:
        pacs.pacs.objects = archive.objects
        with delivering(store, destination(stores, confirm="commitment", ask_at=ask_at)):
            wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)
    assert archive.order
    assert pacs.pacs.order == []


def test_a_crash_between_answer_and_confirmation_leaves_nothing_unconfirmed_for_ever(
    store: Store, free_port: int, wait_until: WaitUntil
) -> None:
    add_finished_job(store)
    ids = [row.id for row in deliveries.due(store)]
    deliveries.mark_sent(store, deliveries.mark_sending(store, ids, timedelta(minutes=5)))
    with delivering(store, destination(free_port)):
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, LIMIT_S)


SERIES = f"{STUDY}.1"


@pytest.mark.parametrize(
    ("patient", "series", "state", "text"),
    [
        ("MADE-1", {SERIES}, DeliveryState.CONFIRMED, ""),
        ("", {SERIES}, DeliveryState.DUE, "does not have the study"),
        ("MADE-1", set(), DeliveryState.DUE, "does not have the series"),
        ("SOMEBODY ELSE", {SERIES}, DeliveryState.REFUSED, "under another PatientID"),
    ],
    ids=["as it was", "study rejected", "series rejected", "merged"],
)
def test_results_go_only_to_the_study_and_patient_that_the_images_had(
    patient: str,
    series: set[str],
    state: DeliveryState,
    text: str,
    *,
    store: Store,
    free_port: int,
    wait_until: WaitUntil,
) -> None:
    made = add_finished_job(store)
    to = destination(free_port, check_source=True)
    with CommittingPacs(free_port, patients={StudyUID(STUDY): patient}, series=series) as pacs, delivering(store, to):
        wait_until(lambda: all(row.error for row in deliveries.deliveries(store)) or not text, LIMIT_S)
        wait_until(lambda: states(store) == {state}, LIMIT_S)
    assert sorted(pacs.pacs.order) == (sorted(made.uids) if state is DeliveryState.CONFIRMED else [])
    assert all(text in (row.error or "") for row in deliveries.deliveries(store))
    assert not any(patient and patient in (row.error or "") for row in deliveries.deliveries(store))
    if state is DeliveryState.REFUSED:
        assert "MADE-1" not in open_alarms(store)[0].text


def test_a_pacs_that_takes_no_queries_is_told_apart(store: Store, free_port: int, wait_until: WaitUntil) -> None:
    add_finished_job(store)
    to = destination(free_port, check_source=True)
    with CommittingPacs(free_port, services=(StorageCommitmentPushModel,)) as pacs, delivering(store, to):
        wait_until(lambda: states(store) == {DeliveryState.REFUSED}, LIMIT_S)
    assert "takes no queries" in (deliveries.deliveries(store)[0].error or "")
    assert pacs.pacs.order == []


@unclosed_by_pynetdicom
def test_a_stop_does_not_wait_for_a_pacs_that_hangs(store: Store, free_port: int, wait_until: WaitUntil) -> None:
    add_finished_job(store)
    to = destination(free_port, confirm="commitment", dimse_timeout=60, network_timeout=60)
    with CommittingPacs(free_port, hangs=True) as pacs:
        with delivering(store, to):
            wait_until(lambda: pacs.requests, LIMIT_S)
            began = time.monotonic()
        assert time.monotonic() - began < 20
        pacs.go_on.set()
    assert states(store) == {DeliveryState.SENT}
