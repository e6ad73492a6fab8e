"""Durable acceptance: an instance is in the log and in the index before `accept` returns (DESIGN 4, promises 1 and 2).

One committer thread takes all that waits, writes it with one `writev` and one `fdatasync`, then commits index and
audit rows in one transaction; groups form by themselves while it works (GATEWAY 4). Any thread may call `accept`.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.exc import DBAPIError

from anomalyd.storage import index
from anomalyd.storage.alarms import AlarmKind, NewAlarm, raise_alarm
from anomalyd.storage.audit_events import AuditEvent
from anomalyd.storage.crash import crash_point
from anomalyd.storage.engine import Store
from anomalyd.storage.index import IndexEntry
from anomalyd.storage.part10 import file_prefix
from anomalyd.storage.peek import PEEK_LIMIT, Peeked, peek
from anomalyd.storage.received import DiskFloorReached, NotStored, ReceivedInstance, Verdict
from anomalyd.storage.records import NewRecord, Place, Record, RecordKind, encode_facts
from anomalyd.storage.segment_writer import SEGMENT_BYTES, LogWriteFailed, SegmentWriter
from anomalyd.storage.segments import Damage

GROUP_INSTANCES: Final = 16
GROUP_BYTES: Final = 32 * 1024 * 1024
COMMIT_TIMEOUT_S: Final = 20.0
_REPLAY_GROUP: Final = 256
_FAILURES_UNTIL_NOT_READY: Final = 2


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the start found in the log that the index did not know."""

    records: int
    torn_bytes: int
    """Cut off the end: a record that a crash broke off; never acknowledged."""
    damaged: int
    """Stretches in the middle that are no valid record; an alarm stands for each."""


class _Waiting:
    """One request at the committer; the lock is held until its fate is known."""

    __slots__ = ("done", "error", "event", "instance", "verdict")

    def __init__(self, instance: ReceivedInstance | None, event: AuditEvent | None) -> None:
        self.instance, self.event = instance, event
        self.verdict = Verdict.STORED
        self.error: NotStored | None = None
        self.done = threading.Lock()  # a plain lock wakes faster than Event or Condition (GATEWAY 4)
        self.done.acquire()

    @property
    def length(self) -> int:
        return self.instance.length if self.instance else 0


class Inbox:
    """The gateway's way into the store. Order of use: `open`, then `accept` and `note`, `close` last."""

    def __init__(
        self,
        store: Store,
        *,
        disk_floor: int,
        segment_bytes: int = SEGMENT_BYTES,
        commit_timeout_s: float = COMMIT_TIMEOUT_S,
        on_commit: Callable[[], object] = lambda: None,
    ) -> None:
        """on_commit: called by the committer after each group that held an instance; must not block."""
        self._store = store
        self._writer = SegmentWriter(store.root, segment_bytes)
        self._disk_floor = disk_floor
        self._timeout_s = commit_timeout_s
        self._on_commit = on_commit
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._held: _Waiting | None = None
        self._failures = 0
        self._pending_bytes = 0
        self._pending_lock = threading.Lock()
        self._thread = threading.Thread(target=self._commit_groups, name="committer")

    def open(self, stop: threading.Event) -> Replayed | None:
        """Takes the log (waiting for another gateway to leave it), replays it, starts the committer.

        None when `stop` came first. Raises OSError and sqlalchemy errors: without its store no gateway can run.
        """
        if not self._writer.lock(stop):
            self._writer.close()
            return None
        replayed = self._replay()
        self._thread.start()
        return replayed

    def close(self) -> None:
        """Commits what waits and ends the committer."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._writer.close()

    @property
    def is_ready(self) -> bool:
        """False after two failed groups in a row, or when the committer is gone: nothing can be made durable now."""
        return self._failures < _FAILURES_UNTIL_NOT_READY and self._thread.is_alive()

    def check_room(self, length: int = 0) -> None:
        """Raises DiskFloorReached if `length` bytes more would leave less than the floor free."""
        free = self._store.free_bytes()
        needed = length + self._pending_bytes
        if free - needed < self._disk_floor:
            raise DiskFloorReached(free, needed, self._disk_floor)

    def accept(self, instance: ReceivedInstance) -> Verdict:
        """Makes one instance durable; when this returns it survives power loss.

        Raises DiskFloorReached, NotStored. After NotStored by time-out the instance may still be committed later
        (its sender will send it again: a duplicate); its buffers must not be used again.
        """
        length = instance.length
        with self._pending_lock:
            self.check_room(length)
            self._pending_bytes += length
        try:
            return self._submitted(_Waiting(instance, None)).verdict
        finally:
            with self._pending_lock:
                self._pending_bytes -= length

    def note(self, event: AuditEvent) -> None:
        """Makes the audit row of a refusal durable, with a record in the log; raises NotStored."""
        self._submitted(_Waiting(None, event))

    def probe(self) -> None:
        """Writes and flushes a record that means nothing, and commits; raises NotStored. A success ends `not ready`."""
        self._submitted(_Waiting(None, None))

    def _submitted(self, waiting: _Waiting) -> _Waiting:
        self._queue.put(waiting)
        if not waiting.done.acquire(timeout=self._timeout_s):
            raise NotStored(f"not committed within {self._timeout_s:g} s: look at the disk below storage.root")
        if waiting.error is not None:
            raise waiting.error
        return waiting

    # The committer's thread

    def _commit_groups(self) -> None:
        while group := self._next_group():
            self._commit(group)

    def _next_group(self) -> list[_Waiting]:
        """All that waits, up to the limits of a group; empty at the end."""
        first = self._held or self._queue.get()
        self._held = None
        if first is None:
            return []
        group, size = [first], first.length
        while len(group) < GROUP_INSTANCES and not self._queue.empty():
            following = self._queue.get()
            if following is None:
                self._queue.put(None)  # closing: what came before it goes first
                break
            if size + following.length > GROUP_BYTES:
                self._held = following
                break
            group.append(following)
            size += following.length
        return group

    def _commit(self, group: list[_Waiting]) -> None:
        try:
            records, peeked = self._records(group)
            places = self._writer.append(records)
            entries = [
                IndexEntry(place, record.received_us, facts, record.payload_length, record.data_length, looked)
                for place, record, (facts, looked) in zip(places, records, peeked, strict=True)
                if facts
            ]
            with self._store.write() as connection:
                index.apply(self._store, connection, entries, self._writer.end)
            crash_point("gateway.committed")
        except (LogWriteFailed, DBAPIError) as exc:
            self._failures += 1
            error = NotStored(f"the group could not be committed: {exc}")
            for waiting in group:
                waiting.error = error
        else:
            self._failures = 0
            if any(waiting.instance for waiting in group):
                self._on_commit()
        for waiting in group:
            waiting.done.release()

    def _records(self, group: list[_Waiting]) -> tuple[list[NewRecord], list[tuple[dict[str, Any], Peeked | None]]]:
        """The records of a group, with the facts and the peeked header of each."""
        versions = self._versions(group)
        records: list[NewRecord] = []
        facts_of: list[tuple[dict[str, Any], Peeked | None]] = []
        for waiting in group:
            instance, event = waiting.instance, waiting.event
            if instance is not None:
                kept = versions.setdefault(instance.peeked.instance_uid, [])
                waiting.verdict = index.verdict_on(kept, instance.sha256)
                if waiting.verdict is not Verdict.DUPLICATE:
                    kept.append((instance.sha256, waiting.verdict.value))
                    facts = index.instance_facts(instance, waiting.verdict)
                    records.append(_instance_record(instance, encode_facts(facts)))
                    facts_of.append((facts, instance.peeked))
                    continue
                event = index.duplicate_event(self._store, instance)
            facts = index.note_facts(event) if event else {}
            at = event.at if event else self._store.clock()
            records.append(NewRecord(RecordKind.NOTE, index.to_microseconds(at), encode_facts(facts)))
            facts_of.append((facts, None))
        return records, facts_of

    def _versions(self, group: list[_Waiting]) -> dict[str, list[tuple[str, str]]]:
        uids = [waiting.instance.peeked.instance_uid for waiting in group if waiting.instance]
        if not uids:
            return {}
        with self._store.read() as connection:
            return index.versions_of(connection, uids)

    # Start

    def _replay(self) -> Replayed:
        with self._store.read() as connection:
            start = index.position(connection)
        records = torn = damaged = 0
        entries: list[IndexEntry] = []
        end = start
        for found in self._writer.recover(start):
            if isinstance(found, Damage):
                torn += found.length if found.is_cut_off else 0
                if not found.is_cut_off:
                    damaged += 1
                    self._raise_damage(found)
                continue
            records += 1
            end = found.end
            if found.facts:
                entries.append(self._entry(found))
            if len(entries) == _REPLAY_GROUP:
                self._index_again(entries, end)
                entries = []
        if end != start:
            self._index_again(entries, end)
        return Replayed(records, torn, damaged)

    def _index_again(self, entries: list[IndexEntry], end: Place) -> None:
        with self._store.write() as connection:
            index.apply(self._store, connection, index.judged_again(connection, entries), end)

    def _entry(self, record: Record) -> IndexEntry:
        peeked = None
        if record.header.kind is RecordKind.INSTANCE:
            head = self._writer.log.head_of_data(record, PEEK_LIMIT)
            peeked = peek(head, record.facts["transfer_syntax"])
        header = record.header
        return IndexEntry(
            place=record.place,
            received_us=header.received_us,
            facts=record.facts,
            payload_length=header.payload_length,
            data_length=header.payload_length - header.prefix_length,
            peeked=peeked,
        )

    def _raise_damage(self, damage: Damage) -> None:
        alarm = NewAlarm(
            kind=AlarmKind.STORE_DAMAGED,
            subject=f"segment {damage.place.segment} at {damage.place.offset}",
            text=f"{damage.length} bytes of the segment log are damaged: {damage.what}",
            next_step="run `anomalyd verify`; restore the segment from a backup, or let the sender send again",
            at=self._store.clock(),
        )
        with self._store.write_through() as connection:
            raise_alarm(connection, alarm)


def _instance_record(instance: ReceivedInstance, facts: bytes) -> NewRecord:
    prefix = file_prefix(
        sop_class=instance.peeked.sop_class,
        instance_uid=instance.peeked.instance_uid,
        transfer_syntax=instance.transfer_syntax,
        calling_ae=instance.sender.calling_ae,
        called_ae=instance.sender.called_ae,
    )
    received_us = index.to_microseconds(instance.received_at)
    return NewRecord(RecordKind.INSTANCE, received_us, facts, prefix, instance.data)
