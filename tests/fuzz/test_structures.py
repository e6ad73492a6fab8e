"""Structure by structure: PDVs in any order and with any length, elements with any header."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.daemon.gateway.dataset import Budget, IncomingDataSet
from anomalyd.daemon.gateway.dimse import Command, ProtocolError
from anomalyd.daemon.gateway.messages import MessageReader
from anomalyd.storage.peek import Unreadable, peek
from fuzz.coverage_guided import SYNTAXES, Wire
from fuzz.spoiling import LENGTHS, VRS
from raw_scu import echo_command, store_command

BUDGET = 1 << 20

bodies = st.one_of(
    st.sampled_from([echo_command(), store_command("1.2.3"), store_command("1.2.3", data=0x0101), b""]),
    st.binary(max_size=80),
)
pdvs = st.tuples(
    bodies, st.sampled_from([1, 3, 255]), st.integers(0, 3), st.one_of(st.just(None), st.sampled_from(LENGTHS))
)
headers = st.tuples(
    st.integers(0, 0x0021) | st.sampled_from([0x7FE0, 0xFFFE]),
    st.sampled_from([0, 5, 0x0D, 0x0E, 0x10, 0x16, 0x18, 0x20, 0x50, 0xE000, 0xE00D, 0xE0DD]),
    st.sampled_from(VRS),
    st.one_of(st.just(None), st.sampled_from(LENGTHS)),
    st.binary(max_size=20),
)


class Desk:
    """Counts what is complete."""

    def __init__(self) -> None:
        self.served = 0

    def refusal_in_advance(self, context_id: int, command: Command) -> str:
        del context_id, command
        return ""

    def serve(self, context_id: int, command: Command, data_set: IncomingDataSet) -> None:
        del context_id, command, data_set
        self.served += 1

    def pass_on(self, context_id: int, command: bytes, data_set: bytes | None) -> None:
        del context_id, command, data_set
        self.served += 1


@given(said=st.lists(pdvs, max_size=12))
@settings(max_examples=150, deadline=None)
def test_any_order_of_pdvs_is_served_or_broken_off_and_all_memory_comes_back(
    said: list[tuple[bytes, int, int, int | None]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    budget, desk = Budget(BUDGET), Desk()
    folder = tmp_path_factory.getbasetemp()
    reader = MessageReader(
        desk, IncomingDataSet(budget, max_bytes=BUDGET, spill_directory=folder, check_room=lambda _: None)
    )
    whole = b"".join(
        struct.pack(">LBB", len(body) + 2 if length is None else length, context, control) + body
        for body, context, control, length in said
    )
    try:
        reader.read_pdu(Wire(whole), len(whole))
    except (ProtocolError, ConnectionResetError):
        assert said
    finally:
        assert desk.served <= len(said)
        reader.broken_off()
    assert budget.used == 0


@given(elements=st.lists(headers, max_size=15), syntax=st.sampled_from(SYNTAXES[:3]))
@settings(max_examples=200, deadline=None)
def test_any_element_headers_are_read_or_refused_in_words(
    elements: list[tuple[int, int, str, int | None, bytes]], syntax: str
) -> None:
    order, is_implicit = (">" if syntax == SYNTAXES[2] else "<"), syntax == SYNTAXES[0]
    data = b""
    for group, number, vr, length, value in elements:
        stated = len(value) if length is None else length
        data += struct.pack(order + "HH", group, number)
        data += b"" if is_implicit else vr.encode("latin-1")
        data += struct.pack(order + "L", stated) if is_implicit else struct.pack(order + "H", stated & 0xFFFF)
        data += value
    try:
        found = peek(data, syntax)
    except Unreadable as exc:
        assert str(exc)
        assert len(str(exc)) <= 64  # an Error Comment is LO
    else:
        assert found.series_uid
