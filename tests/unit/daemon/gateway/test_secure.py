"""The port of DICOM TLS on a real listener: who gets in, who does not, and that nobody waits for a silent client."""

import json
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest

from anomalyd.daemon.gateway.secure import HANDSHAKES_OF_ONE
from anomalyd.storage.segments import SegmentLog
from certificates import EXPIRED, Authority, Certificate
from doors import MakeDoor, OpenDoor
from images import image, uid_of
from pacs import data_set_of
from ports import free_port
from raw_scu import Ended, RawAssociation, Rejected, associate_request
from waiting import wait_until

SUCCESS = 0x0000
LIMIT_S = 20.0
SILENCE_S = 1.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Certificate:
    return authority.issue("anomalyd")


@pytest.fixture(scope="module")
def scanner(authority: Authority) -> Certificate:
    return authority.issue("mr1.example.org", alternatives=())


@pytest.fixture
def door(make_door: MakeDoor, ours: Certificate) -> OpenDoor:
    """Plain DICOM on `door.port`, TLS on `tls_port(door)`."""
    accept_from = [{"ae_title": "MR1", "certificate_name": "mr1.example.org"}, "MR2"]
    tls = {**ours.settings, "port": free_port(), "handshake_timeout": SILENCE_S}
    return make_door(tls=tls, accept_from=accept_from)


def tls_port(door: OpenDoor) -> int:
    return int(door.servers[1].server_address[1])


def client(own: Certificate | None, ca: Path, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    context.maximum_version = version
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    return context


def refusals(door: OpenDoor) -> list[str]:
    return [json.loads(row["detail"])["text"] for row in door.audit() if row["kind"] == "connection_refused"]


def wait_for_refusal(door: OpenDoor, words: str) -> None:
    wait_until(
        lambda: any(words in text for text in refusals(door)), limit_s=LIMIT_S, what=f"a row that says {words!r}"
    )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("pdu_bytes", [1000, 1 << 20])
def test_images_arrive_byte_for_byte(
    door: OpenDoor, scanner: Certificate, version: ssl.TLSVersion, pdu_bytes: int
) -> None:
    context = client(scanner, scanner.ca, version)
    sent = [image(number, pixels=bytes([number]) * 200_000) for number in (1, 2, 3)]
    with RawAssociation(tls_port(door), calling="MR1", tls=context) as scu:
        assert isinstance(scu.socket, ssl.SSLSocket)
        assert scu.socket.version() == version.name.replace("_", ".")
        scu.pdu_limit = min(scu.pdu_limit, pdu_bytes)
        assert [scu.store(data, uid_of(number)) for number, data in enumerate(sent, 1)] == [SUCCESS] * 3
        scu.release()
    with door.store.read() as connection:
        rows = connection.exec_driver_sql('SELECT segment, "offset", length FROM instance ORDER BY instance_uid').all()
    log = SegmentLog(door.store.root)
    assert sorted(data_set_of(log.read(*row)) for row in rows) == sorted(sent)


def test_plain_dicom_goes_on_beside_it(door: OpenDoor) -> None:
    with RawAssociation(door.port, calling="MR2") as scu:
        assert scu.store(image(), uid_of(1)) == SUCCESS
    assert not refusals(door)


@pytest.mark.parametrize("calls", ["with another name", "in plain DICOM"])
def test_an_ae_title_with_a_certificate_name_is_taken_from_its_certificate_alone(
    door: OpenDoor, authority: Authority, calls: str
) -> None:
    is_plain = calls == "in plain DICOM"
    context = None if is_plain else client(authority.issue("mr2.example.org"), authority.ca)
    with pytest.raises(Rejected) as caught:
        RawAssociation(door.port if is_plain else tls_port(door), calling="MR1", tls=context)
    assert caught.value.reason == (1, 1, 3)
    wait_until(lambda: door.kinds() == ["association_rejected"], limit_s=LIMIT_S, what="the audit row")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "whose",
    [("nobody", "it shows no certificate"), ("expired", "certificate has expired"), ("unknown", "local issuer")],
    ids=lambda whose: whose[0],
)
def test_without_a_certificate_that_holds_nobody_comes_in(
    door: OpenDoor, authority: Authority, tmp_path: Path, whose: tuple[str, str], version: ssl.TLSVersion
) -> None:
    name, words = whose
    own = None
    if name == "expired":
        own = authority.issue("mr1.example.org.old", days=EXPIRED)
    elif name == "unknown":
        own = Authority(tmp_path, "Other CA").issue("mr1.example.org")
    with pytest.raises((ssl.SSLError, Ended)):  # with TLS 1.2 in the handshake, with 1.3 at the first answer
        RawAssociation(tls_port(door), calling="MR1", tls=client(own, authority.ca, version))
    wait_for_refusal(door, words)
    assert door.stored() == 0


def test_plain_dicom_on_the_port_of_tls_is_refused(door: OpenDoor) -> None:
    with pytest.raises(Ended):
        RawAssociation(tls_port(door), calling="MR2")
    wait_for_refusal(door, "no TLS on the port of DICOM TLS")


def test_tls_on_the_port_of_plain_dicom_is_refused(door: OpenDoor, scanner: Certificate, is_fast: bool) -> None:  # noqa: FBT001 - a fixture's value
    with pytest.raises((ssl.SSLError, ConnectionError)):
        RawAssociation(door.port, calling="MR1", tls=client(scanner, scanner.ca))
    if is_fast:  # pynetdicom's own classes end it without a word
        wait_for_refusal(door, "TLS on the port of plain DICOM")


def test_a_silent_client_keeps_nobody_waiting_and_is_let_go(door: OpenDoor, scanner: Certificate) -> None:
    context = client(scanner, scanner.ca)
    with socket.create_connection(("127.0.0.1", tls_port(door)), LIMIT_S) as silent:
        with RawAssociation(tls_port(door), calling="MR1", tls=context) as scu:
            assert scu.store(image(), uid_of(1)) == SUCCESS
            assert not refusals(door), "the silent one is still there"
        assert silent.recv(1) == b"", "closed by the time limit"
    wait_for_refusal(door, "says nothing in time")


def test_a_handshake_that_trickles_ends_at_the_same_limit(door: OpenDoor) -> None:
    with socket.create_connection(("127.0.0.1", tls_port(door)), LIMIT_S) as slow:
        slow.sendall(b"\x16\x03\x01\x02\x00")
        assert slow.recv(1) == b""
    wait_for_refusal(door, "says nothing in time")


def test_one_address_cannot_take_all_handshakes(make_door: MakeDoor, ours: Certificate, scanner: Certificate) -> None:
    port = free_port()
    door = make_door(port=port, tls={**ours.settings, "port": port, "handshake_timeout": LIMIT_S})
    with ExitStack() as stack:
        for _ in range(HANDSHAKES_OF_ONE):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), LIMIT_S))
        over = stack.enter_context(socket.create_connection(("127.0.0.1", port), LIMIT_S))
        assert over.recv(1) == b"", "one too many of this address is closed at once"
        with RawAssociation(port, tls=client(scanner, scanner.ca), source="127.0.0.2") as scu:
            assert scu.store(image(), uid_of(1)) == SUCCESS
    assert len(door.servers) == 1, "the same port: nothing without TLS"


def test_a_probe_that_connects_and_closes_leaves_no_row(door: OpenDoor, scanner: Certificate) -> None:
    socket.create_connection(("127.0.0.1", tls_port(door)), LIMIT_S).close()
    with RawAssociation(tls_port(door), calling="MR1", tls=client(scanner, scanner.ca)) as scu:
        scu.release()
    assert door.kinds() == []


def test_half_a_record_is_waited_for(door: OpenDoor, scanner: Certificate) -> None:
    """Readable, and no data yet: the upper layer goes on with its own work, and takes the request when it is whole."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client(scanner, scanner.ca).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", tls_port(door)), LIMIT_S) as connection:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(1 << 16))
        connection.sendall(outgoing.read())
        tls.write(associate_request("MR1", "ANOMALYD", (("1.2.840.10008.1.1", "1.2.840.10008.1.2"),)))
        record = outgoing.read()
        connection.sendall(record[:20])
        with RawAssociation(tls_port(door), calling="MR1", tls=client(scanner, scanner.ca)) as other:
            other.release()
        connection.sendall(record[20:])
        answer = b""
        while not answer:
            incoming.write(connection.recv(1 << 16))
            try:
                answer = tls.read()
            except ssl.SSLWantReadError:
                continue
        assert answer[0] == 2, "A-ASSOCIATE-AC"


@pytest.mark.parametrize("limit", [{"max_associations": 1}, {"associations_per_minute": 1}])
def test_an_entry_over_its_limit_is_rejected_for_now(make_door: MakeDoor, limit: dict[str, int]) -> None:
    door = make_door(accept_from=[{"ae_title": "MR1", **limit}, "MR2"])
    with RawAssociation(door.port, calling="MR1"):
        with pytest.raises(Rejected) as caught:
            RawAssociation(door.port, calling="MR1")
        assert caught.value.reason == (2, 3, 2)
        RawAssociation(door.port, calling="MR2").release()
