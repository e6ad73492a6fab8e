"""A sender without a DICOM library behind it: says exactly what a test wants, also what no library would say.

Messages are encoded beforehand and sent with one call, so that a bench measures the receiver, not the sender.
"""

import socket
import ssl
import struct
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

VERIFICATION = "1.2.840.10008.1.1"
MR_CONTEXT = ((MRImageStorage, ExplicitVRLittleEndian),)
PDU_LIMIT = 1 << 20
ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 2, 3, 4, 5, 6, 7


class Rejected(Exception):
    """A-ASSOCIATE-RJ: result, source, reason."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        self.reason = (result, source, reason)
        super().__init__(f"rejected {result}/{source}/{reason}")


class Ended(Exception):
    """The peer aborted or closed."""


class RawAssociation:
    """One association; the presentation contexts have the IDs 1, 3, 5 ... in the order given."""

    def __init__(
        self,
        port: int,
        *,
        calling: str = "SCANNER",
        called: str = "ANOMALYD",
        contexts: Sequence[tuple[str, str]] = MR_CONTEXT,
        host: str = "127.0.0.1",
        timeout_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
        source: str = "",
    ) -> None:
        """source: address of ours to call from."""
        self.socket = socket.create_connection((host, port), timeout_s, (source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
            body = self._associate(associate_request(calling, called, contexts))
        except BaseException:
            self.socket.close()
            raise
        self.accepted = {item[0]: item[2] for item in _context_results(body)}
        """Context ID -> result (PS3.8 table 9-18), 0 is accepted."""
        self.pdu_limit = _maximum_length(body)
        """Longest P-DATA PDU that the peer takes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def _associate(self, request: bytes) -> bytes:
        """The A-ASSOCIATE-AC; raises Rejected."""
        self.socket.sendall(request)
        kind, body = self.read_pdu()
        if kind == ASSOCIATE_RJ:
            raise Rejected(*body[1:4])
        assert kind == ASSOCIATE_AC
        return body

    def read_pdu(self) -> tuple[int, bytes]:
        """Type and what follows the length."""
        head = self._exactly(6)
        kind, _, length = struct.unpack(">BBL", head)
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        whole = bytearray()
        while len(whole) < count:
            try:
                piece = self.socket.recv(count - len(whole))
            except ConnectionError as exc:
                raise Ended from exc
            if not piece:
                raise Ended
            whole += piece
        return bytes(whole)

    def response(self) -> dict[int, bytes]:
        """Elements of the next response's command set, by element number; raises Ended on an abort."""
        message = b""
        while True:
            kind, body = self.read_pdu()
            if kind != P_DATA:
                raise Ended(f"PDU type {kind}")
            message += body[6:]
            if body[5] & 2:
                return command_elements(message)

    def ask(self, message: bytes) -> int:
        """Sends a whole message, gives the status of its response."""
        self.socket.sendall(message)
        return status_of(self.response())

    def store(self, data: bytes, instance_uid: str, *, context_id: int = 1, sop_class: str = MRImageStorage) -> int:
        """One C-STORE."""
        return self.ask(store_message(data, instance_uid, context_id=context_id, sop_class=sop_class))

    def release(self) -> None:
        """An orderly end."""
        self.socket.sendall(b"\x05\0\0\0\0\x04\0\0\0\0")
        kind, _ = self.read_pdu()
        assert kind == RELEASE_RP
        self.socket.close()


def associate_request(
    calling: str = "SCANNER", called: str = "ANOMALYD", contexts: Sequence[tuple[str, str]] = MR_CONTEXT
) -> bytes:
    """An A-ASSOCIATE-RQ PDU."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    primitive.presentation_context_definition_list = []
    for number, (abstract, transfer) in enumerate(contexts):
        context = build_context(abstract, transfer)
        context.context_id = 2 * number + 1
        primitive.presentation_context_definition_list.append(context)
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = PDU_LIMIT
    implementation.implementation_class_uid = "1.2.3.4"
    primitive.user_information = [length, implementation]
    return A_ASSOCIATE_RQ(primitive).encode()


def element(number: int, value: bytes) -> bytes:
    """One element of group 0000, implicit VR little endian."""
    return struct.pack("<HHL", 0, number, len(value)) + value


def uid_value(text: str) -> bytes:
    """A UID padded to even length."""
    raw = text.encode("latin-1")
    return raw + b"\0" * (len(raw) % 2)


def store_command(instance_uid: str, sop_class: str = MRImageStorage, *, message_id: int = 1, data: int = 1) -> bytes:
    """The command set of a C-STORE-RQ; data: Command Data Set Type, 0x0101 for none."""
    body = element(0x0002, uid_value(sop_class))
    body += element(0x0100, struct.pack("<H", 1))
    body += element(0x0110, struct.pack("<H", message_id))
    body += element(0x0700, struct.pack("<H", 0))
    body += element(0x0800, struct.pack("<H", data))
    body += element(0x1000, uid_value(instance_uid))
    return element(0x0000, struct.pack("<L", len(body))) + body


def echo_command() -> bytes:
    """The command set of a C-ECHO-RQ."""
    body = element(0x0002, uid_value(VERIFICATION)) + element(0x0100, struct.pack("<H", 0x30))
    body += element(0x0110, struct.pack("<H", 1)) + element(0x0800, struct.pack("<H", 0x0101))
    return element(0x0000, struct.pack("<L", len(body))) + body


def pdv(piece: bytes, context_id: int, control: int) -> bytes:
    """A presentation data value item."""
    return struct.pack(">LBB", len(piece) + 2, context_id, control) + piece


def pdu(kind: int, body: bytes) -> bytes:
    """A PDU of any type."""
    return struct.pack(">BBL", kind, 0, len(body)) + body


def store_message(
    data: bytes,
    instance_uid: str,
    *,
    context_id: int = 1,
    sop_class: str = MRImageStorage,
    pdu_bytes: int = PDU_LIMIT,
    command: bytes | None = None,
) -> bytes:
    """A C-STORE-RQ with its data set, in PDUs of at most pdu_bytes."""
    head = store_command(instance_uid, sop_class) if command is None else command
    message = pdu(P_DATA, pdv(head, context_id, 3))
    room = pdu_bytes - 6
    for at in range(0, len(data), room):
        piece = data[at : at + room]
        message += pdu(P_DATA, pdv(piece, context_id, 2 if at + room >= len(data) else 0))
    return message


def echo_message(context_id: int = 1) -> bytes:
    """A C-ECHO-RQ."""
    return pdu(P_DATA, pdv(echo_command(), context_id, 3))


def command_elements(raw: bytes) -> dict[int, bytes]:
    """Elements of a command set by element number."""
    found, offset = {}, 0
    while offset < len(raw):
        _, number, length = struct.unpack_from("<HHL", raw, offset)
        found[number] = raw[offset + 8 : offset + 8 + length]
        offset += 8 + length
    return found


def status_of(response: dict[int, bytes]) -> int:
    """(0000,0900)."""
    return int.from_bytes(response[0x0900], "little")


def comment_of(response: dict[int, bytes]) -> str:
    """(0000,0902)."""
    return response.get(0x0902, b"").decode("ascii").strip()


def _context_results(body: bytes) -> Iterable[tuple[int, int, int]]:
    """(context ID, reserved, result) of each presentation context item of an A-ASSOCIATE-AC."""
    offset = 68
    while offset < len(body):
        kind, _, length = struct.unpack_from(">BBH", body, offset)
        if kind == 0x21:
            yield body[offset + 4], body[offset + 5], body[offset + 6]
        offset += 4 + length


def _maximum_length(body: bytes) -> int:
    """Maximum length (0x51) in the user information (0x50) of an A-ASSOCIATE-AC; 0 means any."""
    offset = 68
    while offset < len(body):
        kind, _, length = struct.unpack_from(">BBH", body, offset)
        if kind == 0x50:
            at = offset + 4
            while at < offset + 4 + length:
                sub_kind, _, sub_length = struct.unpack_from(">BBH", body, at)
                if sub_kind == 0x51:
                    return int.from_bytes(body[at + 4 : at + 8], "big") or PDU_LIMIT
                at += 4 + sub_length
        offset += 4 + length
    return PDU_LIMIT
