"""When a series closes: by proof, by silence, never by a clock step; and what selection makes of it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from anomalyd.daemon.dispatcher.closing import COMPLETE, QUIET, Closing
from anomalyd.daemon.dispatcher.headers import Headers
from anomalyd.daemon.dispatcher.selection import Selection
from anomalyd.pipeline.finding import Contrast, Model
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.storage import queue
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.queue import Job
from anomalyd.storage.series import SeriesRow, series_row
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.tables import JobState, SeriesState
from arrivals import Arrivals
from phantoms import PhantomWriter, WrittenSeries

SETTLE_S, QUIET_S = 5.0, 30.0
SMALL = PhantomWriter(spacing_mm=(8.0, 2.5, 2.5))
UNPROVABLE = PhantomWriter(spacing_mm=(8.0, 2.5, 2.5), expected_count="absent")
MODEL = Model("t1w-test", "ab" * 32, Contrast.T1W)


class Clocks:
    """A monotonic clock that the test moves, and a wall clock that it moves too or sets anywhere."""

    def __init__(self) -> None:
        self.monotonic_s = 1000.0
        self.wall = datetime(2026, 1, 31, 12, tzinfo=UTC)

    def pass_s(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.wall += timedelta(seconds=seconds)

    def step_wall(self, by: timedelta) -> None:
        self.wall += by


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def store(tmp_path: Path, clocks: Clocks) -> Iterator[Store]:
    opened = open_store(StorageSettings(root=tmp_path / "store", disk_floor=0), clock=lambda: clocks.wall)
    yield opened
    opened.close()


@pytest.fixture
def arrivals(store: Store) -> Iterator[Arrivals]:
    with Arrivals(store) as open_arrivals:
        yield open_arrivals


def closing_of(store: Store, clocks: Clocks) -> Closing:
    return Closing(store, Headers(store), settle_s=SETTLE_S, quiet_s=QUIET_S, monotonic=lambda: clocks.monotonic_s)


def selection_of(store: Store, settings: PipelineSettings | None = None) -> Selection:
    return Selection(store, Headers(store), settings or PipelineSettings(), {Contrast.T1W: MODEL})


def row_of(store: Store, series: WrittenSeries) -> SeriesRow:
    row = series_row(store, series.study_uid, series.series_uid)
    assert row is not None
    return row


def jobs_of(store: Store, series: WrittenSeries) -> tuple[Job, ...]:
    return queue.jobs_of_series(store, series.study_uid, series.series_uid)


def test_a_provably_complete_series_closes_after_the_settle_time(
    store: Store, clocks: Clocks, arrivals: Arrivals, tmp_path: Path
) -> None:
    series = SMALL.write(tmp_path / "in")
    closing = closing_of(store, clocks)
    closing.sweep()
    arrivals.take(series.files)
    assert closing.sweep() == ()
    assert closing.next_due_s() == pytest.approx(SETTLE_S)
    clocks.pass_s(SETTLE_S - 0.1)
    assert closing.sweep() == ()
    clocks.pass_s(0.1)
    assert [row.series_uid for row in closing.sweep()] == [series.series_uid]
    assert row_of(store, series).close_rule == COMPLETE


def test_without_a_stated_count_a_gap_free_stack_waits_the_quiet_period(
    store: Store, clocks: Clocks, arrivals: Arrivals, tmp_path: Path
) -> None:
    series = UNPROVABLE.write(tmp_path / "in")
    closing = closing_of(store, clocks)
    closing.sweep()
    arrivals.take(series.files)
    closing.sweep()
    clocks.pass_s(QUIET_S - 0.1)
    assert closing.sweep() == ()
    clocks.pass_s(0.1)
    assert len(closing.sweep()) == 1
    assert row_of(store, series).close_rule == QUIET


def test_each_image_begins_the_wait_anew(store: Store, clocks: Clocks, arrivals: Arrivals, tmp_path: Path) -> None:
    series = SMALL.write(tmp_path / "in")
    closing = closing_of(store, clocks)
    closing.sweep()
    for path in series.files:
        arrivals.take([path])
        assert closing.sweep() == ()
        clocks.pass_s(SETTLE_S * 0.9)
    assert closing.sweep() == ()
    clocks.pass_s(SETTLE_S * 0.1)
    assert len(closing.sweep()) == 1


@pytest.mark.parametrize("step", [timedelta(days=1), timedelta(days=-1)])
def test_a_step_of_the_wall_clock_closes_nothing_and_holds_nothing(
    step: timedelta, store: Store, clocks: Clocks, arrivals: Arrivals, tmp_path: Path
) -> None:
    series = UNPROVABLE.write(tmp_path / "in")
    closing = closing_of(store, clocks)
    closing.sweep()
    arrivals.take(series.files)
    closing.sweep()
    clocks.step_wall(step)
    clocks.pass_s(QUIET_S - 0.1)
    assert closing.sweep() == ()
    clocks.pass_s(0.1)
    assert len(closing.sweep()) == 1


def test_after_a_restart_the_stored_time_counts_but_never_for_all(
    store: Store, clocks: Clocks, arrivals: Arrivals, tmp_path: Path
) -> None:
    arrivals.take(UNPROVABLE.write(tmp_path / "in").files)
    clocks.pass_s(86_400)
    closing = closing_of(store, clocks)
    assert closing.sweep() == ()
    clocks.pass_s(SETTLE_S - 0.1)
    assert closing.sweep() == ()
    clocks.pass_s(0.1)
    assert len(closing.sweep()) == 1


def test_a_restart_with_a_wall_clock_set_back_waits_the_whole_period_once(
    store: Store, clocks: Clocks, arrivals: Arrivals, tmp_path: Path
) -> None:
    arrivals.take(UNPROVABLE.write(tmp_path / "in").files)
    clocks.step_wall(timedelta(days=-1))
    closing = closing_of(store, clocks)
    closing.sweep()
    clocks.pass_s(QUIET_S)
    assert len(closing.sweep()) == 1


def test_a_closed_series_becomes_one_job_however_often_it_is_looked_at(
    store: Store, clocks: Clocks, arrivals: Arrivals, tmp_path: Path
) -> None:
    series = SMALL.write(tmp_path / "in")
    arrivals.take(series.files)
    close_all(store, clocks)
    assert selection_of(store).sweep() == 1
    assert selection_of(store).sweep() == 0
    (job,) = jobs_of(store, series)
    assert (job.state, job.contrast, job.bundle, len(job.instances)) == (
        JobState.QUEUED,
        "T1w",
        MODEL.digest,
        len(series.files),
    )


def test_late_slices_reopen_the_series_and_supersede_the_job(
    store: Store, clocks: Clocks, arrivals: Arrivals, tmp_path: Path
) -> None:
    series = UNPROVABLE.write(tmp_path / "in")
    arrivals.take(series.files[:-3])
    close_all(store, clocks)
    assert selection_of(store).sweep() == 1
    arrivals.take(series.files[-3:])
    assert row_of(store, series).state is SeriesState.RECEIVING
    close_all(store, clocks)
    assert selection_of(store).sweep() == 1
    early, late = jobs_of(store, series)
    assert early.state is JobState.SUPERSEDED
    assert early.superseded_by == late.id
    assert late.state is JobState.QUEUED
    assert early.instance_set != late.instance_set


def test_an_image_between_close_and_choice_postpones_the_choice(
    store: Store, clocks: Clocks, arrivals: Arrivals, tmp_path: Path
) -> None:
    series = UNPROVABLE.write(tmp_path / "in")
    arrivals.take(series.files[:-1])
    closing = closing_of(store, clocks)
    closing.sweep()
    clocks.pass_s(QUIET_S)
    assert len(closing.sweep()) == 1
    arrivals.take(series.files[-1:])
    assert selection_of(store).sweep() == 0
    assert row_of(store, series).state is SeriesState.RECEIVING
    assert jobs_of(store, series) == ()


def test_a_contrast_without_a_bundle_is_refused_with_that_reason(
    store: Store, clocks: Clocks, arrivals: Arrivals, tmp_path: Path
) -> None:
    series = PhantomWriter(spacing_mm=(8.0, 2.5, 2.5), contrast=Contrast.FLAIR).write(tmp_path / "in")
    arrivals.take(series.files)
    close_all(store, clocks)
    assert selection_of(store).sweep() == 0
    row = row_of(store, series)
    assert row.state is SeriesState.INELIGIBLE
    assert row.reason is not None
    assert row.reason["criterion"] == "contrast"
    assert "no bundle for this contrast" in row.reason["text"]


def test_a_refused_series_that_gets_more_images_is_judged_again(
    store: Store, clocks: Clocks, arrivals: Arrivals, tmp_path: Path
) -> None:
    series = UNPROVABLE.write(tmp_path / "in")
    arrivals.take(series.files[:2])
    close_all(store, clocks)
    selection_of(store).sweep()
    assert row_of(store, series).state is SeriesState.INELIGIBLE
    arrivals.take(series.files[2:])
    close_all(store, clocks)
    assert selection_of(store).sweep() == 1


def test_objects_that_cannot_be_read_do_not_hold_up_others(
    store: Store, clocks: Clocks, arrivals: Arrivals, tmp_path: Path
) -> None:
    good, broken = (
        SMALL.write(tmp_path / "in"),
        PhantomWriter(spacing_mm=(8, 2.5, 2.5), seed="broken").write(tmp_path / "b"),
    )
    for path in broken.files:
        path.write_bytes(path.read_bytes()[:-500])  # pixels cut short
    arrivals.take(broken.files)
    arrivals.take(good.files)
    close_all(store, clocks)
    assert selection_of(store).sweep() == 1
    reason = row_of(store, broken).reason
    assert reason is not None
    assert "truncated pixel data" in reason["text"]


def test_queued_jobs_of_settings_no_longer_in_force_are_made_anew(
    store: Store, clocks: Clocks, arrivals: Arrivals, tmp_path: Path
) -> None:
    series = SMALL.write(tmp_path / "in")
    arrivals.take(series.files)
    close_all(store, clocks)
    selection_of(store).sweep()
    changed = PipelineSettings(voxel_rate=0.01)
    assert selection_of(store, changed).renew_outdated() == 1
    old, new = jobs_of(store, series)
    assert (old.state, new.state) == (JobState.CANCELLED, JobState.QUEUED)
    assert new.settings == changed.analysis.digest
    assert selection_of(store).renew_outdated() == 1  # and back again
    old, new = jobs_of(store, series)
    assert (old.state, new.state) == (JobState.QUEUED, JobState.CANCELLED)


def test_an_older_set_that_was_cancelled_by_hand_is_not_brought_back_by_a_start(
    store: Store, clocks: Clocks, arrivals: Arrivals, tmp_path: Path
) -> None:
    series = SMALL.write(tmp_path / "in")
    arrivals.take(series.files[:-1])
    close_all(store, clocks)
    selection_of(store).sweep()
    queue.cancel_job(store, jobs_of(store, series)[0].id)
    arrivals.take(series.files[-1:])
    close_all(store, clocks)
    selection_of(store, PipelineSettings(voxel_rate=0.01)).sweep()
    assert selection_of(store).renew_outdated() == 1
    assert [job.state for job in jobs_of(store, series)] == [JobState.CANCELLED, JobState.CANCELLED, JobState.QUEUED]


def test_the_header_cache_is_bounded(store: Store, arrivals: Arrivals, tmp_path: Path) -> None:
    rows = []
    for number in range(3):
        series = PhantomWriter(spacing_mm=(8, 2.5, 2.5), seed=str(number)).write(tmp_path / str(number))
        arrivals.take(series.files)
        rows.append(row_of(store, series))
    headers = Headers(store, kept=30)
    for row in rows:
        assert headers.of(row).headers
    assert headers.count <= 30


def close_all(store: Store, clocks: Clocks) -> None:
    closing = closing_of(store, clocks)
    closing.sweep()
    clocks.pass_s(QUIET_S)
    closing.sweep()
