"""A second look with a new bundle: asked for, beside the old result, which is then withdrawn where notes are taken.

All three roles run as processes; one destination takes rejection notes, the other does not.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from highdicom.ko import KeyObjectSelection
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import KeyObjectSelectionDocumentStorage

from anomalyd.pipeline.terms import DEFAULT_KINDS
from anomalyd.storage import audit, deliveries, queue
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import JobKind
from anomalyd.storage.queue import Job
from anomalyd.storage.tables import DeliveryState, JobState
from phantoms import PhantomWriter, WrittenSeries, insert_lesion
from running import ReceivingPacs, RunningDaemon
from tiny_bundle import made_up_brain, tiny_bundle
from waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # two starts of a worker
LIMIT_S = 400.0
WITH_NOTES = [*DEFAULT_KINDS, "rejection_note"]


@dataclass(frozen=True)
class Run:
    """What one run left behind; the roles are still there."""

    series: WrittenSeries
    pacs: ReceivingPacs
    other_pacs: ReceivingPacs
    daemon: RunningDaemon
    store: Store
    dry_run: dict[str, Any]
    too_early: str
    asked: dict[str, Any]
    asked_again: dict[str, Any]

    def jobs(self) -> tuple[Job, ...]:
        """First answer, second answer, note."""
        return queue.jobs_of_series(self.store, self.series.study_uid, self.series.series_uid)

    def note(self) -> Dataset:
        """The one rejection note at the destination that takes them."""
        (note,) = (ds for ds in self.pacs.datasets() if ds.SOPClassUID == KeyObjectSelectionDocumentStorage)
        return note


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("second-look")
    tiny_bundle(folder / "first", threshold=0.2)
    tiny_bundle(folder / "second", threshold=0.25)
    head = insert_lesion(made_up_brain(noise=5.0), (25.0, 20.0, 15.0), 9.0, 60.0)
    series = PhantomWriter(spacing_mm=(4.0, 2.0, 2.0)).write_volume(head, folder / "in")
    pacs, other = ReceivingPacs(folder / "pacs"), ReceivingPacs(folder / "other", ae_title="OTHER", name="other")
    daemon = RunningDaemon(
        folder / "run",
        destinations=[pacs, other],
        daemon={
            "series_quiet_period": 1,
            "destinations": [{**pacs.destination, "send": WITH_NOTES}, other.destination],
        },
        pipeline={"bundles": [str(folder / "first")], "threads": 1},
    )
    with pacs, other, daemon:
        assert set(daemon.send(series.files)) == {0}
        daemon.wait_until_ended(series.series_uid, limit_s=LIMIT_S)
        daemon.configuration["pipeline"]["bundles"] = [str(folder / "second")]
        daemon.write_configuration()
        ask = ("reanalyse", "--since", "1 d")
        too_early = daemon.command(*ask).stderr
        daemon.stop()
        daemon.start("gateway")
        daemon.start("dispatcher")
        dry_run = json.loads(daemon.command(*ask, "--dry-run", "--json").stdout)
        asked = json.loads(daemon.command(*ask, "--json").stdout)
        daemon.start("worker")
        store = daemon.open_store()
        running = Run(series, pacs, other, daemon, store, dry_run, too_early, asked, {})
        wait_until(lambda: _is_withdrawn(running), limit_s=LIMIT_S, what="the note confirmed")
        again = json.loads(daemon.command(*ask, "--json").stdout)
        yield Run(series, pacs, other, daemon, store, dry_run, too_early, asked, again)
        store.close()


def _is_withdrawn(run: Run) -> bool:
    jobs = run.jobs()
    rows = deliveries.deliveries(run.store, job_id=jobs[-1].id)
    is_note = jobs[-1].kind is JobKind.REJECTION_NOTE
    return is_note and bool(rows) and all(row.state is DeliveryState.CONFIRMED for row in rows)


def _sent(run: Run, job: Job, destination: str) -> list[deliveries.DeliveryRow]:
    return [row for row in deliveries.deliveries(run.store, job_id=job.id) if row.destination == destination]


def test_nothing_is_analysed_again_unasked_and_not_while_old_roles_run(run: Run) -> None:
    assert "runs with other bundles or settings than the configuration names: restart it" in run.too_early
    (found,) = run.dry_run["series"]
    assert (found["series_uid"], found["job"], found["new_job"]) == (run.series.series_uid, 1, None)
    assert (found["bundle_id"], found["new_bundle_id"], found["left_alone"]) == ("first", "second", "")


def test_asked_for_it_gives_a_new_result_series_whose_report_names_the_old(run: Run) -> None:
    assert [one["new_job"] for one in run.asked["series"]] == [2]
    assert run.asked_again["series"] == []
    first, second, _ = run.jobs()
    assert (first.superseded_by, second.state) == (second.id, JobState.DONE)
    old, new = (queue.results_of(run.store, job.id) for job in (first, second))
    assert not {row.sop_instance_uid for row in old} & {row.sop_instance_uid for row in new}
    assert not {row.series_uid for row in old} & {row.series_uid for row in new}
    (report,) = (row for row in new if row.kind == "sr")
    (sent,) = (ds for ds in run.pacs.datasets() if ds.SOPInstanceUID == report.sop_instance_uid)
    (named,) = (
        document.ReferencedSOPInstanceUID
        for study in sent.PredecessorDocumentsSequence
        for series in study.ReferencedSeriesSequence
        for document in series.ReferencedSOPSequence
    )
    assert named == next(row.sop_instance_uid for row in old if row.kind == "sr")


def test_the_note_lists_every_old_object_and_comes_last(run: Run) -> None:
    first, second, note = run.jobs()
    content = KeyObjectSelection.from_sequence([run.note()])
    assert content[0].name == codes.DCM.RejectedForQualityReasons
    listed = {str(item.referenced_sop_instance_uid) for item in content.get_references()}
    assert listed == {row.sop_instance_uid for row in _sent(run, first, "pacs")}
    assert run.note().StudyInstanceUID == run.series.study_uid
    assert run.note().SeriesNumber == 309
    places = {uid: place for place, uid in enumerate(run.pacs.stores)}
    (delivered,) = deliveries.deliveries(run.store, job_id=note.id)
    assert places[delivered.sop_instance_uid] > max(places[row.sop_instance_uid] for row in _sent(run, second, "pacs"))
    assert run.pacs.stores.count(delivered.sop_instance_uid) == 1


def test_only_who_takes_notes_gets_one(run: Run) -> None:
    assert KeyObjectSelectionDocumentStorage not in {ds.SOPClassUID for ds in run.other_pacs.datasets()}
    assert len(run.jobs()) == 3


def test_explain_tells_who_took_the_place_of_what_and_names_the_note(run: Run) -> None:
    shown = " ".join(run.daemon.command("explain", run.series.series_uid).stdout.split())
    objects = len(_sent(run, run.jobs()[0], "pacs"))
    for words in (
        "job 1 superseded by job 2, which has another bundle",
        "takes the place of job 1 (another bundle; that was bundle first); its report names that of job 1",
        f"job 3 queued: a rejection note for the {objects} results of job 1 at pacs, replaced by job 2",
        "1 rejection_note confirmed at pacs",
    ):
        assert words in shown
    assert audit.verify(run.store).problems == ()
    (delivered,) = deliveries.deliveries(run.store, job_id=3)
    assert run.daemon.command("explain", delivered.sop_instance_uid).returncode == 0


def test_back_to_the_first_bundle_is_told_to_be_impossible(run: Run) -> None:
    run.daemon.configuration["pipeline"]["bundles"] = [str(run.daemon.root.parent / "first")]
    run.daemon.write_configuration()
    run.daemon.stop()
    (one,) = json.loads(run.daemon.command("reanalyse", "--since", "1 d", "--json").stdout)["series"]
    assert one["new_job"] is None
    assert one["left_alone"] == "the answer of first (job 1) was withdrawn, its UIDs cannot come back"
