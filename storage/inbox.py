"""Durable acceptance: an instance and its facts are flushed to disk before `accept` returns (DESIGN 4, promise 1, 2).

Two threads. The committer takes all that waits and makes it durable in the log with one `writev` and one `fdatasync`;
groups form by themselves while it works (GATEWAY 4). The indexer then writes index and audit rows for all groups that
wait. With Acknowledge.AFTER_FLUSH a caller goes on after the first, with AFTER_INDEX after the second
(docs/decisions/0050-acknowledge-after-flush.md).
"""

import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from anomalyd.storage import index
from anomalyd.storage.audit_events import AuditEvent
from anomalyd.storage.engine import Store
from anomalyd.storage.gathering import Gathering
from anomalyd.storage.index import IndexEntry
from anomalyd.storage.indexer import FlushedGroup, Indexer, Promise
from anomalyd.storage.known_versions import KnownVersions
from anomalyd.storage.part10 import file_prefix
from anomalyd.storage.received import DiskFloorReached, NotStored, ReceivedInstance, Verdict, not_stored
from anomalyd.storage.records import NewRecord, RecordKind, encode_facts
from anomalyd.storage.replay import Replayed, replay
from anomalyd.storage.segment_writer import SEGMENT_BYTES, LogWriteFailed, SegmentWriter

GROUP_INSTANCES: Final = 16
GROUP_BYTES: Final = 32 * 1024 * 1024
COMMIT_TIMEOUT_S: Final = 20.0
_FAILURES_UNTIL_NOT_READY: Final = 2


class Acknowledge(Enum):
    """When `accept` returns; in both cases the instance survives power loss."""

    AFTER_FLUSH = "after flush"
    """The record is durable; its rows follow within a tenth of a second, or by replay."""
    AFTER_INDEX = "after index"
    """Also the rows are committed (and flushed, where the store's index_sync is full)."""


class _Request:
    """One instance or note on its way through the committer."""

    __slots__ = ("event", "instance", "length", "promise")

    def __init__(self, instance: ReceivedInstance | None, event: AuditEvent | None, promise: Promise) -> None:
        self.instance, self.event, self.promise = instance, event, promise
        self.length = instance.length if instance else 0


class Inbox:
    """The gateway's way into the store. Order of use: `open`, then `accept` and `note` from any thread, `close`."""

    def __init__(
        self,
        store: Store,
        *,
        disk_floor: int,
        acknowledge: Acknowledge = Acknowledge.AFTER_INDEX,
        segment_bytes: int = SEGMENT_BYTES,
        commit_timeout_s: float = COMMIT_TIMEOUT_S,
        on_commit: Callable[[], object] = lambda: None,
    ) -> None:
        """on_commit: called after each transaction that held an instance; must not block."""
        self._store = store
        self._writer = SegmentWriter(store.root, segment_bytes)
        self._indexer = Indexer(store, on_commit)
        self._disk_floor = disk_floor
        self._is_for_rows = acknowledge is Acknowledge.AFTER_INDEX
        self._timeout_s = commit_timeout_s
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._held: _Request | None = None
        self._known = KnownVersions(store, self._indexer)
        self._gathering = Gathering()
        self._groups = 0
        self._failures = 0
        self._pending_bytes = 0
        self._pending_lock = threading.Lock()
        self._thread = threading.Thread(target=self._commit_groups, name="committer")

    def open(self, stop: threading.Event) -> Replayed | None:
        """Takes the log (waiting for another gateway to leave it), replays it, starts the threads.

        None when `stop` came first. Raises OSError and sqlalchemy errors: without its store no gateway can run.
        """
        if not self._writer.lock(stop):
            self._writer.close()
            return None
        replayed = replay(self._store, self._writer)
        self._indexer.start()
        self._thread.start()
        return replayed

    def close(self) -> None:
        """Commits what waits and ends the threads."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._indexer.close()
        self._known.close()
        self._writer.close()

    @property
    def is_ready(self) -> bool:
        """False after two failed groups in a row, a transaction that the database refused, or when a thread is gone."""
        return self._failures < _FAILURES_UNTIL_NOT_READY and self._thread.is_alive() and self._indexer.is_ready

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
            return self._submitted(instance, None, is_for_rows=self._is_for_rows)
        finally:
            with self._pending_lock:
                self._pending_bytes -= length

    def note(self, event: AuditEvent) -> None:
        """Makes the audit row of a refusal durable, with a record in the log; raises NotStored."""
        self._submitted(None, event, is_for_rows=self._is_for_rows)

    def probe(self) -> None:
        """Writes and flushes a record that means nothing, and commits. A success ends `not ready`.

        Raises NotStored where disk or database say that they refuse, NeedsRestart where nothing answers or what they
        say is not to be got over. When it returns, the rows of all that was accepted before stand.
        """
        self._submitted(None, None, is_for_rows=True)

    def _submitted(self, instance: ReceivedInstance | None, event: AuditEvent | None, *, is_for_rows: bool) -> Verdict:
        promise = Promise(is_for_rows=is_for_rows)
        self._queue.put(_Request(instance, event, promise))
        return promise.wait(self._timeout_s)

    # The committer's thread

    def _commit_groups(self) -> None:
        while group := self._next_group():
            self._commit(group)

    def _next_group(self) -> list[_Request]:
        """All that waits and is about to come, up to the limits of a group; empty at the end."""
        first = self._held or self._queue.get()
        self._held = None
        if first is None:
            return []
        group, size, begun = [first], first.length, time.monotonic()
        while len(group) < GROUP_INSTANCES:
            try:
                following = self._queue.get(
                    timeout=self._gathering.patience_s(len(group), waited_s=time.monotonic() - begun)
                )
            except queue.Empty:
                break
            if following is None:
                self._queue.put(None)  # closing: what came before it goes first
                break
            if size + following.length > GROUP_BYTES:
                self._held = following
                break
            group.append(following)
            size += following.length
        return group

    def _commit(self, requests: list[_Request]) -> None:
        try:
            self._indexer.wait_for_room(self._timeout_s)
            flushed = self._flush(requests)
        except (LogWriteFailed, NotStored, sqlite3.Error) as exc:
            self._failures += 1
            self._known.failed()
            error = not_stored(f"the group could not be committed: {exc}", exc)
            for request in requests:
                request.promise.fail(error)
            return
        self._failures = 0
        for request in requests:
            if not request.promise.is_for_rows:
                request.promise.keep()
        self._indexer.submit(flushed)
        self._writer.give_back_cache()

    def _flush(self, requests: list[_Request]) -> FlushedGroup:
        """The requests as records in the log, flushed."""
        described = [self._described(request) for request in requests]
        records = [record for record, _ in described]
        begun = time.monotonic()
        places = self._writer.append(records)
        self._gathering.flushed(len(requests), self._queue.qsize(), time.monotonic() - begun)
        self._groups += 1
        entries = [
            IndexEntry(
                place=place,
                received_us=record.received_us,
                facts=facts,
                payload_length=record.payload_length,
                data_length=record.data_length,
                peeked=request.instance.peeked if request.instance and record.kind is RecordKind.INSTANCE else None,
            )
            for place, (record, facts), request in zip(places, described, requests, strict=True)
            if facts
        ]
        self._known.flushed(self._groups)
        promises = [request.promise for request in requests if request.promise.is_for_rows]
        return FlushedGroup(self._groups, entries, self._writer.end, promises)

    def _described(self, request: _Request) -> tuple[NewRecord, dict[str, Any]]:
        """The record of a request, and its facts."""
        instance, event = request.instance, request.event
        if instance is not None:
            uid = instance.peeked.instance_uid
            verdict = request.promise.verdict = index.verdict_on(self._known.versions(uid), instance.sha256)
            if verdict is not Verdict.DUPLICATE:
                self._known.expect(uid, instance.sha256, verdict)
                facts = index.instance_facts(instance, verdict)
                return _instance_record(instance, encode_facts(facts)), facts
            event = index.duplicate_event(self._store, instance)
        facts = index.note_facts(event) if event else {}
        at = event.at if event else self._store.clock()
        return NewRecord(RecordKind.NOTE, index.to_microseconds(at), encode_facts(facts)), facts


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
