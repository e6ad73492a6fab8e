"""Command sets of the two services that the door offers, read and written by hand (PS3.7 6.3, 9.3.1, 9.3.5).

Command sets are implicit VR little endian. pynetdicom builds pydicom data sets for them, which took 56 % of its time
(GATEWAY 3).
"""

import struct
from dataclasses import dataclass
from typing import Final

C_STORE_RQ: Final = 0x0001
C_ECHO_RQ: Final = 0x0030
_RESPONSE: Final = 0x8000
NO_DATA_SET: Final = 0x0101
_P_DATA: Final = 0x04
_LAST_COMMAND: Final = 0x03
_COMMAND: Final = 0x01
_PDV_HEAD: Final = 6  # length, context ID, control header (PS3.8 9.3.5.1 and E.2)

_ELEMENT: Final = struct.Struct("<HHL")
_US: Final = struct.Struct("<H")
_SOP_CLASS: Final = 0x0002
_FIELD: Final = 0x0100
_MESSAGE_ID: Final = 0x0110
_DATA_SET_TYPE: Final = 0x0800
_INSTANCE: Final = 0x1000


class ProtocolError(Exception):
    """The peer breaks PS3.7 or PS3.8 so that nothing after it can be trusted: the association is aborted."""


@dataclass(frozen=True, slots=True)
class Command:
    """A request's command set, as far as the door needs it; UIDs without padding, unchecked."""

    field: int
    message_id: int
    sop_class: str
    instance_uid: str
    has_data_set: bool


def decode_command(raw: bytes) -> Command:
    """The command set in these bytes; raises ProtocolError."""
    values: dict[int, bytes] = {}
    offset = 0
    try:
        while offset < len(raw):
            group, number, length = _ELEMENT.unpack_from(raw, offset)
            offset += _ELEMENT.size + length
            if group != 0 or offset > len(raw):
                raise ProtocolError("command set is malformed")
            values[number] = raw[offset - length : offset]
        return Command(
            field=_US.unpack(values[_FIELD])[0],
            message_id=_US.unpack(values.get(_MESSAGE_ID, b"\0\0"))[0],
            sop_class=_uid(values.get(_SOP_CLASS, b"")),
            instance_uid=_uid(values.get(_INSTANCE, b"")),
            has_data_set=_US.unpack(values[_DATA_SET_TYPE])[0] != NO_DATA_SET,
        )
    except (struct.error, KeyError) as exc:
        raise ProtocolError("command set is malformed") from exc


def encode_response(command: Command, context_id: int, status: int, comment: str, pdu_limit: int) -> bytes:
    """P-DATA-TF PDUs with the response to a request. pdu_limit: the peer's maximum, 0 for none (PS3.8 D.1)."""
    body = _uid_element(_SOP_CLASS, command.sop_class)
    body += _us_element(_FIELD, command.field | _RESPONSE)
    body += _us_element(0x0120, command.message_id)
    body += _us_element(_DATA_SET_TYPE, NO_DATA_SET)
    body += _us_element(0x0900, status)
    if comment:
        text = comment.encode("ascii", "replace")
        body += _element(0x0902, text + b" " * (len(text) % 2))
    if command.field == C_STORE_RQ:
        body += _uid_element(_INSTANCE, command.instance_uid)
    message = _element(0x0000, len(body).to_bytes(4, "little")) + body
    room = max(1, pdu_limit - _PDV_HEAD) if pdu_limit else len(message)
    pieces = [message[at : at + room] for at in range(0, len(message), room)]
    controls = [_COMMAND] * (len(pieces) - 1) + [_LAST_COMMAND]
    return b"".join(_pdu(piece, context_id, control) for piece, control in zip(pieces, controls, strict=True))


def _pdu(piece: bytes, context_id: int, control: int) -> bytes:
    length = len(piece) + _PDV_HEAD
    return struct.pack(">BBLLBB", _P_DATA, 0, length, length - 4, context_id, control) + piece


def _element(number: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, number, len(value)) + value


def _us_element(number: int, value: int) -> bytes:
    return _element(number, _US.pack(value))


def _uid_element(number: int, text: str) -> bytes:
    value = text.encode("latin-1")
    return _element(number, value + b"\0" * (len(value) % 2))


def _uid(raw: bytes) -> str:
    return raw.rstrip(b"\0 ").decode("latin-1")
