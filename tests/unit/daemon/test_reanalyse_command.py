"""`anomalyd reanalyse`: which series, how many, and why some are left as they are."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from anomalyd.daemon import cli
from anomalyd.daemon.bundles import bundles_in_force, facts_in_force
from anomalyd.daemon.dispatcher.headers import Headers
from anomalyd.daemon.dispatcher.selection import Selection
from anomalyd.daemon.settings import DaemonSettings, Settings
from anomalyd.daemon.wake import Role, Waiter
from anomalyd.daemon.worker.messages import Analysed
from anomalyd.daemon.worker.publish import publish
from anomalyd.ids import InstanceUID, SeriesUID
from anomalyd.storage import audit, deliveries, objects, queue
from anomalyd.storage.audit import AuditEvent, AuditKind
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import Job, Priority
from anomalyd.storage.publication import NewResult
from anomalyd.storage.retention import sweep
from anomalyd.storage.series import close_series, receiving_series
from anomalyd.storage.tables import JobState
from anomalyd.storage.withdrawing import enqueue_notes
from arrivals import Arrivals
from part10_objects import part10_object
from phantoms import PhantomWriter, WrittenSeries
from tiny_bundle import tiny_bundle

Run = Callable[..., tuple[int, str, str]]
EVER = ("--since", "2020-01-01")
PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    tiny_bundle(folder / "first", threshold=0.2)
    tiny_bundle(folder / "second", threshold=0.3)
    return folder


@pytest.fixture
def series(tmp_path: Path) -> WrittenSeries:
    return PhantomWriter(spacing_mm=(8.0, 2.5, 2.5)).write(tmp_path / "in")


@pytest.fixture
def run(store: Store, bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command under a configuration in which `second` is in force, or what `bundle` names."""

    def run(*arguments: str, bundle: str = "second") -> tuple[int, str, str]:
        config = tmp_path / "config.yaml"
        facts = {
            "storage": {"root": str(store.root), "disk_floor": "1 MB"},
            "pipeline": {"bundles": [str(bundles / bundle)]},
        }
        config.write_text(json.dumps(facts))
        capsys.readouterr()  # of what the test did before
        code = cli.run([*arguments, "--config", str(config)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def settings_of(store: Store, bundle: Path) -> Settings:
    return Settings.model_validate({"pipeline": {"bundles": [bundle]}, "storage": {"root": store.root}})


def queued(store: Store, bundle: Path, series: WrittenSeries) -> Job:
    with Arrivals(store) as arrivals:
        arrivals.take(series.files)
    (row,) = receiving_series(store)
    assert close_series(store, row, "quiet", "")
    settings = settings_of(store, bundle).pipeline
    Selection(store, Headers(store), settings, bundles_in_force(settings)).sweep()
    (job,) = queue.jobs_of_series(store, series.study_uid, series.series_uid)
    return job


def done(store: Store, daemon: DaemonSettings | None = None) -> Job:
    """The one queued job, finished with one result."""
    lease = queue.lease(store, "worker-1", 60.0)
    assert lease is not None
    uid = InstanceUID(f"2.25.{lease.job.id}1")
    (file,) = objects.write_results(store, [part10_object(uid)])
    made = NewResult("heatmap", "1.2.840.10008.5.1.4.1.1.7", uid, SeriesUID(f"2.25.{lease.job.id}"), file)
    publish(store, lease, Analysed((made,), {"lesions": []}), daemon or DaemonSettings(), 3)
    return queue.job(store, lease.job.id)


def asked(run: Run, *arguments: str, bundle: str = "second") -> list[dict[str, object]]:
    code, out, err = run("reanalyse", *arguments, "--json", bundle=bundle)
    assert code == 0, err
    found: list[dict[str, object]] = json.loads(out)["series"]
    return found


def test_an_outdated_answer_is_counted_then_queued_and_once(
    store: Store, bundles: Path, series: WrittenSeries, run: Run
) -> None:
    queued(store, bundles / "first", series)
    old = done(store)
    assert asked(run, *EVER, bundle="first") == []
    code, out, _ = run("reanalyse", *EVER, "--dry-run")
    assert (code, out.splitlines()[-1]) == (0, "1 series would be analysed again, 0 left as they are")
    assert len(queue.jobs(store)) == 1
    assert "1 series queued to be analysed again, 0 left as they are" in run("reanalyse", *EVER)[1]
    new, before = queue.jobs(store)
    assert (new.bundle_id, new.state, new.priority) == ("second", JobState.QUEUED, Priority.BATCH)
    assert (before.id, before.superseded_by) == (old.id, new.id)
    assert new.instance_set == old.instance_set
    assert asked(run, *EVER) == []
    assert [one["left_alone"] for one in asked(run, *EVER, bundle="first")] == [f"job {new.id} is queued"]


def test_a_series_that_is_named_is_always_told_of(store: Store, bundles: Path, series: WrittenSeries, run: Run) -> None:
    queued(store, bundles / "second", series)
    done(store)
    (one,) = asked(run, "--series", series.series_uid)
    assert one["left_alone"] == "its answer is of the bundle and the settings in force"
    code, out, _ = run("reanalyse", "--series", "1.2.3.4")
    assert code == 1
    assert "1.2.3.4: not known, or not chosen for analysis" in out


def test_images_that_are_not_kept_any_more_are_seen(
    store: Store, bundles: Path, series: WrittenSeries, run: Run
) -> None:
    queued(store, bundles / "first", series)
    done(store)
    assert len(sweep(store, timedelta(0))) == 1
    (one,) = asked(run, *EVER)
    assert one["left_alone"] == f"{len(series.files)} of its images are not kept any more"
    assert len(queue.jobs(store)) == 1


def test_a_withdrawn_answer_does_not_come_back(store: Store, bundles: Path, series: WrittenSeries, run: Run) -> None:
    daemon = DaemonSettings.model_validate({"destinations": [PACS]})
    queued(store, bundles / "first", series)
    for again in (False, True):
        if again:
            asked(run, *EVER)
        job = done(store, daemon)
        ids = [row.id for row in deliveries.deliveries(store, job_id=job.id)]
        deliveries.mark_sent(store, ids)
        deliveries.mark_confirmed(store, ids, "response")
    assert len(enqueue_notes(store, ["pacs"])) == 1
    (one,) = asked(run, *EVER, bundle="first")
    assert one["left_alone"] == "the answer of first (job 1) was withdrawn, its UIDs cannot come back"


def test_what_was_asked_for_is_sent_however_old_the_series_is(
    store: Store, bundles: Path, series: WrittenSeries, run: Run
) -> None:
    daemon = DaemonSettings.model_validate({"destinations": [PACS], "max_result_age": "1 ms"})
    queued(store, bundles / "first", series)
    assert deliveries.deliveries(store, job_id=done(store, daemon).id) == ()
    asked(run, *EVER)
    assert len(deliveries.deliveries(store, job_id=done(store, daemon).id)) == 1


def test_a_role_that_runs_with_another_bundle_is_to_be_restarted_first(
    store: Store, bundles: Path, series: WrittenSeries, run: Run
) -> None:
    queued(store, bundles / "first", series)
    done(store)
    pipeline = settings_of(store, bundles / "first").pipeline
    facts = {"role": "worker", **facts_in_force(bundles_in_force(pipeline), pipeline)}
    audit.record(store, AuditEvent(kind=AuditKind.STARTED_ROLE, at=store.clock(), detail=facts))
    with Waiter(store.root, Role.WORKER):
        code, _, err = run("reanalyse", *EVER)
    assert code == 1
    assert "the worker runs with other bundles or settings than the configuration names: restart it" in err
    assert len(asked(run, *EVER)) == 1  # it does not run now, and will start with these


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--series UID, or --since T"),
        (("--series", "1.2", "--since", "1 d"), "--series UID, or --since T"),
        (("--since", "yesterday"), '2026-01-31, "2026-01-31 14:05" or an age as "2 h"'),
        (("--series", "1..2"), "digits in groups separated by single dots are expected"),
    ],
)
def test_which_must_be_said_in_a_known_form(arguments: tuple[str, ...], words: str, run: Run) -> None:
    code, _, err = run("reanalyse", *arguments)
    assert code == 2
    said = " ".join(err.replace("│", " ").split())
    assert words in said
