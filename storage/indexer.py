"""Brings the index up to what the log holds already: one thread, one transaction for all that waits.

Nothing that reaches this place can be lost any more: it is flushed in the log, and a start replays what is missing.
So a database that is busy or broken delays rows, and never makes an acknowledged instance undone.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.exc import DBAPIError

from anomalyd.storage import index
from anomalyd.storage.crash import crash_point
from anomalyd.storage.engine import Store
from anomalyd.storage.index import IndexEntry
from anomalyd.storage.received import NeedsRestart, NotStored, Verdict, not_stored
from anomalyd.storage.records import Place

GROUPS_AT_ONCE: Final = 128
LAG_LIMIT: Final = 256
"""Flushed groups that may wait for their rows; beyond it nothing more is flushed."""
_LINGER_S: Final = 0.05
"""Where nobody waits for rows, one transaction takes all groups of this time. It costs as much as the rows of ten
images: one every 10 ms held the interpreter's lock half of the time."""
_RETRY_S: Final = 1.0
_LOOK_S: Final = 0.25


class Promise:
    """What one caller waits for; the lock is held until its fate is known."""

    __slots__ = ("_done", "error", "is_for_rows", "verdict")

    def __init__(self, *, is_for_rows: bool) -> None:
        """is_for_rows: kept when index and audit rows stand, else when the log is flushed."""
        self.is_for_rows = is_for_rows
        self.verdict = Verdict.STORED
        self.error: NotStored | None = None
        self._done = threading.Lock()  # a plain lock wakes faster than Event or Condition (GATEWAY 4)
        self._done.acquire()

    def keep(self) -> None:
        """The caller may go on."""
        self._done.release()

    def fail(self, error: NotStored) -> None:
        """The caller gets an error."""
        self.error = error
        self._done.release()

    def wait(self, timeout_s: float) -> Verdict:
        """Until it is kept; raises NotStored, after the time-out NeedsRestart."""
        if not self._done.acquire(timeout=timeout_s):
            raise NeedsRestart(f"not committed within {timeout_s:g} s: look at the disk below storage.root")
        if self.error is not None:
            raise self.error
        return self.verdict


@dataclass(frozen=True, slots=True, eq=False)
class FlushedGroup:
    """Records that are in the log for good; `number` counts groups."""

    number: int
    entries: Sequence[IndexEntry]
    end: Place
    promises: Sequence[Promise]
    """Those that wait for the rows."""


class Indexer:
    """`start`, `submit` in the order of the log, `close`."""

    def __init__(self, store: Store, on_commit: Callable[[], object]) -> None:
        """on_commit: called after each transaction that held an instance; must not block."""
        self._store, self._on_commit = store, on_commit
        self._queue: queue.SimpleQueue[FlushedGroup | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="indexer")
        self._submitted = 0
        self.indexed = 0
        """Number of the newest group whose rows stand."""
        self._progress = threading.Event()
        self._closing = threading.Event()
        self._hurry = threading.Event()
        self._refusal: NotStored | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, group: FlushedGroup) -> None:
        """Hands over a flushed group."""
        self._submitted = group.number
        self._queue.put(group)
        if group.promises:
            self._hurry.set()

    def close(self) -> None:
        """Writes what waits, once; what the database refuses then, the next start replays."""
        if self._thread.is_alive():
            self._closing.set()
            self._hurry.set()
            self._queue.put(None)
            self._thread.join()

    @property
    def is_ready(self) -> bool:
        """False from the first transaction that the database refused until one succeeds."""
        return self._refusal is None and self._thread.is_alive()

    def wait_for_room(self, timeout_s: float) -> None:
        """Until the rows lag behind by less than LAG_LIMIT groups.

        Raises NotStored as soon as the database is known to refuse, NeedsRestart when they stay behind so long.
        """
        deadline = time.monotonic() + timeout_s
        while self._submitted - self.indexed >= LAG_LIMIT:
            if self._refusal is not None:
                raise self._refusal
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise NeedsRestart("the index lags behind: look at the database below storage.root")
            self._progress.wait(_LOOK_S)
            self._progress.clear()

    # The thread

    def _run(self) -> None:
        is_last = False
        while not is_last:
            groups, is_last = self._waiting()
            if groups and not self._index(groups):
                return  # never the next group before this one: the place in the log would pass over it

    def _waiting(self) -> tuple[list[FlushedGroup], bool]:
        """All groups that wait, and whether the end was reached."""
        groups: list[FlushedGroup] = []
        while len(groups) < GROUPS_AT_ONCE and not (groups and self._queue.empty()):
            group = self._queue.get()
            if group is None:
                return groups, True
            groups.append(group)
            if len(groups) == 1 and not group.promises:
                self._hurry.wait(_LINGER_S)
        if not self._closing.is_set():
            self._hurry.clear()
        return groups, False

    def _come_meanwhile(self) -> list[FlushedGroup]:
        """What waits now; the end, if it is there, is left for `_waiting`."""
        groups: list[FlushedGroup] = []
        while not self._queue.empty():
            group = self._queue.get()
            if group is None:
                self._queue.put(None)
                break
            groups.append(group)
        return groups

    def _index(self, groups: Sequence[FlushedGroup]) -> bool:
        """One transaction, tried until it succeeds; False when the end came first."""
        entries = [entry for group in groups for entry in group.entries]
        while True:
            is_last_try = self._closing.is_set()
            try:
                with self._store.write() as connection:
                    index.apply(self._store, connection, entries, groups[-1].end)
            except DBAPIError as exc:
                why = f"the index cannot be written: {type(exc.orig).__name__}: {exc.orig}"
                self._refusal = not_stored(why, exc)
                _fail(groups, self._refusal)
                if is_last_try:
                    return False
                self._closing.wait(_RETRY_S)
                tried = [FlushedGroup(group.number, group.entries, group.end, ()) for group in groups]
                groups = [*tried, *self._come_meanwhile()]  # who waits for rows hears of the next failure, not of none
                entries = [entry for group in groups for entry in group.entries]
            else:
                break
        crash_point("gateway.committed")
        self._refusal = None
        self.indexed = groups[-1].number
        self._progress.set()
        for group in groups:
            for promise in group.promises:
                promise.keep()
        if any(entry.peeked for entry in entries):
            self._on_commit()
        return True


def _fail(groups: Sequence[FlushedGroup], error: NotStored) -> None:
    for group in groups:
        for promise in group.promises:
            promise.fail(error)
