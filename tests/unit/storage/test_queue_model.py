"""The real store, driven through the protocol of the queue in any order: roles in pairs, slow, dead, taken for dead.

S1 to S10 are those of docs/model/README.md, where spin tries every order of a small case; here chance tries some orders
of a larger one, with attempts, back-offs, refused series and withheld scans.
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from anomalyd.ids import Digest, SeriesUID
from anomalyd.storage import audit, confirmations, deliveries, queue, retention
from anomalyd.storage.deliveries import BackOff
from anomalyd.storage.refusing import refuse_series
from anomalyd.storage.tables import DeliveryState, JobState, SeriesState
from stored import STUDY, SteppedStore, open_stepped

LEASE_S = 60.0
HOUR_S = 3600.0
SENDING_FOR = timedelta(minutes=5)
BACK_OFF = BackOff(give_up_after=timedelta(hours=12))
PATIENCE = confirmations.Patience(give_up_after=timedelta(hours=12), send_again=1)
FIRST_WAIT = timedelta(seconds=30)
KEEP_FOR = timedelta(days=1)
LOOKS = 2
MISSING = 0x0112
PACS = "pacs"
NAMES = [SeriesUID("1.2.3.1"), SeriesUID("1.2.3.2")]
LAST = NAMES[-1]
SETS = [Digest(hashlib.sha256(bytes([k])).hexdigest()) for k in range(3)]
REASON = {"criterion": "contrast", "value": "T2w", "limit": "T1w", "text": "T2w is not analysed"}
UNFINISHED = {JobState.QUEUED, JobState.LEASED}
ANSWERED = {JobState.DONE, JobState.WITHHELD, JobState.FAILED, JobState.CANCELLED}
ON_THE_WAY = {DeliveryState.DUE, DeliveryState.SENDING}
STUCK = {DeliveryState.GAVE_UP, DeliveryState.REFUSED}
ENDED = {DeliveryState.CONFIRMED, DeliveryState.CLOSED} | STUCK

Choice = queue.NewJob
Taken = tuple[deliveries.DeliveryRow, ...]
How = Literal["stored", "stored, and it dies", "lost", "failed", "refused"]
HOW: st.SearchStrategy[How] = st.sampled_from(["stored", "stored, and it dies", "lost", "failed", "refused"])


@dataclass(frozen=True, slots=True)
class Question:
    """A storage commitment that was asked for."""

    transaction_uid: str
    instance_uids: tuple[str, ...]


class QueueMachine(RuleBasedStateMachine):
    """Each rule is one transaction of one role; a bundle is what roles remember between two of them."""

    choices: Bundle[Choice] = Bundle("choices")
    leases: Bundle[queue.Lease] = Bundle("leases")
    parcels: Bundle[Taken] = Bundle("parcels")
    questions: Bundle[Question] = Bundle("questions")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.stepped: SteppedStore = open_stepped(Path(self.folder.name))
        self.store = self.stepped.store
        self.max_attempts = 3
        self.images = 0
        self.asked = 0
        self.wanted: dict[SeriesUID, Digest] = {}
        """Set of images that is chosen of the series as it is now."""
        self.newest: dict[SeriesUID, int] = {}
        """Job that was queued last."""
        self.holders: dict[int, int] = {}
        """Token in force of each leased job."""
        self.tokens: dict[int, int] = {}
        self.published: dict[int, int] = {}
        """Results of each job that stand."""
        self.given_up: set[int] = set()
        """Jobs whose deliveries a person has closed."""
        self.at_pacs: set[str] = set()
        self.acknowledged: set[str] = set()

    def teardown(self) -> None:
        try:
            self.healthy_roles_bring_all_to_an_end()
            assert audit.verify(self.store).is_intact
        finally:
            self.store.close()
            self.folder.cleanup()

    @initialize(target=leases)
    def two_series_are_queued_and_one_is_leased(self) -> queue.Lease | MultipleResults[queue.Lease]:
        for name in NAMES:
            self.images_come(name, SETS[0])
            self.a_choice_is_queued(self.a_selector_chooses(name))
        return self.a_worker_leases()

    # The sender, and time

    @rule(name=st.sampled_from(NAMES), images=st.sampled_from(SETS))
    def images_come(self, name: SeriesUID, images: Digest) -> None:
        self.images += 1
        self.stepped.arrive(self.images, series=name)
        self.wanted[name] = images

    @rule(seconds=st.sampled_from([LEASE_S + 1, 2 * HOUR_S, 13 * HOUR_S]), is_reaped=st.booleans())
    def time_passes(self, seconds: float, *, is_reaped: bool) -> None:
        self.stepped.clock.step(seconds)
        if is_reaped:
            self.the_dead_are_reaped()

    # Two dispatchers decide

    @rule(name=st.sampled_from(NAMES), images=st.sampled_from(SETS))
    def a_late_slice_is_queued(self, name: SeriesUID, images: Digest) -> None:
        self.images_come(name, images)
        self.a_choice_is_queued(self.a_selector_chooses(name))

    @rule(target=choices, name=st.sampled_from(NAMES))
    def a_selector_chooses(self, name: SeriesUID) -> Choice:
        if self.stepped.row(STUDY, name).state is SeriesState.RECEIVING:
            self.stepped.close(series=name)
        return self.stepped.new_job(self.stepped.row(STUDY, name), instance_set=self.wanted[name])

    @rule(choice=choices)
    def a_choice_is_queued(self, choice: Choice) -> None:
        name = choice.series_uid
        row = self.stepped.row(STUDY, name)
        if row.state not in {SeriesState.CLOSED, SeriesState.QUEUED} or row.arrivals != choice.arrivals:
            with pytest.raises(queue.SeriesChanged):
                queue.enqueue(self.store, choice)
            return
        job = queue.enqueue(self.store, choice)
        assert (job.instance_set, job.superseded_by) == (self.wanted[name], None)
        self.newest[name] = job.id
        self.leases_end(one.id for one in self.jobs(name) if one.id != job.id)

    def the_dead_are_reaped(self) -> None:
        for job in queue.reap(self.store, self.max_attempts):
            assert job.state is (JobState.FAILED if job.attempts >= self.max_attempts else JobState.QUEUED)
            self.leases_end([job.id])

    # Workers, some of them back from the dead

    @rule(target=leases, is_late=st.booleans())
    def a_worker_leases(self, *, is_late: bool = False) -> queue.Lease | MultipleResults[queue.Lease]:
        """is_late: when the lease of another has just run out."""
        self.stepped.clock.step((LEASE_S + 1) * is_late)
        ready = [job for job in self.jobs() if self.is_ready(job)]
        lease = queue.lease(self.store, "worker", LEASE_S, max_attempts=self.max_attempts)
        assert (lease.job.id if lease else None) == min((job.id for job in ready), default=None)
        if lease is None:
            return multiple()
        assert lease.token == self.tokens.get(lease.job.id, 0) + 1
        self.tokens[lease.job.id] = self.holders[lease.job.id] = lease.token
        return lease

    @rule()
    def a_worker_analyses(self) -> None:
        if isinstance(lease := self.a_worker_leases(), queue.Lease):
            self.a_worker_finishes(lease, JobState.DONE)

    @rule(lease=consumes(leases), state=st.sampled_from([JobState.DONE, JobState.WITHHELD]))
    def a_worker_finishes(self, lease: queue.Lease, state: Literal[JobState.DONE, JobState.WITHHELD]) -> None:
        results = self.stepped.results(lease.job)
        with self.refused_unless_in_force(lease):  # S1
            queue.finish(self.store, lease, state, results, [PACS], report={"lesions": []})
            assert lease.job.id not in self.published  # S2
            self.published[lease.job.id] = len(results)
            self.given_up.discard(lease.job.id)

    @rule(lease=consumes(leases), retryable=st.booleans())
    def a_worker_fails(self, lease: queue.Lease, *, retryable: bool) -> None:
        before = queue.job(self.store, lease.job.id).attempts
        with self.refused_unless_in_force(lease):
            after = queue.fail(self.store, lease, "no", retryable=retryable, max_attempts=self.max_attempts)
            is_over = not retryable or before >= self.max_attempts
            assert (after.state, after.attempts) == (JobState.FAILED if is_over else JobState.QUEUED, before)

    @rule(lease=leases, is_told=st.booleans())
    def a_worker_lives_or_stops(self, lease: queue.Lease, *, is_told: bool) -> None:
        is_held = self.is_in_force(lease)
        attempts = queue.job(self.store, lease.job.id).attempts
        if is_told:
            assert queue.release(self.store, lease, "told to stop") == is_held
            self.leases_end([lease.job.id] if is_held else [])
        else:
            assert queue.heartbeat(self.store, lease, LEASE_S) == is_held
        assert queue.job(self.store, lease.job.id).attempts == attempts - (is_told and is_held)

    # Two couriers

    @rule(target=parcels, limit=st.sampled_from([1, 1000]))
    def a_courier_takes(self, limit: int) -> MultipleResults[Taken]:
        rows = self.taken(limit)
        return multiple(rows) if rows else multiple()

    @rule(parcel=consumes(parcels), how=HOW)
    def a_courier_is_answered(self, parcel: Taken, how: How) -> None:
        """At once or long after, when others have sent the same."""
        ids, uids = [row.id for row in parcel], {row.sop_instance_uid for row in parcel}
        if how in {"stored", "stored, and it dies"}:
            self.at_pacs |= uids
        if how in {"stored", "lost"}:
            self.acknowledged |= uids
            deliveries.mark_sent(self.store, ids)
        elif how == "failed":
            deliveries.mark_retry(self.store, ids, "no", BACK_OFF)
        elif how == "refused":
            deliveries.mark_refused(self.store, ids, "no")
        else:
            deliveries.recover_sending(self.store)

    @rule(how=HOW)
    def a_courier_delivers(self, how: How) -> None:
        self.a_courier_is_answered(self.taken(1000), how)

    def taken(self, limit: int) -> Taken:
        rows = deliveries.due(self.store, destination=PACS, limit=limit)
        ids = tuple(row.id for row in rows)
        assert set(deliveries.mark_sending(self.store, ids, SENDING_FOR)) == set(ids)
        return rows

    # Is it in the PACS?

    @rule(target=questions)
    def the_pacs_is_asked(self) -> MultipleResults[Question]:
        return multiple(*self.new_questions())

    def new_questions(self) -> list[Question]:
        asked = []
        for _, group in groupby(confirmations.due(self.store, PACS), key=attrgetter("job_id")):
            ids = [row.id for row in group]
            self.asked += 1
            uid = f"2.25.{self.asked}"
            rows = confirmations.mark_asked(self.store, ids, "storage commitment", PATIENCE, transaction_uid=uid)
            if rows:
                asked.append(Question(uid, tuple(row.sop_instance_uid for row in rows)))
        return asked

    @rule(question=questions, is_acted_on=st.booleans())
    def the_pacs_reports(self, question: Question, *, is_acted_on: bool) -> None:
        """Once, twice, or late."""
        there = {uid for uid in question.instance_uids if uid in self.at_pacs}
        failed = {uid: MISSING for uid in question.instance_uids if uid not in there}
        assert confirmations.record_report(self.store, question.transaction_uid, there, failed) == PACS
        if is_acted_on:
            confirmations.apply_reports(self.store, PACS, FIRST_WAIT, PATIENCE)

    @rule()
    def the_pacs_is_queried(self) -> None:
        ids = [row.id for row in confirmations.due(self.store, PACS)]
        rows = confirmations.mark_asked(self.store, ids, "query", PATIENCE)
        found = [row.id for row in rows if row.sop_instance_uid in self.at_pacs]
        others = [row.id for row in rows if row.id not in found]
        confirmations.mark_found(self.store, found, others, FIRST_WAIT, PATIENCE, looks=LOOKS)

    # A person, and forgetting

    @rule(data=st.data(), is_retried=st.booleans())
    def a_job_is_retried_or_cancelled(self, data: st.DataObject, *, is_retried: bool) -> None:
        self.is_commanded(data.draw(st.sampled_from(self.jobs())), is_retried=is_retried)

    def is_commanded(self, job: queue.Job, *, is_retried: bool) -> None:
        if is_retried:
            is_off = job.state in {JobState.FAILED, JobState.WITHHELD, JobState.CANCELLED}
            is_possible, command, after = is_off and job.superseded_by is None, queue.retry_job, JobState.QUEUED
        else:
            is_possible = job.state in UNFINISHED | {JobState.FAILED}
            command, after = queue.cancel_job, JobState.CANCELLED
        if not is_possible:
            with pytest.raises(queue.NotPossible):
                command(self.store, job.id)
            return
        assert command(self.store, job.id).state is after
        self.leases_end([job.id])
        self.published.pop(job.id, None)  # a withheld scan is judged again, under the same UIDs

    @rule()
    def all_deliveries_are_retried(self) -> None:
        stuck = Counter(row.job_id for row in deliveries.deliveries(self.store) if row.state in STUCK)
        for job in self.jobs():
            wanted = 0 if job.superseded_by else stuck[job.id]
            assert deliveries.retry_deliveries(self.store, job.id) == wanted

    @rule(data=st.data())
    def deliveries_are_closed(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs()))
        deliveries.close_of_job(self.store, job.id, "closed by hand")
        self.given_up.add(job.id)

    @rule(limit=st.integers(1, 3))
    def the_limit_of_attempts_is_set(self, limit: int) -> None:
        self.max_attempts = limit

    @rule(name=st.sampled_from(NAMES), how=st.sampled_from(["refused", "purged", "expired"]))
    def a_series_is_not_wanted_any_more(self, name: SeriesUID, how: str) -> None:
        if how == "refused":
            row = self.stepped.row(STUDY, name)
            assert refuse_series(self.store, row, REASON) == (row.state is not SeriesState.INELIGIBLE)
            if row.state is not SeriesState.INELIGIBLE:
                self.leases_end(job.id for job in self.jobs(name))
        elif how == "purged":
            retention.purge_study(self.store, STUDY, "a test")
            self.leases_end(job.id for job in self.jobs())
            self.published.clear()
            assert deliveries.deliveries(self.store) == ()
        else:
            self.what_nobody_waits_for_expires()

    def what_nobody_waits_for_expires(self) -> None:
        before = {job.id: deliveries.deliveries(self.store, job_id=job.id) for job in self.jobs()}
        for gone in retention.sweep(self.store, KEEP_FOR):
            newest = self.newest[gone.series_uid]
            is_there = all(row.sop_instance_uid in self.at_pacs for row in before[newest])
            is_cancelled = queue.job(self.store, newest).state is JobState.CANCELLED
            assert is_there or is_cancelled or newest in self.given_up  # S9
            for job in self.jobs(gone.series_uid):
                self.published.pop(job.id, None)

    # What must hold at any time

    @invariant()
    def what_must_hold_does(self) -> None:
        jobs, rows, newest = self.jobs(), deliveries.deliveries(self.store), set(self.newest.values())
        assert len({(job.series_uid, job.instance_set) for job in jobs}) == len(jobs)  # S3
        assert {job.id for job in jobs if job.state in UNFINISHED or job.superseded_by is None} <= newest  # S4
        assert {row.job_id for row in rows if row.state in ON_THE_WAY} <= newest
        assert {job.id: job.token for job in jobs if job.state is JobState.LEASED} == self.holders
        assert {row.sop_instance_uid for row in rows if row.state is DeliveryState.CONFIRMED} <= self.at_pacs  # S5
        assert {row.sop_instance_uid for row in rows if row.state is DeliveryState.SENT} <= self.acknowledged  # S6
        of_jobs = Counter(row.job_id for row in rows)
        assert {job_id: of_jobs[job_id] for job_id in self.published} == self.published  # S8

    # S10: from wherever chance has led, healthy roles come to an end

    @rule()
    def healthy_roles_bring_all_to_an_end(self) -> None:
        for _ in range(4):  # an object that the PACS has lost is sent twice, and a dead dispatcher's time is over first
            self.stepped.clock.step(2 * HOUR_S)
            for name in self.wanted:
                choice = self.a_selector_chooses(name)
                if self.stepped.row(STUDY, name).state is SeriesState.CLOSED:
                    self.a_choice_is_queued(choice)
            self.the_dead_are_reaped()
            for _ in NAMES:
                self.a_worker_analyses()
            self.a_courier_delivers("stored")
            for question in self.new_questions():
                self.the_pacs_reports(question, is_acted_on=True)
            if {row.state for row in deliveries.deliveries(self.store)} <= ENDED:
                break
        assert {job.state for job in self.jobs()} <= ANSWERED | {JobState.SUPERSEDED}
        assert {row.state for row in deliveries.deliveries(self.store)} <= ENDED
        for name in self.wanted:
            row = self.stepped.row(STUDY, name)
            assert row.state in {SeriesState.QUEUED, SeriesState.INELIGIBLE}
            newest = queue.job(self.store, self.newest[name])
            if row.state is SeriesState.QUEUED:
                assert (newest.instance_set, newest.superseded_by) == (self.wanted[name], None)
                assert newest.state in ANSWERED
            if newest.id in self.published and newest.id not in self.given_up:
                rows = deliveries.deliveries(self.store, job_id=newest.id)
                assert DeliveryState.CLOSED not in {one.state for one in rows}

    # What the rules look at

    def jobs(self, name: SeriesUID | None = None) -> list[queue.Job]:
        return [job for job in reversed(queue.jobs(self.store)) if name in {None, job.series_uid}]

    def is_ready(self, job: queue.Job) -> bool:
        now = self.stepped.clock.now
        is_free = job.state is JobState.QUEUED and job.not_before <= now
        is_lost = job.state is JobState.LEASED and job.lease_until is not None and job.lease_until < now
        return (is_free or is_lost) and job.attempts < self.max_attempts

    @contextmanager
    def refused_unless_in_force(self, lease: queue.Lease) -> Iterator[None]:
        if self.is_in_force(lease):
            yield
            self.leases_end([lease.job.id])
        else:
            with pytest.raises(queue.LeaseLost):
                yield

    def is_in_force(self, lease: queue.Lease) -> bool:
        return self.holders.get(lease.job.id) == lease.token

    def leases_end(self, job_ids: Iterable[int]) -> None:
        for job_id in job_ids:
            self.holders.pop(job_id, None)


def an_old_set_is_tried_beside_the_newer(machine: QueueMachine, _lease: queue.Lease) -> None:
    machine.is_commanded(machine.jobs(LAST)[0], is_retried=False)
    machine.a_late_slice_is_queued(LAST, SETS[1])
    machine.is_commanded(machine.jobs(LAST)[0], is_retried=True)


def a_limit_is_lowered_below_what_a_job_has_had(machine: QueueMachine, lease: queue.Lease) -> None:
    machine.a_worker_fails(lease, retryable=True)
    machine.the_limit_of_attempts_is_set(1)


def a_worker_is_back_from_the_dead(machine: QueueMachine, lease: queue.Lease) -> None:
    machine.a_worker_leases(is_late=True)
    machine.a_worker_finishes(lease, JobState.DONE)


def a_late_slice_comes_before_results_are_sent(machine: QueueMachine, _lease: queue.Lease) -> None:
    machine.a_worker_analyses()
    machine.a_late_slice_is_queued(LAST, SETS[1])


def refused_results_of_a_superseded_job_are_retried(machine: QueueMachine, _lease: queue.Lease) -> None:
    machine.a_worker_analyses()
    machine.a_courier_delivers("refused")
    machine.a_late_slice_is_queued(LAST, SETS[1])
    machine.all_deliveries_are_retried()


def results_of_a_superseded_job_are_missing(machine: QueueMachine, _lease: queue.Lease) -> None:
    machine.a_worker_analyses()
    machine.a_courier_delivers("lost")
    (question,) = machine.new_questions()
    machine.a_late_slice_is_queued(LAST, SETS[1])
    machine.the_pacs_reports(question, is_acted_on=True)


def a_slow_courier_fails_where_another_has_sent(machine: QueueMachine, _lease: queue.Lease) -> None:
    machine.a_worker_analyses()
    slow = machine.taken(1000)
    machine.time_passes(2 * HOUR_S, is_reaped=False)
    machine.a_courier_delivers("stored")
    machine.a_late_slice_is_queued(LAST, SETS[1])
    machine.a_courier_is_answered(slow, "failed")


def a_courier_dies_with_its_dispatcher(machine: QueueMachine, _lease: queue.Lease) -> None:
    machine.a_worker_analyses()
    machine.taken(1000)


@pytest.mark.parametrize(
    "story",
    [
        an_old_set_is_tried_beside_the_newer, a_limit_is_lowered_below_what_a_job_has_had,
        a_worker_is_back_from_the_dead, refused_results_of_a_superseded_job_are_retried,
        results_of_a_superseded_job_are_missing, a_slow_courier_fails_where_another_has_sent,
        a_courier_dies_with_its_dispatcher, a_late_slice_comes_before_results_are_sent,
    ],
)  # fmt: skip
def test_what_chance_seldom_meets(story: Callable[[QueueMachine, queue.Lease], None]) -> None:
    """The ways to errors that spin has found without a guard, gone by the real store."""
    machine = QueueMachine()
    try:
        lease = machine.two_series_are_queued_and_one_is_leased()
        assert isinstance(lease, queue.Lease)
        story(machine, lease)
        machine.what_must_hold_does()
    finally:
        machine.teardown()


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=20, stateful_step_count=50, deadline=None)
