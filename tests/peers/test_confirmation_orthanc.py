"""Storage commitment and queries with Orthanc: it confirms our results, we answer for the images that it sends us."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from anomalyd.storage import audit, deliveries
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.tables import DeliveryState
from conftest import RequirePeer
from part10_objects import part10_object
from phantoms import PhantomWriter
from ports import free_port
from rows import STUDY, add_finished_job
from running import RunningDaemon
from running_orthanc import Orthanc, running_orthanc
from waiting import wait_until

pytestmark = pytest.mark.peer
LIMIT_S = 60.0


@pytest.fixture
def us() -> int:
    """The port of the node ANOMALYD that Orthanc knows."""
    return free_port()


@pytest.fixture
def orthanc(tmp_path: Path, requires_peer: RequirePeer, us: int) -> Iterator[Orthanc]:
    node = {"AET": "ANOMALYD", "Host": "127.0.0.1", "Port": us, "AllowStorageCommitment": True}
    with running_orthanc(requires_peer("Orthanc"), tmp_path / "orthanc", DicomModalities={"us": node}) as peer:
        yield peer


@contextmanager
def daemon_beside(orthanc: Orthanc, us: int, root: Path, **changes: object) -> Iterator[tuple[RunningDaemon, Store]]:
    """Gateway and dispatcher under the port that Orthanc knows."""
    to = {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom, **changes}
    sender = {"ae_title": "ORTHANC", "report_to": {"host": "127.0.0.1", "port": orthanc.dicom}}
    daemon = RunningDaemon(
        root, roles=("gateway", "dispatcher"),
        daemon={"port": us, "destinations": [to], "accept_from": [sender], "delivery": {"back_off_first": 1}},
    )  # fmt: skip
    daemon.port = us
    with daemon:
        store = open_store(StorageSettings(root=daemon.store_root, disk_floor=0))
        try:
            yield daemon, store
        finally:
            store.close()


def states(store: Store) -> set[DeliveryState]:
    return {row.state for row in deliveries.deliveries(store)}


def test_orthanc_commits_to_our_results_and_we_to_its_images(orthanc: Orthanc, us: int, tmp_path: Path) -> None:
    with daemon_beside(orthanc, us, tmp_path / "run", confirm="commitment") as (daemon, store):
        assert "its report reached the gateway" in daemon.command("check").stdout
        made = add_finished_job(store, heatmaps=20)
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, limit_s=LIMIT_S, what="confirmations")
        rows = list(audit.query(store, AuditFilter(kind=AuditKind.CONFIRMED)))
        assert {row.detail["how"] for row in rows} == {"storage commitment"}
        assert len(rows) == len(made.uids)

        series = PhantomWriter(spacing_mm=(8.0, 2.5, 2.5)).write(tmp_path / "in")
        names = [answer["ID"] for answer in orthanc.upload(series)]
        asked = {"Resources": names, "StorageCommitment": True, "Synchronous": True}
        job = orthanc.rest("/modalities/us/store", asked)
        transaction = job.get("StorageCommitmentTransactionUID") or job["Content"]["StorageCommitmentTransactionUID"]
        wait_until(
            lambda: orthanc.rest(f"/storage-commitment/{transaction}")["Status"] != "Pending",
            limit_s=LIMIT_S, what="our report",
        )  # fmt: skip
        report = orthanc.rest(f"/storage-commitment/{transaction}")
        assert report["Status"] == "Success"
        assert len(report["Success"]) == len(names)


def test_orthanc_confirms_by_query_what_it_has_of_a_study_that_it_knows(
    orthanc: Orthanc, us: int, tmp_path: Path
) -> None:
    changes = {"confirm": "query", "check_source": True}
    with daemon_beside(orthanc, us, tmp_path / "run", **changes) as (_, store):
        add_finished_job(store, heatmaps=5)
        wait_until(lambda: all(row.error for row in deliveries.deliveries(store)), limit_s=LIMIT_S, what="a look")
        assert states(store) <= {DeliveryState.DUE, DeliveryState.SENDING}
        assert "does not have the study" in (deliveries.deliveries(store)[0].error or "")
        orthanc.rest("/instances", _source())  # the source series arrives late
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, limit_s=LIMIT_S, what="confirmations")
        (row, *_) = audit.query(store, AuditFilter(kind=AuditKind.CONFIRMED))
        assert row.detail["how"] == "query"


def _source() -> bytes:
    """An image of the series that `add_finished_job` pretends to have analysed."""
    ds = dcmread(BytesIO(part10_object("1.2.3.1.1")))
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, f"{STUDY}.1"
    out = BytesIO()
    ds.save_as(out)
    return out.getvalue()
