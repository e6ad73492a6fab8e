"""DICOM TLS with dcmtk, both ways and both versions: good, expired, unknown and wrong-name certificates, and none."""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from anomalyd.daemon import cli
from anomalyd.daemon.dispatcher.outbox import Courier
from anomalyd.daemon.settings import DaemonSettings, Destination
from anomalyd.storage import deliveries
from anomalyd.storage.engine import Store
from anomalyd.storage.tables import DeliveryState
from certificates import EXPIRED, Authority, Certificate
from conftest import RequirePeer
from phantoms import PhantomWriter
from ports import free_port
from rows import add_finished_job
from running import RunningDaemon
from waiting import wait_until

pytestmark = pytest.mark.peer
LIMIT_S = 60.0
VERSIONS = ("TLSv1.2", "TLSv1.3")
NAME = "mr1.example.org"


@dataclass(frozen=True)
class Certificates:
    """Everybody's."""

    ours: Certificate
    scanner: Certificate
    expired: Certificate
    unknown: Certificate
    wrong_name: Certificate


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("authority")
    known, other = Authority(folder / "known"), Authority(folder / "other", "Other CA")
    elsewhere = known.issue("elsewhere.example.org", alternatives=("DNS:elsewhere.example.org",))
    return Certificates(
        known.issue("anomalyd"), known.issue(NAME), known.issue("expired", days=EXPIRED), other.issue(NAME), elsewhere
    )


@pytest.fixture(params=VERSIONS)
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Of dcmtk, so that it speaks this version of TLS and no other."""
    path = tmp_path / "openssl.cnf"
    only = f"MinProtocol={request.param}\nMaxProtocol={request.param}\n"
    path.write_text(f"openssl_conf=a\n[a]\nssl_conf=b\n[b]\nsystem_default=c\n[c]\n{only}")
    return {**os.environ, "OPENSSL_CONF": str(path), "TCP_NODELAY": "1"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[RunningDaemon]:
    """A real process: TLS alone, one AE title, bound to a name."""
    daemon = RunningDaemon(tmp_path_factory.mktemp("gateway") / "daemon", roles=("gateway",))
    daemon.configuration["daemon"] |= {
        "accept_from": [{"ae_title": "STORESCU", "certificate_name": NAME}],
        "tls": {**certificates.ours.settings, "port": daemon.port},
        "log": {"level": "debug"},
    }
    with daemon:
        yield daemon


Storescu = Callable[[Certificate | None], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def storescu(
    gateway: RunningDaemon,
    certificates: Certificates,
    folder: Path,
    requires_peer: RequirePeer,
    environment: dict[str, str],
) -> Storescu:
    """`storescu(certificate)` sends the folder; None: TLS without a certificate."""
    program = requires_peer("storescu")

    def send(own: Certificate | None) -> "subprocess.CompletedProcess[str]":
        known = str(certificates.ours.ca)
        tls = ["+tla", "-ic"] if own is None else ["+tls", str(own.key), str(own.certificate), "+cf", known]
        titles = ["-v", "-aet", "STORESCU", "-aec", "ANOMALYD"]
        return subprocess.run(
            [program, *titles, *tls, "-R", "+sd", "127.0.0.1", str(gateway.port), str(folder)],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            env=environment,
        )

    return send


def said(gateway: RunningDaemon, since: int) -> list[dict[str, object]]:
    return [json.loads(line) for line in gateway.log_text("gateway")[since:].splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return PhantomWriter(spacing_mm=(24.0, 3.0, 3.0)).write(tmp_path_factory.mktemp("series")).folder


def stored(gateway: RunningDaemon) -> int:
    """Rows of instances: they follow the answers within a tenth of a second."""
    store = gateway.open_store()
    with store.read() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM instance").scalar_one()
    store.close()
    return int(count)


def test_storescu_with_a_good_certificate_stores(
    gateway: RunningDaemon,
    certificates: Certificates,
    folder: Path,
    storescu: Storescu,
    request: pytest.FixtureRequest,
) -> None:
    before = len(gateway.log_text("gateway"))
    run = storescu(certificates.scanner)
    assert run.returncode == 0, run.stdout + run.stderr
    versions = [line["version"] for line in said(gateway, before) if line["event"] == "connection.secured"]
    assert versions == [request.node.callspec.params["environment"]]
    sent = len(list(folder.glob("*.dcm")))
    wait_until(lambda: stored(gateway) == sent, limit_s=LIMIT_S, what="a row for each")


REFUSED = {
    "expired": "its certificate is not accepted: certificate has expired",
    "unknown": "its certificate is not accepted: unable to get local issuer certificate",
    "wrong_name": "no certificate that holds the certificate_name of this AE title in accept_from",
    "none": "it shows no certificate",
}


@pytest.mark.parametrize("whose", REFUSED)
def test_storescu_with_any_other_is_refused_with_the_reason(
    gateway: RunningDaemon, certificates: Certificates, storescu: Storescu, whose: str
) -> None:
    before = len(gateway.log_text("gateway"))
    assert storescu(getattr(certificates, whose, None)).returncode != 0
    wait_until(
        lambda: REFUSED[whose] in [line.get("reason") for line in said(gateway, before)],
        limit_s=LIMIT_S,
        what=f"a line that says {REFUSED[whose]}",
    )


def test_storescu_without_tls_is_refused(gateway: RunningDaemon, folder: Path, requires_peer: RequirePeer) -> None:
    before = len(gateway.log_text("gateway"))
    command = [requires_peer("storescu"), "-aet", "STORESCU", "-aec", "ANOMALYD", "+sd", "127.0.0.1"]
    run = subprocess.run([*command, str(gateway.port), str(folder)], capture_output=True, timeout=LIMIT_S, check=False)
    assert run.returncode != 0
    wait_until(
        lambda: "no TLS on the port of DICOM TLS" in [line.get("reason") for line in said(gateway, before)],
        limit_s=LIMIT_S,
        what="the line that says so",
    )


StartScp = Callable[[Certificate | None], tuple[int, Path]]


@pytest.fixture
def storescp(
    tmp_path: Path, certificates: Certificates, requires_peer: RequirePeer, environment: dict[str, str]
) -> Iterator[StartScp]:
    """`storescp(certificate)`: a PACS that wants certificates of our authority; None: one without TLS. Port, folder."""
    program = requires_peer("storescp")
    with ExitStack() as stack:

        def start(own: Certificate | None) -> tuple[int, Path]:
            port, kept = free_port(), tmp_path / "kept"
            kept.mkdir()
            tls = ["+tls", str(own.key), str(own.certificate), "+cf", str(certificates.ours.ca)] if own else []
            child = subprocess.Popen(
                [program, "-aet", "PACS", "-od", str(kept), *tls, str(port)],
                env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(child.wait, LIMIT_S)
            stack.callback(child.terminate)
            wait_until(lambda: is_open(port), limit_s=LIMIT_S, what="storescp listens")
            return port, kept

        yield start


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def delivered(store: Store, port: int, tls: dict[str, object], until: Callable[[], bool]) -> None:
    """Runs a courier for results of one job until the condition holds."""
    values = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "tls": tls}
    to = Destination.model_validate({**values, "acse_timeout": 10, "network_timeout": 10})
    add_finished_job(store, heatmaps=2)
    running = Courier(store, to, DaemonSettings(destinations=(to,)))
    running.start()
    try:
        wait_until(until, limit_s=LIMIT_S, what="the outcome of the delivery")
    finally:
        running.stop()
        running.join()


def states(store: Store) -> set[DeliveryState]:
    return {row.state for row in deliveries.deliveries(store)}


def test_results_reach_a_storescp_over_tls(store: Store, storescp: StartScp, certificates: Certificates) -> None:
    port, kept = storescp(certificates.ours)
    delivered(store, port, certificates.ours.settings, lambda: bool(states(store)) and states(store) <= DELIVERED)
    assert len(list(kept.iterdir())) == len(deliveries.deliveries(store))


DELIVERED = {DeliveryState.SENT, DeliveryState.CONFIRMED}
NOT_SENT = {
    "expired": ("expired", "ours", "its certificate is not accepted: certificate has expired"),
    "unknown": ("unknown", "ours", "its certificate is not accepted: unable to get local issuer certificate"),
    "wrong name": ("wrong_name", "ours", "its certificate is not accepted: IP address mismatch"),
    "no TLS": (None, "ours", "no TLS with PACS"),
    "ours expired": ("ours", "expired", "no TLS with PACS"),
}


@pytest.mark.parametrize("case", NOT_SENT)
def test_nothing_is_sent_to_whom_it_is_not_meant_for(
    store: Store, storescp: StartScp, certificates: Certificates, case: str
) -> None:
    theirs, own, words = NOT_SENT[case]
    port, kept = storescp(getattr(certificates, theirs) if theirs else None)
    tls = getattr(certificates, own).settings
    delivered(store, port, tls, lambda: any(words in (row.error or "") for row in deliveries.deliveries(store)))
    assert states(store) == {DeliveryState.DUE}, "tried again: a certificate can be renewed"
    assert not list(kept.iterdir())


def test_check_and_send_speak_tls(
    tmp_path: Path, storescp: StartScp, certificates: Certificates, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port, kept = storescp(certificates.wrong_name)
    config = tmp_path / "config.yaml"
    to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port}
    named = {**to, "name": "named", "tls": {"certificate_name": "elsewhere.example.org"}}
    daemon = {"accept_from": ["MR1"], "tls": certificates.ours.settings, "destinations": [{**to, "tls": True}, named]}
    config.write_text(json.dumps({"daemon": daemon, "storage": {"root": str(tmp_path / "root"), "disk_floor": 1}}))
    cli.run(["check", "--config", str(config)])
    out = " ".join(capsys.readouterr().out.split())
    assert "destination pacs: no TLS with it: its certificate is not accepted: IP address mismatch" in out
    assert "accepts the association of ANOMALYD with PACS over TLSv1." in out
    target = ["send", str(folder), "--to", f"127.0.0.1:{port}", "--called-aet", "PACS", "--config", str(config)]
    assert cli.run([*target, "--tls"]) == 1
    assert "no TLS with PACS" in capsys.readouterr().out
    assert cli.run([*target, "--tls", "--certificate-name", "elsewhere.example.org"]) == 0
    assert len(list(kept.iterdir())) == len(list(folder.glob("*.dcm")))
