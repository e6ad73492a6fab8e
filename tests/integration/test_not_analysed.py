"""A scan that the bundle cannot judge is told in the study: over real roles, from the last image to the PACS."""

from pathlib import Path

import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from anomalyd.storage import deliveries, queue
from anomalyd.storage.tables import DeliveryState, JobState
from phantoms import PhantomWriter
from running import ReceivingPacs, RunningDaemon
from tiny_bundle import made_up_brain, tiny_bundle

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
