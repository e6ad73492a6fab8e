"""A series without a result is told in the study: over real roles, from the last image to the PACS."""

from pathlib import Path

import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from anomalyd.pipeline.finding import Contrast
from anomalyd.storage import deliveries, queue
from anomalyd.storage.engine import Store
from anomalyd.storage.tables import DeliveryState, JobState
from phantoms import PhantomWriter
from running import ReceivingPacs, RunningDaemon
from tiny_bundle import made_up_brain, tiny_bundle
from waiting import wait_until

pytestmark = pytest.mark.slow
LIMIT_S = 200.0


def test_a_withheld_scan_brings_one_image_that_says_why(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "strict", similarity=1.1)  # which no scan can reach
    series = PhantomWriter(spacing_mm=(4.0, 2.0, 2.0)).write_volume(made_up_brain(noise=5.0), tmp_path / "in")
    pacs = ReceivingPacs(tmp_path / "pacs")
    daemon = RunningDaemon(
        tmp_path / "run",
        destinations=[pacs],
        daemon={"series_quiet_period": 1},
        pipeline={"bundles": [str(tmp_path / "strict")], "threads": 1},
    )
    with pacs, daemon:
        assert set(daemon.send(series.files)) == {0}
        daemon.wait_until_ended(series.series_uid, limit_s=LIMIT_S)
        store = daemon.open_store()
        (job,) = queue.jobs_of_series(store, series.study_uid, series.series_uid)
        states = [row.state for row in deliveries.deliveries(store, job_id=job.id)]
        store.close()
        explained = " ".join(daemon.command("explain", series.series_uid).stdout.split())
    assert job.state is JobState.WITHHELD
    assert states == [DeliveryState.CONFIRMED]
    (notice,) = pacs.datasets()
    assert (notice.SOPClassUID, notice.StudyInstanceUID) == (SecondaryCaptureImageStorage, series.study_uid)
    assert job.reason
    assert job.reason in notice.ImageComments
    assert "withheld its result" in explained
    assert "made 1 not_analysed" in explained


def test_a_series_that_was_not_chosen_is_told_where_that_is_asked_for(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "t1w")
    series = PhantomWriter(spacing_mm=(8.0, 2.5, 2.5), contrast=Contrast.FLAIR).write(tmp_path / "in")
    pacs, other = (ReceivingPacs(tmp_path / name, name=name) for name in ("pacs", "other"))
    asked = {**pacs.destination, "send": ["seg", "heatmap", "not_analysed", "ineligible"]}
    daemon = RunningDaemon(
        tmp_path / "run",
        daemon={"destinations": [asked, other.destination], "series_quiet_period": 1},
        pipeline={"bundles": [str(tmp_path / "t1w")], "threads": 1},
    )
    with pacs, other, daemon:
        assert set(daemon.send(series.files)) == {0}
        store = daemon.open_store()
        wait_until(lambda: confirmed(store), limit_s=LIMIT_S, what="the notice is in the PACS")
        (job,) = queue.jobs_of_series(store, series.study_uid, series.series_uid)
        store.close()
        explained = " ".join(daemon.command("explain", series.series_uid).stdout.split())
    assert job.state is JobState.DONE
    assert other.stores == []
    (notice,) = pacs.datasets()
    assert (notice.SOPClassUID, notice.StudyInstanceUID) == (SecondaryCaptureImageStorage, series.study_uid)
    assert "Not analysed: no bundle for this contrast" in notice.ImageComments
    assert "not analysed: no bundle for this contrast" in explained
    assert "made 1 ineligible" in explained
    assert "1 ineligible confirmed at pacs" in explained


def confirmed(store: Store) -> bool:
    return [row.state for row in deliveries.deliveries(store)] == [DeliveryState.CONFIRMED]
