"""The queue against a model of it: any order of arrivals, closes, leases, deaths, late finishes, retries by hand."""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from anomalyd.ids import SeriesUID
from anomalyd.storage import audit, deliveries, queue
from anomalyd.storage.tables import DeliveryState, JobState, SeriesState
from stored import STUDY, SteppedStore, open_stepped

MAX_ATTEMPTS = 3
LEASE_S = 60.0
NAMES = [SeriesUID("1.2.3.1"), SeriesUID("1.2.3.2")]
OPEN = {JobState.QUEUED, JobState.LEASED}


@dataclass
class ModelJob:
    """What the model knows of a job."""

    id: int
    series: SeriesUID
    images: int
    state: JobState = JobState.QUEUED
    token: int = 0
    attempts: int = 0
    until: float = 0.0
    not_before: float = 0.0
    superseded_by: int | None = None
    published: int = 0


@dataclass
class ModelSeries:
    """What the model knows of a series."""

    images: int = 0
    state: SeriesState | None = None
    jobs: dict[int, ModelJob] = field(default_factory=dict)
    """By the number of images that it was made of."""


class QueueMachine(RuleBasedStateMachine):
    """Each rule does one thing to the store and to the model; the invariants compare them."""

    leases: Bundle[queue.Lease] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.stepped: SteppedStore = open_stepped(Path(self.folder.name))
        self.store = self.stepped.store
        self.series = {name: ModelSeries() for name in NAMES}
        self.now = 0.0

    def teardown(self) -> None:
        assert audit.verify(self.store).is_intact
        self.store.close()
        self.folder.cleanup()

    @initialize(target=leases)
    def two_series_are_queued_and_one_is_leased(self) -> queue.Lease | MultipleResults[queue.Lease]:
        for name in NAMES:
            self.images_make_a_job(name, 1)
        return self.a_worker_leases()

    # Images and the dispatcher

    @rule(seconds=st.sampled_from([59.0, 61.0, 7200.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.stepped.clock.step(seconds)

    @rule(name=st.sampled_from(NAMES), images=st.integers(0, 1))
    def images_make_a_job(self, name: SeriesUID, images: int) -> None:
        model = self.series[name]
        for _ in range(images):
            self.image_arrives(name)
        if model.state is SeriesState.RECEIVING:
            self.stepped.close(series=name)
        self.job_is_made(name, model.images)

    @rule(name=st.sampled_from(NAMES))
    def an_image_comes_after_the_choice(self, name: SeriesUID) -> None:
        chosen = self.stepped.new_job(self.stepped.row(STUDY, name))
        self.image_arrives(name)
        with pytest.raises(queue.SeriesChanged):
            queue.enqueue(self.store, chosen)

    @precondition(lambda self: any(len(model.jobs) > 1 for model in self.series.values()))
    @rule(data=st.data())
    def an_older_choice_is_made_again(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, model in self.series.items() if len(model.jobs) > 1]))
        images = data.draw(st.sampled_from(sorted(self.series[name].jobs)))
        if self.series[name].state is not SeriesState.RECEIVING:
            self.job_is_made(name, images)

    def image_arrives(self, name: SeriesUID) -> None:
        model = self.series[name]
        model.images += 1
        model.state = SeriesState.RECEIVING
        self.stepped.arrive(model.images, series=name)

    def job_is_made(self, name: SeriesUID, images: int) -> None:
        """Of the first so many images of the series."""
        model = self.series[name]
        row = replace(self.stepped.row(STUDY, name), arrivals=images)
        made = queue.enqueue(self.store, self.stepped.new_job(row, arrivals=None))
        model.state = SeriesState.QUEUED
        current = model.jobs.setdefault(images, ModelJob(made.id, name, images, not_before=self.now))
        assert made.id == current.id
        if current.superseded_by is not None:
            current.superseded_by = None
            if current.state is JobState.SUPERSEDED:
                current.state, current.attempts, current.not_before = JobState.QUEUED, 0, self.now
        for job in model.jobs.values():
            if job is not current and job.superseded_by is None:
                job.superseded_by = current.id
                job.state = JobState.SUPERSEDED if job.state in OPEN else job.state

    @rule()
    def the_dead_are_reaped(self) -> None:
        queue.reap(self.store, MAX_ATTEMPTS)
        for job in self.jobs():
            if job.state is JobState.LEASED and job.until < self.now:
                job.state = JobState.FAILED if job.attempts >= MAX_ATTEMPTS else JobState.QUEUED
                job.not_before = self.now

    # Workers, some of them back from the dead

    @rule(target=leases)
    def a_worker_leases(self) -> queue.Lease | MultipleResults[queue.Lease]:
        lease = queue.lease(self.store, "worker", LEASE_S, max_attempts=MAX_ATTEMPTS)
        ready = [job for job in self.jobs() if self.is_ready(job)]
        assert (lease is None) == (not ready)
        if lease is None:
            return multiple()
        job = min(ready, key=lambda job: job.id)
        assert lease.job.id == job.id
        job.state, job.token, job.attempts, job.until = (
            JobState.LEASED,
            job.token + 1,
            job.attempts + 1,
            self.now + LEASE_S,
        )
        assert lease.token == job.token
        return lease

    @rule(lease=leases)
    def a_worker_lives(self, lease: queue.Lease) -> None:
        job = self.held(lease)
        assert queue.heartbeat(self.store, lease, LEASE_S) == (job is not None)
        if job:
            job.until = self.now + LEASE_S

    @rule(lease=leases, results=st.integers(0, 2))
    def a_worker_finishes(self, lease: queue.Lease, results: int) -> None:
        job = self.held(lease)
        made = self.stepped.results(lease.job, results)
        if job is None:
            with pytest.raises(queue.LeaseLost):
                queue.finish(self.store, lease, JobState.DONE, made, ["pacs"], report={"lesions": []})
            return
        queue.finish(self.store, lease, JobState.DONE, made, ["pacs"], report={"lesions": []})
        job.state, job.published = JobState.DONE, max(job.published, results)

    @rule(lease=leases, retryable=st.booleans())
    def a_worker_fails(self, lease: queue.Lease, *, retryable: bool) -> None:
        job = self.held(lease)
        if job is None:
            with pytest.raises(queue.LeaseLost):
                queue.fail(self.store, lease, "no", retryable=retryable, max_attempts=MAX_ATTEMPTS)
            return
        queue.fail(self.store, lease, "no", retryable=retryable, max_attempts=MAX_ATTEMPTS)
        job.state = JobState.QUEUED if retryable and job.attempts < MAX_ATTEMPTS else JobState.FAILED
        job.not_before = (queue.job(self.store, job.id).not_before - self.stepped.clock.now).total_seconds() + self.now

    @rule(lease=leases)
    def a_worker_stops(self, lease: queue.Lease) -> None:
        job = self.held(lease)
        assert queue.release(self.store, lease, "told to stop") == (job is not None)
        if job:
            job.state, job.attempts, job.not_before = JobState.QUEUED, job.attempts - 1, self.now

    # By hand

    @precondition(lambda self: bool(self.jobs()))
    @rule(data=st.data(), verb=st.sampled_from(["retry", "cancel"]))
    def by_hand(self, data: st.DataObject, verb: str) -> None:
        job = data.draw(st.sampled_from(self.jobs()))
        if verb == "retry":
            is_possible = (
                job.state in {JobState.FAILED, JobState.WITHHELD, JobState.CANCELLED} and not job.superseded_by
            )
            after = JobState.QUEUED
        else:
            is_possible = job.state in OPEN | {JobState.FAILED}
            after = JobState.CANCELLED
        command = queue.retry_job if verb == "retry" else queue.cancel_job
        if not is_possible:
            with pytest.raises(queue.NotPossible):
                command(self.store, job.id)
            return
        command(self.store, job.id)
        job.state = after
        if verb == "retry":
            job.attempts, job.not_before = 0, self.now

    # What must hold at any time

    @invariant()
    def the_store_is_what_the_model_says(self) -> None:
        stored = {job.id: job for job in queue.jobs(self.store)}
        assert set(stored) == {job.id for job in self.jobs()}
        for job in self.jobs():
            row = stored[job.id]
            seen = (row.state, row.token, row.attempts, row.superseded_by)
            assert seen == (job.state, job.token, job.attempts, job.superseded_by)

    @invariant()
    def what_is_published_is_delivered_and_nothing_else(self) -> None:
        for job in self.jobs():
            rows = deliveries.deliveries(self.store, job_id=job.id)
            assert len(rows) == job.published == len(queue.results_of(self.store, job.id))
            wanted = DeliveryState.CLOSED if job.superseded_by else DeliveryState.DUE
            assert {row.state for row in rows} <= {wanted}

    @invariant()
    def each_series_is_where_it_must_be(self) -> None:
        for name, model in self.series.items():
            if model.state is not None:
                assert self.stepped.row(STUDY, name).state is model.state

    # The model

    def jobs(self) -> list[ModelJob]:
        return [job for series in self.series.values() for job in series.jobs.values()]

    def is_ready(self, job: ModelJob) -> bool:
        is_free = job.state is JobState.QUEUED and job.not_before <= self.now
        is_lost = job.state is JobState.LEASED and job.until < self.now
        return (is_free or is_lost) and job.attempts < MAX_ATTEMPTS

    def held(self, lease: queue.Lease) -> ModelJob | None:
        """The job of a lease whose token is in force."""
        (job,) = [job for job in self.jobs() if job.id == lease.job.id]
        return job if job.state is JobState.LEASED and job.token == lease.token else None


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
