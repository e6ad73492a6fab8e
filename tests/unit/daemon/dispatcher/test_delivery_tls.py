"""A PACS whose TLS stands and that says nothing more, or ends in the middle: time limits hold over TLS too."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from anomalyd.daemon.dispatcher.delivery import Outcome, Parcel, Verdict, send
from anomalyd.daemon.settings import Destination
from anomalyd.ids import AETitle, InstanceUID
from certificates import Authority, Certificate
from part10_objects import part10_object

TIMEOUT_S = 2
LIMIT_S = 20.0


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Authority(tmp_path_factory.mktemp("authority")).issue("anomalyd")


Behave = Callable[[ssl.SSLSocket], None]


@pytest.fixture
def pacs(ours: Certificate) -> Iterator[Callable[[Behave], int]]:
    """`pacs(behave)`: the port of one that does this after the handshake, with TLS 1.3 and its session tickets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ours.certificate, ours.key)
    with ExitStack() as stack:

        def start(behave: Behave) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(LIMIT_S)

            def serve() -> None:
                connection, _ = listener.accept()
                with connection, context.wrap_socket(connection, server_side=True) as secured:
                    secured.settimeout(LIMIT_S)
                    behave(secured)

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join, LIMIT_S)
            return int(listener.getsockname()[1])

        yield start


def delivered(port: int, ours: Certificate, folder: Path) -> tuple[Outcome, float]:
    path = folder / "1.dcm"
    path.write_bytes(part10_object("2.25.1001", SecondaryCaptureImageStorage, value=1))
    uid, syntax = InstanceUID("2.25.1001"), str(ExplicitVRLittleEndian)
    values = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "tls": ours.settings}
    limits = dict.fromkeys(("connect_timeout", "acse_timeout", "dimse_timeout", "network_timeout"), TIMEOUT_S)
    to = Destination.model_validate({**values, **limits})
    outcomes: list[Outcome] = []
    begin = time.monotonic()
    send(
        [Parcel(1, 0, SecondaryCaptureImageStorage, uid, syntax, path)], to, AETitle("ANOMALYD"), parallel=1,
        report=lambda _, outcome: outcomes.append(outcome), stop=threading.Event(),
    )  # fmt: skip
    (outcome,) = outcomes
    return outcome, time.monotonic() - begin


def hang(connection: ssl.SSLSocket) -> None:
    """Reads until the other side has had enough."""
    while connection.recv(4096):
        pass


def end(connection: ssl.SSLSocket) -> None:
    """Goes after the first bytes."""
    connection.recv(1)


@pytest.mark.parametrize("behave", [hang, end])
def test_whoever_goes_silent_over_tls_costs_a_time_out(
    pacs: Callable[[Behave], int], ours: Certificate, tmp_path: Path, behave: Behave
) -> None:
    outcome, took_s = delivered(pacs(behave), ours, tmp_path)
    assert outcome.verdict is Verdict.RETRY
    assert took_s < LIMIT_S / 2
