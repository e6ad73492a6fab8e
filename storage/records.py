"""How one record of the segment log looks on disk (decision: GATEWAY 4; the log itself is in segments.py).

    header   64 bytes, little endian, `_HEADER`, then `_GROUP`; ends in its own CRC32
    facts    JSON, UTF-8: what is needed to rebuild the index and audit rows, no patient text
    payload  a complete Part 10 file: `prefix` (preamble and file meta information) and the data set as received
    padding  zeros up to a multiple of 64

Every record begins on a multiple of 64, so a header lies within one disk sector and is replaced in one piece.
The CRC in the header covers facts and prefix; the SHA-256 in the facts (`sha256`) covers the data set.
"""

import json
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

ALIGNMENT = 64
MAGIC = b"ANOMSEG1"
VERSION = 1
# magic, version, kind, facts length, payload length, received (us since 1970), prefix length, CRC32 of facts + prefix
_HEADER = struct.Struct("<8sHHIQQII")
# Bytes from the begin of the group that was flushed with this record, and the same inverted: logs of before have zeros
_GROUP = struct.Struct("<II")
_NO_GROUP = 0xFFFFFFFF
_CRC = struct.Struct("<I")
HEADER_BYTES = ALIGNMENT
_FILLER = bytes(HEADER_BYTES - _HEADER.size - _GROUP.size - _CRC.size)
FACTS_LIMIT = 1 << 20
"""No writer makes facts this long: a longer length is damage."""

Buffer = bytes | bytearray | memoryview


class RecordKind(IntEnum):
    """What a record holds."""

    INSTANCE = 1
    """Facts and a Part 10 file."""
    NOTE = 2
    """Facts alone: a duplicate, a rejection."""
    PURGED = 3
    """Facts of an instance that was forgotten on request; the payload is zeros (a tombstone)."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a record begins: segment number (from 1) and byte offset in it."""

    segment: int
    offset: int


class Spilled:
    """A data set too large for memory: a nameless file that is gone when nobody holds this object any more."""

    descriptor = -1

    def __init__(self, directory: Path) -> None:
        self.descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self.length = 0

    def write(self, piece: Buffer) -> None:
        """Appends; raises OSError."""
        view = memoryview(piece)
        while view:
            written = os.write(self.descriptor, view)
            self.length += written
            view = view[written:]

    def close(self) -> None:
        """Gives the space back at once; nobody may be reading."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        """The committer may outlive the association that spilled: whoever is last closes."""
        self.close()


@dataclass(frozen=True, slots=True, eq=False)
class NewRecord:
    """A record to be written; `data` is the data set in the pieces it came in."""

    kind: RecordKind
    received_us: int
    """Microseconds since 1970 in UTC: the only clock that replay knows."""
    facts: bytes
    prefix: bytes = b""
    data: Sequence[Buffer] | Spilled = ()

    @property
    def data_length(self) -> int:
        """Length of the data set in bytes."""
        if isinstance(self.data, Spilled):
            return self.data.length
        return sum(map(len, self.data))

    @property
    def payload_length(self) -> int:
        """Length of the Part 10 file in bytes."""
        return len(self.prefix) + self.data_length

    def head(self, in_group: int) -> bytes:
        """Header, facts and prefix: all that stands before the data set. in_group: bytes of its group before it."""
        crc = zlib.crc32(self.prefix, zlib.crc32(self.facts))
        header = RecordHeader(
            self.kind, len(self.facts), self.payload_length, self.received_us, len(self.prefix), crc, in_group
        )
        return header.encoded() + self.facts + self.prefix

    @property
    def padding(self) -> bytes:
        """Zeros that end the record on a multiple of ALIGNMENT."""
        return bytes(-(HEADER_BYTES + len(self.facts) + self.payload_length) % ALIGNMENT)

    @property
    def on_disk_length(self) -> int:
        """Bytes that the record takes in its segment."""
        length = HEADER_BYTES + len(self.facts) + self.payload_length
        return length + -length % ALIGNMENT


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The fixed part in front of every record."""

    kind: RecordKind
    facts_length: int
    payload_length: int
    received_us: int
    prefix_length: int
    text_crc: int
    in_group: int = 0
    """How many bytes before it the group begins that was flushed with it."""

    @property
    def record_length(self) -> int:
        """Bytes from this record's begin to the next one's."""
        length = HEADER_BYTES + self.facts_length + self.payload_length
        return length + -length % ALIGNMENT

    def encoded(self) -> bytes:
        """The 64 bytes on disk."""
        fixed = _HEADER.pack(
            MAGIC,
            VERSION,
            self.kind,
            self.facts_length,
            self.payload_length,
            self.received_us,
            self.prefix_length,
            self.text_crc,
        )
        group = _GROUP.pack(self.in_group, self.in_group ^ _NO_GROUP)
        return fixed + group + _FILLER + _CRC.pack(zlib.crc32(fixed))


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A record that was read: header and facts, not the payload."""

    place: Place
    header: RecordHeader
    facts: dict[str, Any]

    @property
    def end(self) -> Place:
        """Where the next record begins."""
        return Place(self.place.segment, self.place.offset + self.header.record_length)

    @property
    def group(self) -> Place:
        """Where the group begins that was flushed with it: either all of it was acknowledged, or nothing."""
        return Place(self.place.segment, self.place.offset - self.header.in_group)

    @property
    def payload_offset(self) -> int:
        """Where in the segment the Part 10 file begins."""
        return self.place.offset + HEADER_BYTES + self.header.facts_length


def decode_header(raw: bytes) -> RecordHeader | None:
    """The header in 64 bytes, or None when they are no valid one."""
    if len(raw) != HEADER_BYTES or not raw.startswith(MAGIC):
        return None
    if _CRC.unpack_from(raw, HEADER_BYTES - _CRC.size)[0] != zlib.crc32(raw[: _HEADER.size]):
        return None
    _, version, kind, facts_length, payload_length, received_us, prefix_length, text_crc = _HEADER.unpack_from(raw)
    if version != VERSION or facts_length > FACTS_LIMIT or prefix_length > payload_length:
        return None
    in_group, inverted = _GROUP.unpack_from(raw, _HEADER.size)
    return RecordHeader(
        RecordKind(kind), facts_length, payload_length, received_us, prefix_length, text_crc,
        in_group if in_group == inverted ^ _NO_GROUP else 0,
    )  # fmt: skip


def encode_facts(facts: dict[str, Any]) -> bytes:
    """Facts as they stand in the log: sorted keys, no blanks."""
    return json.dumps(facts, separators=(",", ":"), sort_keys=True).encode()
