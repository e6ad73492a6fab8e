"""Spoiled data sets and PDUs sent to a real gateway, and the look at it afterwards.

with RunningGateway(tmp_path) as gateway:
    visit(gateway.port, "pdu:17")       # what the peer sees: a status, an abort, an end
    gateway.look()                      # raises where a visit has left something behind
"""

import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from pydicom.uid import EnhancedMRImageStorage, JPEGLosslessSV1, MRImageStorage

from fuzz.spoiling import ENCAPSULATED, LENGTHS, NATIVE, UIDS, identity_of, spoiled, spoiled_bytes
from raw_scu import (
    ABORT,
    MR_CONTEXT,
    P_DATA,
    VERIFICATION,
    Ended,
    RawAssociation,
    Rejected,
    associate_request,
    echo_command,
    echo_message,
    element,
    pdu,
    pdv,
    store_command,
    store_message,
)
from running import RunningDaemon
from waiting import wait_until

SYNTAXES = (*NATIVE, *ENCAPSULATED, JPEGLosslessSV1)
CONTEXTS = tuple((sop, syntax) for sop in (MRImageStorage, EnhancedMRImageStorage) for syntax in SYNTAXES)
BOTH = ((VERIFICATION, NATIVE[0]), *MR_CONTEXT)
HANG_LIMIT_S = 20.0
STALL_S = 2
MEMORY_LIMIT_KB = 150_000  # beyond rest: 64 MB in flight, pieces of open associations, SQLite
ENDED = "ended"


class RunningGateway:
    """A gateway of its own, with short patience."""

    def __init__(self, folder: Path, *, is_fast: bool = True) -> None:
        self._daemon = RunningDaemon(
            folder / "root",
            roles=("gateway",),
            daemon={
                "accept_from": ["any"],
                "idle_timeout": 5,
                "gateway": {"stall_timeout": STALL_S, "acse_timeout": STALL_S, "fast": is_fast,
                            "max_instance_bytes": 20_000_000},
            },
        )  # fmt: skip
        self._folder = folder
        self._rest = (0, 0, 0)

    def __enter__(self) -> Self:
        """Starts it and lets it warm up."""
        self._daemon.__enter__()
        for number in range(20):
            visit(self.port, f"dataset:warm {number}")
            visit(self.port, f"pdu:warm {number}")
        wait_until(lambda: not _associations(self._pid), limit_s=30, what="warm visits end")
        self._rest = _state(self._pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops it."""
        self._daemon.__exit__(kind, error, trace)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._daemon.port

    @property
    def _pid(self) -> int:
        return self._daemon.children["gateway"].pid

    def look(self) -> None:
        """Raises unless it is alive, answers, holds nothing more than at rest, logged no trace, wrote nowhere else."""
        assert not self._daemon.ended("gateway")
        with RawAssociation(self.port, contexts=BOTH, timeout_s=HANG_LIMIT_S) as scu:
            assert scu.ask(echo_message()) == 0x0000
            scu.release()
        wait_until(lambda: not _associations(self._pid), limit_s=30, what="all associations have ended")
        wait_until(
            lambda: _state(self._pid)[0] <= self._rest[0] + 2 and _state(self._pid)[1] <= self._rest[1] + 4,
            limit_s=30,
            what=f"threads and descriptors as at rest {self._rest[:2]}",
        )
        grown = _state(self._pid)[2] - self._rest[2]
        assert grown < MEMORY_LIMIT_KB, f"{grown >> 10} MB more than at rest"
        assert self.traces() == []
        assert {path.name for path in self._folder.iterdir()} == {"root"}
        assert {path.name for path in (self._folder / "root").iterdir()} == {"store", "config.yaml", "gateway.out"}
        assert not [name for name in self.stored_names() if ".." in name or not name.isascii()]

    def stored_names(self) -> list[str]:
        """Names of files in the store, with their folder."""
        return [str(path.relative_to(self._daemon.store_root)) for path in self._daemon.store_root.rglob("*")]

    def traces(self) -> list[str]:
        """Lines of the log with a trace, or that are no event at all."""
        found = []
        for line in self._daemon.log_text("gateway").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                found.append(line[:300])
                continue
            if "exception" in event or event.get("level") == "error":
                found.append(line[:600])
        return found

    def restarted(self) -> None:
        """Killed and started again: what was received is replayed, and every record verifies."""
        self._daemon.kill("gateway")
        self._daemon.start("gateway")
        for command in (("audit", "verify"), ("verify",)):
            done = self._daemon.command(*command)
            assert done.returncode == 0, (command, done.stdout[-800:], done.stderr[-800:])


def _associations(pid: int) -> int:
    """Open associations: each has an eventfd that wakes it (stock classes have none)."""
    return len([1 for path in Path(f"/proc/{pid}/fd").iterdir() if _is_peer(path)])


def _is_peer(path: Path) -> bool:
    try:
        return str(path.readlink()).startswith("anon_inode:[eventfd]")
    except OSError:
        return False


def _state(pid: int) -> tuple[int, int, int]:
    """Threads, descriptors, resident KB."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["Threads"]), len(list(Path(f"/proc/{pid}/fd").iterdir())), int(fields["VmRSS"].split()[0])


def visit(port: int, seed: str) -> str:
    """What the gateway answers to the visit of that seed: a status, rejected, aborted, ended, answered."""
    kind, rng = seed.split(":", maxsplit=1)[0], Random(seed)
    try:
        return _data_set(port, rng) if kind == "dataset" else _pdus(port, rng)
    except Rejected:
        return "rejected"
    except (Ended, ConnectionError):
        return ENDED


def _data_set(port: int, rng: Random) -> str:
    """A C-STORE of a spoiled data set in the presentation context that its sender would choose."""
    data, syntax = spoiled(rng)
    sop_class, uid = identity_of(data)
    if rng.random() < 0.1:
        uid = rng.choice(UIDS).decode("latin-1")
    contexts = ((sop_class, syntax),)
    with RawAssociation(port, contexts=contexts, timeout_s=HANG_LIMIT_S) as scu:
        message = store_message(data, uid, sop_class=sop_class, pdu_bytes=rng.choice((1 << 20, 16_384, 1000)))
        status = scu.ask(message)
        scu.release()
    return f"0x{status:04X}"


def _pdus(port: int, rng: Random) -> str:
    """A connection that says something that is no DICOM any more."""
    with _Line(port) as line:
        if rng.random() < 0.3:
            line.say(rng.choice(OPENINGS)(rng))
            return line.ended()
        line.say(associate_request(contexts=BOTH))
        if line.answer() != "accepted":
            return ENDED
        for _ in range(rng.choice((1, 1, 2, 6))):
            line.say(rng.choice(TALK)(rng))
        return line.ended()


class _Line:
    """A socket that says anything and tells what came back."""

    def __init__(self, port: int) -> None:
        self._association = RawAssociation.__new__(RawAssociation)
        self._association.socket = _connection(port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._association.socket.close()

    def say(self, data: bytes) -> None:
        self._association.socket.sendall(data)

    def answer(self) -> str:
        kind, _ = self._association.read_pdu()
        return "accepted" if kind == 2 else "other"

    def ended(self) -> str:
        """The last thing heard after we have said that we say no more; a TimeoutError is a hang."""
        heard = ENDED
        try:
            self._association.socket.shutdown(socket.SHUT_WR)
            while True:
                heard = self._heard()
        except TimeoutError:
            raise
        except (Ended, OSError):  # also a shutdown of what the gateway has ended before
            return heard

    def _heard(self) -> str:
        kind, body = self._association.read_pdu()
        if kind != P_DATA:
            return {ABORT: "aborted", 2: "accepted", 3: "rejected"}.get(kind, "answered")
        if len(body) > 6 and body[5] & 2:
            return "answered"
        return "fragment"


def _connection(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), HANG_LIMIT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


Saying = Callable[[Random], bytes]


def _length(rng: Random) -> int:
    return rng.choice((*LENGTHS, 6, 8, 68, 1 << 20, (1 << 20) + 1))


def _any_command(rng: Random) -> bytes:
    """A command set with elements that are missing, doubled, too long or of another service (PS3.7 E.1)."""
    field = rng.choice((0x0001, 0x0030, 0x0010, 0x0020, 0x0021, 0x0FFF, 0x0100, 0x0110, 0x0120, 0x0130, 0x8001, 0xFFFF))
    parts = [
        element(0x0002, rng.choice((b"1.2.840.10008.1.1\0", b"", rng.choice(UIDS), b"1.2.840.10008.5.1.4.1.1.4\0"))),
        element(0x0100, struct.pack("<H", field)),
        element(0x0110, struct.pack("<H", rng.choice((0, 1, 0xFFFF)))),
        element(0x0800, struct.pack("<H", rng.choice((0, 1, 0x0101, 0x0102)))),
        element(0x1000, rng.choice(UIDS)),
        element(rng.choice((0x0001, 0x0600, 0x0700, 0x0900, 0x1005, 0x1008, 0x1031)),
                rng.randbytes(rng.choice((0, 1, 2, 70)))),
    ]  # fmt: skip
    if rng.random() < 0.4:
        del parts[rng.randrange(len(parts))]
    if rng.random() < 0.2:
        rng.shuffle(parts)
    if rng.random() < 0.2:
        parts.append(rng.choice(parts))
    body = b"".join(parts)
    stated = len(body) if rng.random() < 0.6 else rng.choice(LENGTHS)
    whole = element(0x0000, struct.pack("<L", stated)) + body
    return spoiled_bytes(rng, whole, 1) if rng.random() < 0.4 else whole


def _fragments(rng: Random) -> bytes:
    """PDVs of every kind in any order, in contexts that exist and that do not."""
    pieces = [echo_command(), store_command("1.2.3.4"), _any_command(rng), rng.randbytes(30), b""]
    said = b""
    for _ in range(rng.choice((1, 2, 5, 20))):
        item = pdv(rng.choice(pieces), rng.choice((1, 3, 3, 5, 0, 255)), rng.choice((0, 1, 2, 3, 3, 0xFF)))
        if rng.random() < 0.2:
            item = struct.pack(">L", _length(rng)) + item[4:]
        said += item
    return pdu(P_DATA, said)


def _command(rng: Random) -> bytes:
    return pdu(P_DATA, pdv(_any_command(rng), rng.choice((1, 3)), 3))


def _store(rng: Random) -> bytes:
    """A C-STORE whose data set is spoiled on its way: PDUs doubled, cut, of wrong length."""
    data, _ = spoiled(rng)
    return spoiled_bytes(
        rng, store_message(data[:20_000], "1.2.3.4", context_id=3, pdu_bytes=rng.choice((500, 16_384)))
    )


def _wrong_length(rng: Random) -> bytes:
    return struct.pack(">BBL", rng.choice((1, 2, 3, 4, 4, 5, 6, 7, 8, 0xFF)), 0, _length(rng)) + rng.randbytes(
        rng.choice((0, 4, 100))
    )


def _noise(rng: Random) -> bytes:
    return rng.randbytes(rng.choice((1, 5, 6, 7, 100, 3000)))


def _any_pdu(rng: Random) -> bytes:
    return pdu(rng.randrange(9), rng.choice((b"", b"\0\0\0\0", b"\0\0\2\6", rng.randbytes(10))))


def _second_request(rng: Random) -> bytes:
    del rng
    return associate_request(contexts=BOTH)


def _request(rng: Random) -> bytes:
    """An A-ASSOCIATE-RQ with its items spoiled (PS3.8 9.3.2)."""
    whole = associate_request(
        calling=rng.choice(("SCANNER", "A" * 16, "../../X")),
        called=rng.choice(("ANOMALYD", "OTHER")),
        contexts=rng.choice((BOTH, CONTEXTS, BOTH * 60)),
    )
    body = spoiled_bytes(rng, whole[6:]) if rng.random() < 0.8 else whole[6 : rng.randrange(6, len(whole))]
    if rng.random() < 0.2:
        return whole[: rng.randrange(len(whole))]
    return pdu(1, body)


def _title_of_bytes(rng: Random) -> bytes:
    whole = bytearray(associate_request())
    at = rng.choice((10, 26))
    whole[at : at + 16] = rng.choice(
        (b"\0" * 16, b"\xff" * 16, b" " * 16, b"\\" * 16, b"\r\n\x1b[2J" + b" " * 10, rng.randbytes(16))
    )
    return bytes(whole)


OPENINGS: tuple[Saying, ...] = (
    _request,
    _request,
    _request,
    _title_of_bytes,
    _noise,
    _wrong_length,
    _any_pdu,
    _fragments,
)
TALK: tuple[Saying, ...] = (
    _fragments, _fragments, _command, _command, _store, _wrong_length, _noise, _any_pdu, _second_request,
    lambda rng: echo_message()[: rng.randrange(40)], lambda _: echo_message(),
)  # fmt: skip
