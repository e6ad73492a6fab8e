"""The heavy half of the worker on a real store with a tiny bundle: same bytes each time, and all ways to have none."""

import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from anomalyd.daemon.bundles import bundles_in_force
from anomalyd.daemon.dispatcher.headers import Headers
from anomalyd.daemon.dispatcher.selection import Selection
from anomalyd.daemon.settings import Settings
from anomalyd.daemon.worker.analysis import Analyst
from anomalyd.daemon.worker.messages import Analysed, WithheldScan
from anomalyd.errors import Broken, Ineligible
from anomalyd.pipeline.finding import Stage
from anomalyd.storage import objects, queue
from anomalyd.storage.engine import Store
from anomalyd.storage.jobs import Job
from anomalyd.storage.retention import purge_study
from anomalyd.storage.series import close_series, receiving_series
from arrivals import Arrivals
from phantoms import PhantomWriter, WrittenSeries, insert_lesion
from tiny_bundle import made_up_brain, tiny_bundle

WRITER = PhantomWriter(spacing_mm=(4.0, 2.0, 2.0))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    tiny_bundle(path, threshold=0.2)
    return path


def settings_of(store: Store, bundle: Path, **pipeline: Any) -> Settings:
    return Settings.model_validate(
        {
            "pipeline": {"bundles": [bundle], "device": "cpu", "threads": 1, **pipeline},
            "storage": {"root": store.root, "disk_floor": 0},
        }
    )


def queued(store: Store, settings: Settings, series: WrittenSeries) -> Job:
    """The job that the dispatcher makes of the series."""
    with Arrivals(store) as arrivals:
        arrivals.take(series.files)
    (row,) = receiving_series(store)
    assert close_series(store, row, "quiet", "")
    Selection(store, Headers(store), settings.pipeline, bundles_in_force(settings.pipeline)).sweep()
    (job,) = queue.jobs_of_series(store, series.study_uid, series.series_uid)
    return job


@pytest.fixture
def series(tmp_path: Path) -> WrittenSeries:
    head = insert_lesion(made_up_brain(noise=5.0), (25.0, 20.0, 15.0), 9.0, 60.0)
    return WRITER.write_volume(head, tmp_path / "in")


@pytest.fixture
def stages() -> list[Stage]:
    return []


def test_the_same_job_makes_the_same_bytes_again(
    store: Store, bundle: Path, series: WrittenSeries, stages: list[Stage]
) -> None:
    """A job that is run again (its worker died before the commit) publishes what the first run would have."""
    settings = settings_of(store, bundle)
    job = queued(store, settings, series)
    first = Analyst(settings).analyse(job, stages.append)
    second = Analyst(settings).analyse(job, stages.append)
    assert isinstance(first, Analysed)
    assert isinstance(second, Analysed)
    assert first.results == second.results  # UIDs, digests, file names
    assert {result.kind for result in first.results} == {"heatmap", "summary", "seg", "sr"}
    for result in first.results:
        assert objects.read_result(store, result.file.path, result.file.sha256)
    assert first.report["status"] == "analysed"
    assert first.report["series_instance_uid"] == series.series_uid
    assert first.report["provenance"]["reference_age_years"] == [20.0, 60.0]
    assert not any("reference" in warning for warning in first.report["warnings"])  # the phantom is 46
    assert set(first.report["timings_s"]) == {stage.value for stage in Stage}
    assert [stage for stage in stages if stage is Stage.READ] == [Stage.READ, Stage.READ]


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")  # deepbet's way to load
def test_warm_up_finds_nothing_wrong_with_a_sound_bundle(store: Store, bundle: Path) -> None:
    ready = Analyst(settings_of(store, bundle)).warm_up()
    assert "deepbet" in sys.modules  # the canary is taken for a head, so brain extraction is warm, too
    assert ready.trouble == ""
    assert ready.device == "cpu"


def test_a_scan_that_the_bundle_cannot_judge_is_withheld_with_a_whole_report(
    store: Store, tmp_path: Path, series: WrittenSeries, stages: list[Stage]
) -> None:
    strict = tmp_path / "strict"
    tiny_bundle(strict, similarity=1.1, ages=(2.0, 12.0))
    settings = settings_of(store, strict)
    answer = Analyst(settings).analyse(queued(store, settings, series), stages.append)
    assert isinstance(answer, WithheldScan)
    assert answer.report["status"] == "withheld"
    assert answer.report["reason"]["text"] == answer.text
    (notice,) = answer.results
    assert notice.kind == "not_analysed"
    said = pydicom.dcmread(BytesIO(objects.read_result(store, notice.file.path, notice.file.sha256)))
    assert answer.text in said.ImageComments
    assert any("older than the healthy reference" in warning for warning in answer.report["warnings"])


def test_pixels_that_do_not_decode_are_ineligible(
    store: Store, bundle: Path, tmp_path: Path, stages: list[Stage]
) -> None:
    from pydicom.uid import RLELossless  # noqa: PLC0415 - of this test alone

    compressed = replace(WRITER, transfer_syntax=RLELossless).write_volume(made_up_brain(), tmp_path / "in")
    broken = bytearray(compressed.files[20].read_bytes())
    broken[-40:-8] = bytes(32)
    start = broken.index(b"\xe0\x7f\x10\x00")
    broken[start + 40 : start + 104] = b"\xff" * 64  # the RLE header's segment offsets
    compressed.files[20].write_bytes(broken)
    settings = settings_of(store, bundle)
    job = queued(store, settings, compressed)
    with pytest.raises(Ineligible):
        Analyst(settings).analyse(job, stages.append)


def test_a_job_of_other_settings_or_another_bundle_is_not_done(
    store: Store, bundle: Path, tmp_path: Path, series: WrittenSeries, stages: list[Stage]
) -> None:
    job = queued(store, settings_of(store, bundle), series)
    with pytest.raises(Broken, match="other settings"):
        Analyst(settings_of(store, bundle, voxel_rate=0.01)).analyse(job, stages.append)
    other = tmp_path / "other"
    tiny_bundle(other, threshold=0.9)
    with pytest.raises(Broken, match="not in force"):
        Analyst(settings_of(store, other)).analyse(job, stages.append)


def test_a_job_whose_images_were_purged_says_so(
    store: Store, bundle: Path, series: WrittenSeries, stages: list[Stage]
) -> None:
    settings = settings_of(store, bundle)
    job = queued(store, settings, series)
    purge_study(store, series.study_uid, "test")
    with pytest.raises(Broken, match="purged"):
        Analyst(settings).analyse(job, stages.append)
