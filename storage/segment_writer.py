"""The segment log's one writer: the gateway's (GATEWAY 4). One `writev` and one `fdatasync` make a group durable.

Order on disk: a new segment is created and its name made durable before the first record in it is acknowledged.
After a failed write or flush the segment is closed for ever: what a second fsync says about it cannot be trusted.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from anomalyd.errors import Transient
from anomalyd.storage import space
from anomalyd.storage.crash import crash_point
from anomalyd.storage.folders import flush_folder, make_folder
from anomalyd.storage.records import Buffer, NewRecord, Place, Record, Spilled
from anomalyd.storage.segments import FIRST_SEGMENT, Damage, SegmentLog

SEGMENT_BYTES: Final = 256 * 1024 * 1024
_IOV_MAX: Final = 1024  # Linux, limits.h
_COPY_BYTES: Final = 1 << 20
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_RESERVE_BYTES: Final = 16 * 1024 * 1024
_NO_COPY_IN_KERNEL: Final = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_LOCK_RETRY_S: Final = 0.5


class LogWriteFailed(Transient):
    """The log could not be written or flushed; nothing of the group may be acknowledged."""

    def __init__(self, segment: int, reason: OSError) -> None:
        self.segment = segment
        super().__init__(f"segment {segment}: {os.strerror(reason.errno or 0)}; look at the disk below storage.root")


class SegmentWriter:
    """Appends to the log below `root`. Not thread-safe: one committer thread uses it.

    Order of use: `lock`, `recover` (to its end), then `append`; `close` last.
    """

    def __init__(self, root: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.log = SegmentLog(root)
        self._segment_bytes = segment_bytes
        self._lock: int | None = None
        self._descriptor: int | None = None
        self._segment = 0
        self._end = 0
        self._reserved = 0
        self._cached_from = 0

    def lock(self, stop: threading.Event) -> bool:
        """Takes the exclusive right to write; a second gateway waits here. False when `stop` came first."""
        directory = self.log.directory
        make_folder(directory)
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if stop.wait(_LOCK_RETRY_S):
                    return False
            else:
                return True

    def recover(self, start: Place) -> Iterator[Record | Damage]:
        """What stands in the log from `start` on, verified; what a crash tore in its last group is removed.

        A power cut may tear any record of a group that was not flushed, and leave others: those are kept. Damage that
        a later group follows is left where it is (and is given out): it is no work of a crash. What stands behind
        damage is given out after it was removed: else whoever took it would begin behind it the next time.
        """
        end = start
        torn: list[Damage] = []
        behind: list[Record] = []
        for found in self.log.scan(start):
            if isinstance(found, Damage):
                torn.append(found)
                continue
            if rotten := [damage for damage in torn if damage.place < found.group]:
                yield from rotten
                yield from behind
                torn, behind = torn[len(rotten) :], []
            end = found.end
            if torn:
                behind.append(found)
            else:
                yield found
        segments = self.log.segments()
        newest = segments[-1] if segments else 0
        for damage in torn:
            yield self._mended(damage, end) if damage.place.segment == newest else damage
        yield from behind
        if not torn and not self._reaches(end, newest):
            yield Damage(end, 0, "the log ends before what the index knows: acknowledged images are lost")
        self._continue_after(newest, end)

    def _reaches(self, end: Place, newest: int) -> bool:
        """True when the log is as long as the index says."""
        if end.offset == 0:
            return True
        return newest > end.segment or (newest == end.segment and self.log.size(newest) >= end.offset)

    def append(self, records: Sequence[NewRecord]) -> list[Place]:
        """Writes a group and flushes it; when this returns, all of it survives power loss.

        Raises LogWriteFailed: none of the group may be acknowledged, the next group goes into a new segment.
        """
        size = sum(record.on_disk_length for record in records)
        try:
            if self._descriptor is None or (self._end and self._end + size > self._segment_bytes):
                self._roll()
            self._reserve(self._end + size)
            places = self._write(records)
            crash_point("gateway.written")
            os.fdatasync(self._fd)
        except OSError as exc:
            failed = self._segment
            self._abandon()  # cut at `_end`: what a failed group left is taken back, if that can be done
            with suppress(OSError):  # also: there is no such file
                if self.log.size(failed) == 0:  # else a full disk leaves an empty one at each try
                    self.log.path(failed).unlink()
            raise LogWriteFailed(failed, exc) from exc
        self._end += size
        crash_point("gateway.flushed")
        return places

    def give_back_cache(self) -> None:
        """The page cache of what was flushed: its pages are warm, and the next group is written into them.

        Where memory is given to a virtual machine as it is touched, ever new pages halved the rate.
        """
        if self._descriptor is not None and self._cached_from < self._end:
            with suppress(OSError):  # advice: a file system may know nothing of it
                length = self._end - self._cached_from
                os.posix_fadvise(self._descriptor, self._cached_from, length, os.POSIX_FADV_DONTNEED)
            self._cached_from = self._end // _PAGE_BYTES * _PAGE_BYTES  # a page that is begun stays

    @property
    def end(self) -> Place:
        """Where the next record of this segment would begin."""
        return Place(self._segment, self._end)

    def close(self) -> None:
        """Gives the lock back."""
        self._abandon()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def _fd(self) -> int:
        if self._descriptor is None:
            raise AssertionError("append before a segment is open")
        return self._descriptor

    def _write(self, records: Sequence[NewRecord]) -> list[Place]:
        places = []
        pieces: list[Buffer] = []
        offset = written = self._end
        for record in records:
            places.append(Place(self._segment, offset))
            offset += record.on_disk_length
            pieces.append(record.head(places[-1].offset - self._end))
            if isinstance(record.data, Spilled):
                written = self._write_pieces(pieces, written)
                pieces = []
                written = self._copy(record.data, written)
            else:
                pieces.extend(record.data)
            pieces.append(record.padding)
        self._write_pieces(pieces, written)
        return places

    def _write_pieces(self, pieces: list[Buffer], offset: int) -> int:
        """Writes all pieces at an offset, gives the offset after them; a short write is carried on."""
        pieces = [piece for piece in pieces if len(piece)]
        while pieces:
            written = os.pwritev(self._fd, pieces[:_IOV_MAX], offset)
            offset += written
            done = 0
            while done < len(pieces) and written >= len(pieces[done]):
                written -= len(pieces[done])
                done += 1
            pieces = pieces[done:]
            if written:
                pieces[0] = memoryview(pieces[0])[written:]
        return offset

    def _copy(self, data: Spilled, offset: int) -> int:
        """Copies a spilled data set, inside the kernel where that can be done; gives the offset after it."""
        done = 0
        while done < data.length:
            try:
                copied = os.copy_file_range(
                    data.descriptor, self._fd, data.length - done, offset_src=done, offset_dst=offset + done
                )
            except OSError as exc:
                if exc.errno not in _NO_COPY_IN_KERNEL:
                    raise
                piece = os.pread(data.descriptor, _COPY_BYTES, done)
                copied = self._write_pieces([piece], offset + done) - offset - done
            if copied == 0:
                raise OSError(errno.EIO, "the spilled data set is shorter than it was")
            done += copied
        return offset + done

    def _roll(self) -> None:
        self._abandon()
        number = max((self._segment, *self.log.segments()), default=0) + 1
        descriptor = os.open(self.log.path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._descriptor, self._segment, self._end, self._reserved, self._cached_from = descriptor, number, 0, 0, 0
        os.fsync(descriptor)
        flush_folder(self.log.directory)

    def _reserve(self, end: int) -> None:
        """Room for the next records: appending to it needs half the CPU, and flushing waits less for the journal."""
        if end > self._reserved:
            upto = end + _RESERVE_BYTES
            space.reserve(self._fd, self._reserved, upto - self._reserved)
            self._reserved = upto

    def _abandon(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.ftruncate(
                    self._descriptor, self._end
                )  # room that was reserved and not used; what a failed group left
                os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _mended(self, torn: Damage, end: Place) -> Damage:
        """The log without it. end: of the last valid record, behind which is nothing to keep."""
        if torn.place >= end:
            self._cut(torn.place)
        else:
            self.log.blank(torn.place, torn.length)
        return replace(torn, is_cut_off=True)

    def _cut(self, place: Place) -> None:
        descriptor = os.open(self.log.path(place.segment), os.O_WRONLY | os.O_CLOEXEC)
        try:
            if self.log.size(place.segment) > place.offset:  # not cut further in front already
                os.ftruncate(descriptor, place.offset)
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _continue_after(self, newest: int, end: Place) -> None:
        """Opens the newest segment for appending, or leaves it to `_roll` when there is none or it was too short.

        It is flushed: a gateway that was killed left its last group to the page cache, and from now on a repeat of
        these images is answered as a duplicate.
        """
        self._segment = max(newest, end.segment if end.offset else 0)
        if newest >= FIRST_SEGMENT and self._reaches(end, newest):
            self._descriptor = os.open(self.log.path(newest), os.O_WRONLY | os.O_CLOEXEC)
            os.fsync(self._descriptor)
            self._end = self._reserved = self._cached_from = self.log.size(newest)
