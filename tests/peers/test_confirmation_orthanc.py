"""Storage commitment and queries with Orthanc: it confirms our results, we answer for the images that it sends us."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

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
from waiting import wait_until

pytestmark = pytest.mark.peer
LIMIT_S = 60.0


@dataclass(frozen=True)
class Orthanc:
    """One that runs; ports of DICOM and HTTP, and that of the node ANOMALYD it knows."""

    dicom: int
    http: int
    us: int

    def rest(self, path: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", data=body, timeout=LIMIT_S) as answer:
            return json.loads(answer.read())

    def is_up(self) -> bool:
        try:
            self.rest("/system")
        except OSError:
            return False
        return True


@pytest.fixture
def orthanc(tmp_path: Path, requires_peer: RequirePeer) -> Iterator[Orthanc]:
    program = requires_peer("Orthanc")
    running = Orthanc(free_port(), free_port(), free_port())
    node = {"AET": "ANOMALYD", "Host": "127.0.0.1", "Port": running.us, "AllowStorageCommitment": True}
    file = tmp_path / "orthanc.json"
    file.write_text(
        json.dumps(
            {
                "HttpPort": running.http,
                "DicomPort": running.dicom,
                "DicomAet": "ORTHANC",
                "DicomAlwaysAllowStore": True,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "StorageDirectory": str(tmp_path / "storage"),
                "IndexDirectory": str(tmp_path / "storage"),
                "DicomModalities": {"us": node},
            }
        ),
        encoding="ascii",
    )
    with (tmp_path / "orthanc.out").open("wb") as log:
        child = subprocess.Popen([program, str(file)], stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(running.is_up, limit_s=LIMIT_S, what="Orthanc answers")
        yield running
    finally:
        child.terminate()
        child.wait(LIMIT_S)


@contextmanager
def daemon_beside(orthanc: Orthanc, root: Path, **changes: object) -> Iterator[tuple[RunningDaemon, Store]]:
    """Gateway and dispatcher under the port that Orthanc knows."""
    to = {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom, **changes}
    sender = {"ae_title": "ORTHANC", "report_to": {"host": "127.0.0.1", "port": orthanc.dicom}}
    daemon = RunningDaemon(
        root, roles=("gateway", "dispatcher"),
        daemon={"port": orthanc.us, "destinations": [to], "accept_from": [sender], "delivery": {"back_off_first": 1}},
    )  # fmt: skip
    daemon.port = orthanc.us
    with daemon:
        store = open_store(StorageSettings(root=daemon.store_root, disk_floor=0))
        try:
            yield daemon, store
        finally:
            store.close()


def states(store: Store) -> set[DeliveryState]:
    return {row.state for row in deliveries.deliveries(store)}


def test_orthanc_commits_to_our_results_and_we_to_its_images(orthanc: Orthanc, tmp_path: Path) -> None:
    with daemon_beside(orthanc, tmp_path / "run", confirm="commitment") as (daemon, store):
        assert "its report reached the gateway" in daemon.command("check").stdout
        made = add_finished_job(store, heatmaps=20)
        wait_until(lambda: states(store) == {DeliveryState.CONFIRMED}, limit_s=LIMIT_S, what="confirmations")
        rows = list(audit.query(store, AuditFilter(kind=AuditKind.CONFIRMED)))
        assert {row.detail["how"] for row in rows} == {"storage commitment"}
        assert len(rows) == len(made.uids)

        series = PhantomWriter(spacing_mm=(8.0, 2.5, 2.5)).write(tmp_path / "in")
        names = [orthanc.rest("/instances", path.read_bytes())["ID"] for path in series.files]
        asked = {"Resources": names, "StorageCommitment": True, "Synchronous": True}
        job = orthanc.rest("/modalities/us/store", json.dumps(asked).encode())
        transaction = job.get("StorageCommitmentTransactionUID") or job["Content"]["StorageCommitmentTransactionUID"]
        wait_until(
            lambda: orthanc.rest(f"/storage-commitment/{transaction}")["Status"] != "Pending",
            limit_s=LIMIT_S, what="our report",
        )  # fmt: skip
        report = orthanc.rest(f"/storage-commitment/{transaction}")
        assert report["Status"] == "Success"
        assert len(report["Success"]) == len(names)


def test_orthanc_confirms_by_query_what_it_has_of_a_study_that_it_knows(orthanc: Orthanc, tmp_path: Path) -> None:
    changes = {"confirm": "query", "check_source": True}
    with daemon_beside(orthanc, tmp_path / "run", **changes) as (_, store):
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
