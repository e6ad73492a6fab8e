"""Thousands of short, broken and hostile visits leave the gateway as it was: threads, descriptors, memory."""

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from certificates import Authority
from images import image, uid_of
from raw_scu import MR_CONTEXT, VERIFICATION, Ended, RawAssociation, associate_request, echo_message, store_message
from running import RunningDaemon
from waiting import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.slow]
BOTH = ((VERIFICATION, ExplicitVRLittleEndian), *MR_CONTEXT)
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512)
WARM, VISITS = 300, 1800
GROWTH_LIMIT_KB = 8_000
LIMIT_S = 60.0


def connect_and_close(port: int, number: int) -> None:
    del number
    socket.create_connection(("127.0.0.1", port)).close()


def tls_on_a_plain_port(port: int, number: int) -> None:
    del number
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(TLS_HELLO)


def ask_and_leave(port: int, number: int) -> None:
    del number
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(associate_request())


def echo(port: int, number: int) -> None:
    del number
    with RawAssociation(port, contexts=BOTH) as scu:
        assert scu.ask(echo_message()) == 0x0000
        scu.release()


def store(port: int, number: int) -> None:
    with RawAssociation(port, contexts=BOTH) as scu:
        assert scu.store(image(number, pixels=bytes(50_000)), uid_of(number), context_id=3) == 0x0000
        scu.release()


def break_off(port: int, number: int) -> None:
    with RawAssociation(port) as scu:
        scu.socket.sendall(store_message(image(number, pixels=bytes(200_000)), uid_of(number))[:100_000])


def abort(port: int, number: int) -> None:
    del number
    with RawAssociation(port) as scu:
        scu.socket.sendall(b"\x07\0\0\0\0\x04\0\0\0\0")


Visitor = Callable[[int, int], None]
VISITORS: tuple[Visitor, ...] = (
    connect_and_close, tls_on_a_plain_port, ask_and_leave, echo, store, break_off, abort,
)  # fmt: skip


def over_tls(authority: Authority) -> tuple[Visitor, ...]:
    """What comes to a port of TLS: images, half an image, no certificate, half a handshake, plain DICOM, nothing."""
    known = authority.issue("scanner")
    trusted = ssl.create_default_context(cafile=known.ca)
    trusted.load_cert_chain(known.certificate, known.key)
    unknown = ssl.create_default_context(cafile=known.ca)

    def store_over_tls(port: int, number: int) -> None:
        with RawAssociation(port, tls=trusted) as scu:
            assert scu.store(image(number, pixels=bytes(50_000)), uid_of(number)) == 0x0000
            scu.release()

    def break_off_over_tls(port: int, number: int) -> None:
        with RawAssociation(port, tls=trusted) as scu:
            scu.socket.sendall(store_message(image(number, pixels=bytes(200_000)), uid_of(number))[:100_000])

    def without_a_certificate(port: int, number: int) -> None:
        del number
        with pytest.raises((ssl.SSLError, Ended)):
            RawAssociation(port, tls=unknown)

    return (
        store_over_tls,
        break_off_over_tls,
        without_a_certificate,
        tls_on_a_plain_port,
        ask_and_leave,
        connect_and_close,
    )


def state_of(pid: int) -> tuple[int, int, int]:
    """Threads, descriptors, resident KB."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["Threads"]), len(list(Path(f"/proc/{pid}/fd").iterdir())), int(fields["VmRSS"].split()[0])


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_many_visits_leave_nothing_behind(tmp_path: Path, is_tls: bool) -> None:  # noqa: FBT001 - parametrised
    daemon = RunningDaemon(
        tmp_path / "daemon", roles=("gateway",), daemon={"max_associations": 100, "accept_from": ["any"]}
    )
    visitors = VISITORS
    if is_tls:
        authority = Authority(tmp_path / "authority")
        daemon.configuration["daemon"]["tls"] = {**authority.issue("anomalyd").settings, "port": daemon.port}
        visitors = over_tls(authority)
    with daemon as gateway:
        pid = gateway.children["gateway"].pid
        rest = state_of(pid)

        def visit(numbers: range, late: int = 0) -> None:
            """late: threads that may have begun after the gateway said that it was ready."""
            for number in numbers:
                visitors[number % len(visitors)](gateway.port, number)
            wait_until(lambda: state_of(pid)[0] <= rest[0] + late, limit_s=LIMIT_S, what="all threads have ended")
            wait_until(lambda: state_of(pid)[1] <= rest[1] + 2, limit_s=LIMIT_S, what="all descriptors are closed")

        visit(range(WARM), late=1)  # caches fill, SQLite opens its files
        rest = state_of(pid)
        visit(range(WARM, WARM + VISITS))
        assert state_of(pid)[2] - rest[2] < GROWTH_LIMIT_KB
        visitors[0 if is_tls else VISITORS.index(echo)](gateway.port, 0)
