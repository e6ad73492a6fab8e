"""The segment log: the truth about what was received (DESIGN 4, promise 1; GATEWAY 4). Here: reading, for any role.

Files `segments/NNNNNNNN.seg`, append-only (writer: segment_writer.py), rolled at 256 MB; a larger record gets a
segment of its own. The one change ever made to a written record is `punch`: a study is forgotten on request.
"""

import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from anomalyd.errors import Broken
from anomalyd.storage import space
from anomalyd.storage.folders import flush_folder
from anomalyd.storage.records import (
    ALIGNMENT,
    HEADER_BYTES,
    MAGIC,
    Place,
    Record,
    RecordHeader,
    RecordKind,
    decode_header,
    encode_facts,
)

_READ_BYTES: Final = 1 << 20
_SEGMENT_NAME = re.compile(r"([0-9]{8})\.seg")
FIRST_SEGMENT = 1


class DamagedRecord(Broken):
    """A record of the log does not hold what its checksums say."""

    def __init__(self, place: Place, what: str) -> None:
        self.place, self.what = place, what
        super().__init__(f"segment {place.segment} at {place.offset}: {what}; restore the segment from a backup")


class PurgedRecord(Broken):
    """The record was forgotten on request; its payload is gone."""

    def __init__(self, place: Place) -> None:
        self.place = place
        super().__init__(f"segment {place.segment} at {place.offset}: purged on request, its bytes are gone")


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of a segment that is no valid record: torn by a crash, or rotten."""

    place: Place
    length: int
    what: str
    is_cut_off: bool = False
    """True where a crash tore it in the last group of the log, and `SegmentWriter.recover` has removed it."""


def segments_directory(root: Path) -> Path:
    """Where the segments of a store lie."""
    return root / "segments"


class SegmentLog:
    """Reads the log below `root`. Holds no file open; any number may read while the gateway writes."""

    def __init__(self, root: Path) -> None:
        self.directory = segments_directory(root)

    def segments(self) -> tuple[int, ...]:
        """Numbers of the segments that exist, oldest first."""
        if not self.directory.is_dir():
            return ()
        found = (_SEGMENT_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return tuple(sorted(int(match[1]) for match in found if match))

    def path(self, segment: int) -> Path:
        """The file of a segment."""
        return self.directory / f"{segment:08d}.seg"

    def size(self, segment: int) -> int:
        """Bytes in a segment."""
        return self.path(segment).stat().st_size

    def read(self, segment: int, offset: int, length: int) -> bytes:
        """The Part 10 file of the record at `offset`; `length` is what the index says it has.

        Checks everything that the record can be checked by. Raises DamagedRecord, PurgedRecord.
        """
        place = Place(segment, offset)
        with self._opened(segment) as descriptor:
            record = self._living(descriptor, place, length)
            payload = os.pread(descriptor, length, record.payload_offset)
        data = memoryview(payload)[record.header.prefix_length :]
        if len(payload) != length or hashlib.sha256(data).hexdigest() != record.facts.get("sha256"):
            raise DamagedRecord(place, "the data set's SHA-256 differs from the one in the record")
        return payload

    def open(self, segment: int, offset: int, length: int) -> BinaryIO:
        """The same file as a stream, for who needs its begin alone: the data set is not checked by its digest.

        Raises DamagedRecord, PurgedRecord. To be closed by the caller.
        """
        place = Place(segment, offset)
        with self._opened(segment) as descriptor:
            record = self._living(descriptor, place, length)
            return io.BufferedReader(_Window(os.dup(descriptor), record.payload_offset, length))

    def record(self, place: Place) -> Record:
        """Header and facts of the record at a place, checked; raises DamagedRecord."""
        with self._opened(place.segment) as descriptor:
            return self._record(descriptor, place)

    def head_of_data(self, record: Record, limit: int) -> bytes:
        """The first bytes of a record's data set, at most `limit`."""
        length = min(limit, record.header.payload_length - record.header.prefix_length)
        with self._opened(record.place.segment) as descriptor:
            return os.pread(descriptor, length, record.payload_offset + record.header.prefix_length)

    def scan(self, start: Place | None = None) -> Iterator[Record | Damage]:
        """All records from a place on (or from the begin), each verified to its last byte, and what lies between.

        43 us a record and the time to hash its bytes. Damage at the end of the last segment is a torn tail.
        """
        start = start or Place(FIRST_SEGMENT, 0)
        for segment in self.segments():
            if segment < start.segment:
                continue
            with self._opened(segment) as descriptor:
                yield from self._scan_segment(
                    descriptor, Place(segment, start.offset if segment == start.segment else 0)
                )

    def punch(self, place: Place) -> None:
        """Forgets the payload of one record: tombstone first, then zeros, then the blocks are given back.

        Killed in between, calling it again ends the work: the tombstone stands, its payload is zeroed again.
        """
        descriptor = os.open(self.path(place.segment), os.O_RDWR | os.O_CLOEXEC)
        try:
            record = self._record(descriptor, place)
            facts = os.pread(descriptor, record.header.facts_length, place.offset + HEADER_BYTES)
            stone = replace(record.header, kind=RecordKind.PURGED, prefix_length=0, text_crc=zlib.crc32(facts))
            _write_all(descriptor, stone.encoded(), place.offset)
            os.fdatasync(descriptor)
            _overwrite_with_zeros(descriptor, record.payload_offset, record.header.payload_length)
            os.fdatasync(descriptor)
            space.give_back(descriptor, record.payload_offset, record.header.payload_length)
        finally:
            os.close(descriptor)

    def blank(self, place: Place, length: int) -> None:
        """Makes a stretch without a valid record one record that means nothing; it may be called again."""
        facts = encode_facts({})
        header = RecordHeader(RecordKind.NOTE, len(facts), length - HEADER_BYTES - len(facts), 0, 0, zlib.crc32(facts))
        descriptor = os.open(self.path(place.segment), os.O_RDWR | os.O_CLOEXEC)
        try:
            _overwrite_with_zeros(descriptor, place.offset, length)
            os.fdatasync(descriptor)
            _write_all(descriptor, header.encoded() + facts, place.offset)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def drop(self, segment: int) -> None:
        """Removes a whole segment (retention: all its instances are past their time); never the newest."""
        if segment == self.segments()[-1]:
            raise Broken(f"segment {segment} is the one being written: it cannot be dropped")
        self.path(segment).unlink()
        flush_folder(self.directory)

    @contextmanager
    def _opened(self, segment: int) -> Iterator[int]:
        try:
            descriptor = os.open(self.path(segment), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise DamagedRecord(Place(segment, 0), "the segment is not there") from exc
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _living(self, descriptor: int, place: Place, length: int) -> Record:
        """The record, if it is not purged and as long as the index says."""
        record = self._record(descriptor, place)
        if record.header.kind is RecordKind.PURGED:
            raise PurgedRecord(place)
        if record.header.payload_length != length:
            raise DamagedRecord(place, f"{record.header.payload_length} bytes of payload, the index says {length}")
        return record

    def _record(self, descriptor: int, place: Place) -> Record:
        header = decode_header(os.pread(descriptor, HEADER_BYTES, place.offset))
        if header is None:
            raise DamagedRecord(place, "no record begins here")
        text_length = header.facts_length + (0 if header.kind is RecordKind.PURGED else header.prefix_length)
        text = os.pread(descriptor, text_length, place.offset + HEADER_BYTES)
        if len(text) != text_length or zlib.crc32(text) != header.text_crc:
            raise DamagedRecord(place, "facts or file meta information are not what their CRC says")
        return Record(place, header, json.loads(text[: header.facts_length]))

    def _scan_segment(self, descriptor: int, place: Place) -> Iterator[Record | Damage]:
        end = os.fstat(descriptor).st_size
        while place.offset < end:
            try:
                record = self._record(descriptor, place)
                if record.end.offset > end:
                    raise DamagedRecord(place, f"the record ends at {record.end.offset}, the segment at {end}")  # noqa: TRY301 - one way out for all damage
                _check_payload(descriptor, record)
            except DamagedRecord as exc:
                following = _next_header(descriptor, place.offset + ALIGNMENT, end)
                yield Damage(place, following - place.offset, exc.what)
                place = Place(place.segment, following)
            else:
                yield record
                place = record.end


class _Window(io.RawIOBase):
    """Bytes [start, start + length) of a file, read by position; closes its own descriptor."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        super().__init__()
        self._descriptor, self._start, self._length = descriptor, start, length
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer from the position on; 0 at the end."""
        wanted = min(len(buffer), self._length - self._position)
        if wanted <= 0:
            return 0
        count = os.preadv(self._descriptor, [memoryview(buffer)[:wanted]], self._start + self._position)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position, which may lie beyond the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def close(self) -> None:
        """Gives the descriptor back, once."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _check_payload(descriptor: int, record: Record) -> None:
    if record.header.kind is not RecordKind.INSTANCE:
        return
    digest = hashlib.sha256()
    offset = record.payload_offset + record.header.prefix_length
    end = record.payload_offset + record.header.payload_length
    while offset < end:
        piece = os.pread(descriptor, min(_READ_BYTES, end - offset), offset)
        if not piece:
            break
        digest.update(piece)
        offset += len(piece)
    if digest.hexdigest() != record.facts.get("sha256"):
        raise DamagedRecord(record.place, "the data set's SHA-256 differs from the one in the record")


def _next_header(descriptor: int, offset: int, end: int) -> int:
    """Offset of the next valid header at or after `offset`, or `end`."""
    while offset < end:
        block = os.pread(descriptor, _READ_BYTES, offset)
        at = block.find(MAGIC)
        while at >= 0:
            if at % ALIGNMENT == 0 and decode_header(os.pread(descriptor, HEADER_BYTES, offset + at)) is not None:
                return offset + at
            at = block.find(MAGIC, at + 1)
        if not block:
            break
        offset += len(block)
    return end


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _overwrite_with_zeros(descriptor: int, offset: int, length: int) -> None:
    while length > 0:
        piece = bytes(min(_READ_BYTES, length))
        _write_all(descriptor, piece, offset)
        offset, length = offset + len(piece), length - len(piece)
