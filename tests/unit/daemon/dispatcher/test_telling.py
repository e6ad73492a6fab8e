"""A series that is not chosen for analysis: a notice of it where a destination asks for one, and never of our own."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from anomalyd.daemon.dispatcher.headers import Headers
from anomalyd.daemon.dispatcher.selection import NO_HEADER, Selection
from anomalyd.daemon.worker.telling import tell
from anomalyd.errors import Broken
from anomalyd.pipeline.finding import Contrast, Model
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.storage import audit, objects, queue
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.jobs import JobKind
from anomalyd.storage.retention import purge_study
from anomalyd.storage.series import close_series, receiving_series
from anomalyd.storage.settings import StorageSettings
from arrivals import Arrivals
from phantoms import PhantomWriter, WrittenSeries
from rows import add_series

WRITER: dict[str, Any] = {"spacing_mm": (8.0, 2.5, 2.5), "contrast": Contrast.FLAIR}
MODEL = Model("t1w-test", "ab" * 32, Contrast.T1W)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(StorageSettings(root=tmp_path / "store", disk_floor=0))
    yield opened
    opened.close()


def decided(store: Store, series: WrittenSeries, *, wanted: bool = True) -> tuple[queue.Job, ...]:
    """Jobs of a series that came from SCANNER, and that there is no bundle for."""
    with Arrivals(store) as arrivals:
        arrivals.take(series.files)
    (row,) = receiving_series(store)
    assert close_series(store, row, "quiet", "")
    selection = Selection(
        store, Headers(store), PipelineSettings(), {Contrast.T1W: MODEL}, lambda sender: wanted and sender == "SCANNER"
    )
    found = selection.sweep()
    jobs = queue.jobs_of_series(store, series.study_uid, series.series_uid)
    assert found == len(jobs)
    return jobs


@pytest.mark.parametrize("is_enhanced", [False, True], ids=["classic", "enhanced"])
def test_the_worker_makes_one_image_that_says_why(store: Store, tmp_path: Path, is_enhanced: bool) -> None:  # noqa: FBT001 - a parameter
    series = PhantomWriter(**WRITER, enhanced=is_enhanced).write(tmp_path / "in")
    (job,) = decided(store, series)
    assert job.kind is JobKind.NOTICE
    made = tell(store, job, "serial")
    assert made.results == tell(store, job, "serial").results  # the same bytes: a worker may die, and another makes it
    (result,) = made.results
    assert result.kind == "ineligible"
    notice = pydicom.dcmread(io.BytesIO(objects.read_result(store, result.file.path, result.file.sha256)))
    assert made.report["status"] == "ineligible"
    assert "no bundle for this contrast" in made.report["reason"]["text"]
    assert made.report["reason"]["text"] in notice.ImageComments
    assert notice.StudyInstanceUID == series.study_uid
    assert len(notice.ReferencedImageSequence) == len(series.files)


def test_nobody_is_told_unasked(store: Store, tmp_path: Path) -> None:
    assert decided(store, PhantomWriter(**WRITER).write(tmp_path / "in"), wanted=False) == ()


@pytest.mark.parametrize("attributes", [{"Manufacturer": "anomalyd"}, {"Modality": "CT"}], ids=["made here", "no MR"])
def test_what_came_back_and_what_is_no_mr_is_never_told_of(
    store: Store, tmp_path: Path, attributes: dict[str, object]
) -> None:
    assert decided(store, PhantomWriter(**WRITER, attributes=attributes).write(tmp_path / "in")) == ()


def test_a_series_that_cannot_be_read_has_none_and_the_audit_says_so(store: Store) -> None:
    series_uid = add_series(store)
    Selection(store, Headers(store), PipelineSettings(), {Contrast.T1W: MODEL}, lambda _sender: True).sweep()
    (row,) = audit.query(store, AuditFilter(series_uid=series_uid, kind=AuditKind.REFUSED))
    assert row.detail["criterion"] == "readable"
    assert row.detail["no_notice"] == NO_HEADER


def test_images_that_were_purged_meanwhile_fail_the_notice_in_words(store: Store, tmp_path: Path) -> None:
    series = PhantomWriter(**WRITER).write(tmp_path / "in")
    (job,) = decided(store, series)
    purge_study(store, series.study_uid, "test")
    with pytest.raises(Broken, match="images of the series are not kept any more"):
        tell(store, job, "serial")
