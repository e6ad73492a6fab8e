"""Promise (issue, 4 and 5): the real series of shared/data/dicom, sent over DICOM, end as their index.csv says.

Each is analysed or refused for the right reason; nothing is decided by this test but by the index and by physics.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from anomalyd.ids import SeriesUID
from anomalyd.pipeline.bundle import bundle_identity, shipped_bundles
from anomalyd.pipeline.finding import Contrast
from anomalyd.storage.jobs import Job, jobs_of_series, results_of
from anomalyd.storage.series import SeriesRow, series_named
from anomalyd.storage.tables import JobState, SeriesState
from running import ReceivingPacs, RunningDaemon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # three analyses, on a machine that may be busy

LIMIT_S = 800.0
# What the index says in words -> the criterion that the audit row must name.
CRITERIA = {
    "derived map": "derived_map",
    "EPI/BOLD mosaic": "epi",
    "EPI/BOLD": "epi",
    "field map (phase)": "field_map",
    "field map": "field_map",
    "one slice": "slices",
    "4 slices only": "slices",
    "other body part, 4 slices": "slices",  # only the picture tells that it is a shoulder
    "localizer, one slice": "localizer",
    "no head (phantom); Raw Data object": "phantom",
}


@dataclass(frozen=True, slots=True)
class Expected:
    """One row of the index."""

    folder: str
    verdict: str
    frames: int

    @property
    def contrast(self) -> Contrast | None:
        """Of a series that is to be analysed; None for one to be refused."""
        return Contrast(self.verdict.split()[1]) if self.verdict.startswith("analyse ") else None

    @property
    def criterion(self) -> str:
        """Which criterion refuses it."""
        return "contrast" if self.contrast else CRITERIA[self.verdict.removeprefix("refuse: ")]

    @property
    def missing(self) -> bool:
        """Whether the scanner's series is not whole."""
        return "incomplete" in self.verdict


@dataclass(frozen=True, slots=True)
class Ended:
    """One series after the run."""

    row: SeriesRow
    job: Job | None
    kinds: tuple[str, ...]


def index(dicom: Path) -> tuple[Expected, ...]:
    with (dicom / "index.csv").open(newline="") as file:
        return tuple(Expected(row["folder"], row["expected"], int(row["frames"])) for row in csv.DictReader(file))


@dataclass(frozen=True, slots=True)
class Run:
    """All folders, sent, and what became of them."""

    expected: tuple[Expected, ...]
    ended: dict[str, Ended]
    refusals: dict[str, dict[str, Any]]
    pacs: ReceivingPacs


@pytest.fixture(scope="module")
def run(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One daemon takes everything, folder by folder, as one busy afternoon would bring it."""
    dicom, folder = shared_data / "dicom", tmp_path_factory.mktemp("real")
    expected = index(dicom)
    files = {one.folder: sorted((dicom / one.folder).glob("*.dcm")) for one in expected}
    series = {
        name: SeriesUID(str(pydicom.dcmread(paths[0], specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID))
        for name, paths in files.items()
    }
    pacs = ReceivingPacs(folder / "pacs")
    with pacs, RunningDaemon(folder / "daemon", destinations=[pacs]) as daemon:
        for paths in files.values():
            daemon.send(paths)
        daemon.wait_until_ended(*series.values(), limit_s=LIMIT_S)
        store = daemon.open_store()
        ended = {name: _ended(store, uid) for name, uid in series.items()}
        audit = daemon.command("audit", "--event", "refused", "--json")
        store.close()
    refusals = {row["series_uid"]: row["detail"] for row in json.loads(audit.stdout)}
    return Run(expected, ended, {name: refusals[uid] for name, uid in series.items() if uid in refusals}, pacs)


def _ended(store: Any, uid: SeriesUID) -> Ended:
    row = series_named(store, uid)[-1]
    found = jobs_of_series(store, row.study_uid, uid)
    job = found[-1] if found else None
    return Ended(row, job, tuple(result.kind for result in results_of(store, job.id)) if job else ())


def contrasts_with_a_bundle() -> frozenset[Contrast]:
    return frozenset(bundle_identity(path).contrast for path in shipped_bundles())


def test_the_index_is_known_by_heart(shared_data: Path) -> None:
    """A new kind of series in the index needs a criterion here."""
    assert all(one.criterion for one in index(shared_data / "dicom"))


def test_every_series_is_analysed_or_refused_as_the_index_says(run: Run) -> None:
    wrong = {}
    for one in run.expected:
        end = run.ended[one.folder]
        is_to_be_analysed = one.contrast in contrasts_with_a_bundle()
        if is_to_be_analysed and (end.job is None or end.job.state is not JobState.DONE):
            wrong[one.folder] = (end.row.state, end.row.reason, end.job and end.job.reason)
        if not is_to_be_analysed and end.row.state is not SeriesState.INELIGIBLE:
            wrong[one.folder] = (end.row.state, None, None)
    assert wrong == {}


def test_every_refusal_names_the_right_criterion_in_the_audit(run: Run) -> None:
    refused = [one for one in run.expected if run.ended[one.folder].row.state is SeriesState.INELIGIBLE]
    assert {one.folder: run.refusals[one.folder]["criterion"] for one in refused} == {
        one.folder: one.criterion for one in refused
    }
    assert all({"criterion", "value", "limit", "text"} <= set(run.refusals[one.folder]) for one in refused)


def test_a_contrast_without_a_bundle_is_refused_in_these_words(run: Run) -> None:
    for one in run.expected:
        if one.contrast is not None and one.contrast not in contrasts_with_a_bundle():
            assert run.refusals[one.folder]["text"].startswith(f"no bundle for this contrast ({one.contrast})")


def test_every_analysed_series_came_back_with_a_heatmap_for_each_slice(run: Run) -> None:
    heatmaps = [ds for ds in run.pacs.datasets() if ds.SOPClassUID == SecondaryCaptureImageStorage]
    for one in run.expected:
        job = run.ended[one.folder].job
        if job is not None:
            mine = {ds.SeriesInstanceUID for ds in heatmaps if ds.StudyInstanceUID == job.study_uid}
            assert run.ended[one.folder].kinds.count("heatmap") == one.frames, one.folder
            assert mine, one.folder


def test_the_missing_slice_is_told_in_the_report(run: Run) -> None:
    for one in run.expected:
        job = run.ended[one.folder].job
        if one.missing and job is not None:
            assert job.report is not None
            assert any("missing" in warning for warning in job.report["warnings"]), job.report["warnings"]
