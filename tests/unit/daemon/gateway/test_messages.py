"""PDVs put together to messages, however the sender cuts them."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyd.daemon.gateway.dataset import PIECE_BYTES, SPILL_BYTES, Budget, IncomingDataSet
from anomalyd.daemon.gateway.dimse import Command, ProtocolError
from anomalyd.daemon.gateway.messages import MessageReader
from anomalyd.storage.received import DiskFloorReached
from anomalyd.storage.records import Spilled
from raw_scu import echo_command, element, pdv, store_command


class Wire:
    """Bytes of one PDU."""

    def __init__(self, body: bytes) -> None:
        self._body = memoryview(body)

    def take(self, count: int) -> bytes:
        taken, self._body = self._body[:count], self._body[count:]
        return bytes(taken)

    def fill(self, view: memoryview) -> None:
        view[:] = self._body[: len(view)]
        self._body = self._body[len(view) :]


class Desk:
    """Keeps what it is given."""

    def __init__(self, refusal: str = "") -> None:
        self.refusal = refusal
        self.served: list[tuple[int, str, bytes, str]] = []
        self.passed_on: list[tuple[int, bytes, bytes | None]] = []

    def refusal_in_advance(self, context_id: int, command: Command) -> str:
        del context_id, command
        return self.refusal

    def serve(self, context_id: int, command: Command, data_set: IncomingDataSet) -> None:
        kept = b""
        if data_set.length and not data_set.refusal:
            data, sha256 = data_set.complete()
            kept = read(data) if isinstance(data, Spilled) else b"".join(data)
            assert hashlib.sha256(kept).hexdigest() == sha256
            assert kept.startswith(bytes(data_set.head))
        self.served.append((context_id, command.instance_uid, kept, data_set.refusal))

    def pass_on(self, context_id: int, command: bytes, data_set: bytes | None) -> None:
        self.passed_on.append((context_id, command, data_set))


def read(spilled: Spilled) -> bytes:
    return os.pread(spilled.descriptor, spilled.length + 1, 0)


def incoming(folder: Path, *, budget: int = 1 << 30, max_bytes: int = 1 << 30, floor: bool = False) -> IncomingDataSet:
    def check_room(_: int) -> None:
        if floor:
            raise DiskFloorReached(0, 0, 0)

    return IncomingDataSet(Budget(budget), max_bytes=max_bytes, spill_directory=folder, check_room=check_room)


def reader(folder: Path, refusal: str = "") -> tuple[MessageReader, Desk]:
    desk = Desk(refusal)
    return MessageReader(desk, incoming(folder)), desk


def feed(messages: MessageReader, body: bytes) -> None:
    messages.read_pdu(Wire(body), len(body))


@given(data=st.binary(min_size=1, max_size=3000), cuts=st.lists(st.integers(1, 700), max_size=12))
@settings(max_examples=150, deadline=None)
def test_any_fragmentation_gives_the_same_message(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int]
) -> None:
    messages, desk = reader(tmp_path_factory.getbasetemp())
    command = store_command("1.2.3")
    parts = [(command[:31], 1), (command[31:], 3)]
    rest = data
    for cut in cuts:
        if len(rest) > cut:
            parts.append((rest[:cut], 0))
            rest = rest[cut:]
    parts.append((rest, 2))
    bodies: list[bytes] = [b""]
    for number, (piece, control) in enumerate(parts):
        bodies[-1] += pdv(piece, 9, control)
        if number % 3 == 0:
            bodies.append(b"")
    for body in bodies:
        feed(messages, body)
    assert desk.served == [(9, "1.2.3", data, "")]


@pytest.mark.parametrize(
    "size", [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, SPILL_BYTES - 1, SPILL_BYTES, 9_999_999]
)
def test_every_size_comes_through_whole_and_the_memory_is_used_again(tmp_path: Path, size: int) -> None:
    messages, desk = reader(tmp_path)
    pattern = bytes(range(251))
    data = (pattern * (size // 251 + 1))[:size]
    for _ in range(2):
        feed(messages, pdv(store_command("1.2.3"), 1, 3))
        for at in range(0, size, 300_000):
            feed(messages, pdv(data[at : at + 300_000], 1, 2 if at + 300_000 >= size else 0))
    assert [len(kept) for _, _, kept, _ in desk.served] == [size, size]
    assert all(kept == data for _, _, kept, _ in desk.served)


def test_messages_of_other_services_are_passed_on_whole(tmp_path: Path) -> None:
    messages, desk = reader(tmp_path)
    find = element(0x0100, b"\x20\0") + element(0x0800, b"\1\0")
    feed(messages, pdv(find, 1, 3) + pdv(b"ident", 1, 0) + pdv(b"ifier", 1, 2))
    feed(messages, pdv(echo_command(), 3, 3))
    assert desk.passed_on == [(1, find, b"identifier")]
    assert [(context, uid) for context, uid, _, _ in desk.served] == [(3, "")]


@pytest.mark.parametrize(
    "body",
    [
        pdv(b"data", 1, 2),
        pdv(store_command("1.2"), 1, 3) + pdv(store_command("1.2"), 1, 3),
        pdv(store_command("1.2"), 1, 3) + pdv(b"data", 3, 2),
        pdv(store_command("1.2")[:20], 1, 1) + pdv(store_command("1.2")[20:], 3, 3),
        pdv(b"x" * 70_000, 1, 1),
        pdv(b"x", 1, 3)[:5],
        b"\0\0\0\1\1\3",
    ],
)
def test_what_is_no_message_is_a_protocol_error(tmp_path: Path, body: bytes) -> None:
    messages, desk = reader(tmp_path)
    with pytest.raises(ProtocolError):
        feed(messages, body)
    assert desk.served == []


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_messages_or_a_protocol_error(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    messages, _ = reader(tmp_path_factory.getbasetemp())
    try:
        feed(messages, body)
    except ProtocolError:
        return


def test_refused_bytes_take_no_memory(tmp_path: Path) -> None:
    budget = Budget(100)
    data_set = IncomingDataSet(budget, max_bytes=1 << 30, spill_directory=tmp_path, check_room=lambda _: None)
    desk = Desk("not wanted")
    messages = MessageReader(desk, data_set)
    feed(messages, pdv(store_command("1.2.3"), 1, 3) + pdv(bytes(5_000_000), 1, 2))
    assert desk.served == [(1, "1.2.3", b"", "not wanted")]
    assert budget.used == 0


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"budget": 100_000}, "too many bytes in flight, send again later"),
        ({"max_bytes": 100_000}, "larger than max_instance_bytes"),
        ({"floor": True}, "disk floor reached"),
    ],
)
def test_limits_are_kept_while_the_data_set_arrives(tmp_path: Path, options: dict[str, int], refusal: str) -> None:
    data_set = incoming(tmp_path, **options)  # type: ignore[arg-type]  # one of three
    desk = Desk()
    messages = MessageReader(desk, data_set)
    feed(messages, pdv(store_command("1.2.3"), 1, 3) + pdv(bytes(SPILL_BYTES + 5), 1, 2))
    feed(messages, pdv(store_command("1.2.4"), 1, 3) + pdv(b"small", 1, 2))
    assert desk.served == [(1, "1.2.3", b"", refusal), (1, "1.2.4", b"small", "")]


def test_a_spill_that_cannot_be_written_is_a_refusal(tmp_path: Path) -> None:
    data_set = incoming(tmp_path / "absent")
    desk = Desk()
    feed(MessageReader(desk, data_set), pdv(store_command("1.2.3"), 1, 3) + pdv(bytes(SPILL_BYTES + 5), 1, 2))
    assert desk.served == [(1, "1.2.3", b"", "cannot be written to disk")]
