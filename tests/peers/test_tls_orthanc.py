"""Orthanc with DICOM TLS: sends to a real gateway, is asked, reports back, and shows a certificate of another name."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalyd.daemon.probe import probe
from anomalyd.daemon.probe_confirmation import probe_confirmation
from anomalyd.daemon.settings import DaemonSettings, Destination
from anomalyd.ids import AETitle
from certificates import Authority, Certificate
from conftest import RequirePeer
from phantoms import PhantomWriter
from running import RunningDaemon
from running_orthanc import Orthanc, running_orthanc

pytestmark = pytest.mark.peer
NAME = "orthanc.example.org"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def theirs(authority: Authority) -> Certificate:
    return authority.issue(NAME, alternatives=(f"DNS:{NAME}",))


@pytest.fixture
def gateway(tmp_path: Path, authority: Authority) -> Iterator[RunningDaemon]:
    daemon = RunningDaemon(tmp_path / "daemon", roles=("gateway",))
    daemon.configuration["daemon"] |= {
        "accept_from": [{"ae_title": "ORTHANC", "certificate_name": NAME}],
        "tls": {**authority.issue("anomalyd").settings, "port": daemon.port},
    }
    with daemon:
        yield daemon


@pytest.fixture
def orthanc(
    tmp_path: Path, requires_peer: RequirePeer, gateway: RunningDaemon, theirs: Certificate
) -> Iterator[Orthanc]:
    with running_orthanc(
        requires_peer("Orthanc"),
        tmp_path / "orthanc",
        DicomModalities={
            "anomalyd": {"AET": "ANOMALYD", "Host": "127.0.0.1", "Port": gateway.port, "UseDicomTls": True}
        },
        DicomTlsEnabled=True,
        DicomTlsCertificate=str(theirs.certificate),
        DicomTlsPrivateKey=str(theirs.key),
        DicomTlsTrustedCertificates=str(theirs.ca),
    ) as peer:
        yield peer


def test_orthanc_sends_over_tls(gateway: RunningDaemon, orthanc: Orthanc, tmp_path: Path) -> None:
    series = PhantomWriter(spacing_mm=(24.0, 3.0, 3.0)).write(tmp_path / "series")
    names = [answer["ID"] for answer in orthanc.upload(series)]
    done = orthanc.rest("/modalities/anomalyd/store", names)
    assert (done["InstancesCount"], done["FailedInstancesCount"]) == (len(names), 0)
    gateway.stop()  # rows follow an answer within a tenth of a second, and stand when the gateway has ended
    store = gateway.open_store()
    with store.read() as connection:
        senders = connection.exec_driver_sql("SELECT calling_ae FROM audit WHERE kind = 'received'").scalars().all()
    store.close()
    assert senders == ["ORTHANC"] * len(names)


@pytest.mark.parametrize(("name", "words"), [(NAME, "accepts the association"), (None, "certificate is not accepted")])
def test_orthanc_is_called_over_tls_by_the_name_in_its_certificate(
    gateway: RunningDaemon, orthanc: Orthanc, name: str | None, words: str
) -> None:
    """Association, C-ECHO, query, and a storage commitment whose report comes back over TLS to the gateway."""
    to = {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom, "confirm": "commitment"}
    daemon = DaemonSettings.model_validate(
        {**gateway.configuration["daemon"], "destinations": [{**to, "tls": {"certificate_name": name}}]}
    )
    (destination,) = daemon.destinations
    assert isinstance(destination, Destination)
    steps = [step.text for step in probe(destination, AETitle("ANOMALYD"))]
    assert words in steps[0]
    if name is not None:
        gateway.stop()  # it learns of the destination, whose reports it takes
        gateway.configuration["daemon"]["destinations"] = [{**to, "tls": {"certificate_name": name}}]
        gateway.write_configuration()
        gateway.start("gateway")
        store = gateway.open_store()
        told = [step.text for step in probe_confirmation(destination, daemon, store)]
        store.close()
        assert "it answers queries (C-FIND, study root)" in told
        assert "it takes storage commitment, and its report reached the gateway" in told
