"""Orthanc sends to a real gateway process, as a PACS rule would do it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalyd.storage.verify import verify
from conftest import RequirePeer
from phantoms import PhantomWriter
from running import RunningDaemon
from running_orthanc import Orthanc, running_orthanc

pytestmark = pytest.mark.peer


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path / "daemon", roles=("gateway",), daemon={"accept_from": ["ORTHANC"]}) as daemon:
        yield daemon


@pytest.fixture
def orthanc(tmp_path: Path, requires_peer: RequirePeer, gateway: RunningDaemon) -> Iterator[Orthanc]:
    modalities = {"anomalyd": ["ANOMALYD", "127.0.0.1", gateway.port]}
    with running_orthanc(requires_peer("Orthanc"), tmp_path / "orthanc", DicomModalities=modalities) as peer:
        yield peer


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
    name = orthanc.upload(series)[0]["ParentSeries"]
    for _ in range(2):
        answer = orthanc.rest("/modalities/anomalyd/store", {"Resources": [name], "Synchronous": True})
        assert (answer["InstancesCount"], answer["FailedInstancesCount"]) == (len(series.files), 0)
    assert received(gateway) == len(series.files)


def test_orthanc_gets_its_echo(orthanc: Orthanc) -> None:
    orthanc.rest("/modalities/anomalyd/echo", {"Timeout": 10})
