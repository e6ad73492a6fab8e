"""Orthanc sends to a real gateway process, as a PACS rule would do it."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anomalyd.storage.verify import verify
from conftest import RequirePeer
from phantoms import PhantomWriter, WrittenSeries
from ports import free_port
from running import RunningDaemon
from waiting import wait_until

pytestmark = pytest.mark.peer
LIMIT_S = 60.0


@dataclass(frozen=True)
class Orthanc:
    """Its REST interface on loopback."""

    port: int

    def call(self, path: str, data: bytes | dict[str, Any] | None = None) -> Any:
        body = json.dumps(data).encode() if isinstance(data, dict) else data
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body)
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:  # noqa: S310 - our own child, on loopback
            return json.loads(answer.read())

    def is_up(self) -> bool:
        try:
            self.call("/system")
        except OSError:
            return False
        return True


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path / "daemon", roles=("gateway",), daemon={"accept_from": ["ORTHANC"]}) as daemon:
        yield daemon


@pytest.fixture
def orthanc(tmp_path: Path, requires_peer: RequirePeer, gateway: RunningDaemon) -> Iterator[Orthanc]:
    program = requires_peer("Orthanc")
    folder = tmp_path / "orthanc"
    folder.mkdir()
    port = free_port()
    configuration = {
        "HttpPort": port,
        "DicomPort": free_port(),
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomModalities": {"anomalyd": ["ANOMALYD", "127.0.0.1", gateway.port]},
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration))
    with (folder / "out").open("wb") as out:
        child = subprocess.Popen([program, str(file)], stdout=out, stderr=subprocess.STDOUT)
    peer = Orthanc(port)
    try:
        wait_until(peer.is_up, limit_s=LIMIT_S, what="Orthanc answers")
        yield peer
    finally:
        child.terminate()
        child.wait(LIMIT_S)


def filled(orthanc: Orthanc, series: WrittenSeries) -> str:
    """Orthanc's name of the series, its files uploaded."""
    answers = [orthanc.call("/instances", path.read_bytes()) for path in series.files]
    return str(answers[0]["ParentSeries"])


def received(gateway: RunningDaemon) -> int:
    gateway.stop()
    store = gateway.open_store()
    verdict = verify(store)
    store.close()
    assert verdict.is_whole, verdict.problems
    return verdict.images


@pytest.mark.parametrize("is_enhanced", [False, True], ids=["classic", "enhanced"])
def test_orthanc_sends_a_series_and_sends_it_again(
    orthanc: Orthanc,
    gateway: RunningDaemon,
    tmp_path: Path,
    is_enhanced: bool,  # noqa: FBT001 - parametrised
) -> None:
    series = PhantomWriter(spacing_mm=(12.0, 3.0, 3.0), enhanced=is_enhanced).write(tmp_path / "series")
    name = filled(orthanc, series)
    for _ in range(2):
        answer = orthanc.call("/modalities/anomalyd/store", {"Resources": [name], "Synchronous": True})
        assert (answer["InstancesCount"], answer["FailedInstancesCount"]) == (len(series.files), 0)
    assert received(gateway) == len(series.files)


def test_orthanc_gets_its_echo(orthanc: Orthanc) -> None:
    orthanc.call("/modalities/anomalyd/echo", {"Timeout": 10})
