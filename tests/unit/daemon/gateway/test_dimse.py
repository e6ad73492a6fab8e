"""Command sets by hand: what pynetdicom reads and writes, byte for byte in meaning."""

from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import MRImageStorage
from pynetdicom.dsutils import decode

from anomalyd.daemon.gateway.dimse import C_ECHO_RQ, C_STORE_RQ, Command, ProtocolError, decode_command, encode_response
from raw_scu import command_elements, echo_command, element, store_command

COMMAND = Command(C_STORE_RQ, 7, MRImageStorage, "1.2.3.4", has_data_set=True)


def pieces(pdus: bytes) -> list[tuple[int, int, bytes]]:
    """(context ID, control header, bytes) of each PDV."""
    found, offset = [], 0
    while offset < len(pdus):
        length = int.from_bytes(pdus[offset + 2 : offset + 6], "big")
        found.append((pdus[offset + 10], pdus[offset + 11], pdus[offset + 12 : offset + 6 + length]))
        assert int.from_bytes(pdus[offset + 6 : offset + 10], "big") == length - 4
        offset += 6 + length
    return found


def test_a_request_is_read() -> None:
    assert decode_command(store_command("1.2.3.4", message_id=7)) == COMMAND
    echo = decode_command(echo_command())
    assert (echo.field, echo.has_data_set) == (C_ECHO_RQ, False)


@pytest.mark.parametrize("comment", ["", "odd", "even"])
@pytest.mark.parametrize("limit", [0, 50, 100, 1 << 20])
def test_a_response_is_what_pydicom_reads(comment: str, limit: int) -> None:
    pdvs = pieces(encode_response(COMMAND, 5, 0xA700, comment, limit))
    assert {context_id for context_id, _, _ in pdvs} == {5}
    assert [control for _, control, _ in pdvs] == [1] * (len(pdvs) - 1) + [3]
    assert not limit or all(len(piece) + 6 <= limit for _, _, piece in pdvs)
    raw = b"".join(piece for _, _, piece in pdvs)
    read = decode(BytesIO(raw), is_implicit_vr=True, is_little_endian=True)
    assert read.CommandGroupLength == len(raw) - 12
    assert (read.CommandField, read.MessageIDBeingRespondedTo, read.Status) == (0x8001, 7, 0xA700)
    assert (read.AffectedSOPClassUID, read.AffectedSOPInstanceUID) == (MRImageStorage, "1.2.3.4")
    assert read.get("ErrorComment", "") == comment
    assert read.CommandDataSetType == 0x0101


def test_the_uids_of_a_bad_request_come_back_as_they_were() -> None:
    odd = decode_command(store_command("é/..", message_id=1))
    [(_, _, raw)] = pieces(encode_response(odd, 1, 0xC000, "", 0))
    assert command_elements(raw)[0x1000] == "é/..".encode("latin-1")


@pytest.mark.parametrize(
    "raw",
    [
        b"\0",
        b"\0" * 9 + b"\1",
        element(0x0100, b"\1\0"),
        element(0x0800, b"\1\0"),
        element(0x0100, b"\1") + element(0x0800, b"\1\0"),
        b"\x08\0\x16\0\0\0\0\0",
        store_command("1.2.3")[:-3],
    ],
)
def test_a_malformed_command_set_is_a_protocol_error(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_command(raw)


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes_are_a_command_or_a_protocol_error(raw: bytes) -> None:
    try:
        decode_command(raw)
    except ProtocolError:
        return
