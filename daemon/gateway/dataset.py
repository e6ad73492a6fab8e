"""One association's data set while it is being received: bounded memory, hashed on the way, spilled when large.

The bytes are read from the socket into reused pieces of PIECE_BYTES, nothing is joined or copied; past SPILL_BYTES
they go to a nameless file beside the segments. All associations share one budget of bytes in memory.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from anomalyd.ids import Digest
from anomalyd.storage.peek import PEEK_LIMIT
from anomalyd.storage.received import DiskFloorReached
from anomalyd.storage.records import Buffer, Spilled

PIECE_BYTES: Final = PEEK_LIMIT  # the first piece holds all that is ever peeked at
SPILL_BYTES: Final = 4 * PIECE_BYTES
_HASH_STEP: Final = 64 * 1024  # hashed while the sender goes on sending; above 2047 bytes hashlib releases the GIL


class Budget:
    """Bytes of data sets that all associations together may hold in memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    def take(self, count: int) -> bool:
        """False where the budget is used up; nothing is taken then."""
        with self._lock:
            if self._used + count > self.limit:
                return False
            self._used += count
            return True

    def give_back(self, count: int) -> None:
        """Bytes that are no longer held."""
        with self._lock:
            self._used -= count


class IncomingDataSet:
    """Takes the fragments of one data set after the other. One thread uses it.

    `begin`, then per fragment `space` and `filled`, then `end`; the parts are valid until the next `begin`.
    """

    def __init__(
        self, budget: Budget, *, max_bytes: int, spill_directory: Path, check_room: Callable[[int], None]
    ) -> None:
        """check_room: raises DiskFloorReached where so many bytes more would be too many."""
        self._budget, self._max_bytes = budget, max_bytes
        self._spill_directory, self._check_room = spill_directory, check_room
        self._pieces: list[bytearray] = []
        self.refusal = ""
        """Why the bytes are thrown away, in words for the sender; empty while they are kept."""
        self.length = 0
        self._reset()

    def _reset(self) -> None:
        self._in_memory = 0  # of the pieces, bytes used
        self._charged = 0
        self._spilled: Spilled | None = None
        self._hash = hashlib.sha256()
        self._hashed = 0
        self.length = 0

    def begin(self, refusal: str = "") -> None:
        """A new data set; with a refusal its bytes are read and thrown away."""
        self.end()
        self._reset()
        self.refusal = refusal

    def end(self) -> None:
        """The bytes are not needed any more: what they hold of budget, memory and disk is given back."""
        self._budget.give_back(self._charged)
        self._charged = 0
        self._spilled = None
        del self._pieces[1:]

    def forget_pieces(self) -> None:
        """The memory may still be read by the committer: never write into it again."""
        self._pieces = []

    def space(self, wanted: int) -> memoryview:
        """Where the next bytes of the fragment go: at least one, at most `wanted` bytes."""
        if self.refusal:
            return memoryview(self._piece(0))[:wanted]
        number, used = divmod(self._in_memory, PIECE_BYTES)
        return memoryview(self._piece(number))[used : used + wanted]

    def _piece(self, number: int) -> bytearray:
        if number == len(self._pieces):
            self._pieces.append(bytearray(PIECE_BYTES))
        return self._pieces[number]

    def filled(self, count: int) -> None:
        """So many bytes were put into the space."""
        self.length += count
        if self.refusal:
            return
        if self.length > self._max_bytes:
            self._refuse("larger than max_instance_bytes")
        elif not self._budget.take(count):
            self._refuse("too many bytes in flight, send again later")
        else:
            self._charged += count
            self._in_memory += count
            if self._in_memory - self._hashed >= _HASH_STEP:
                self._hash_new()
            if self._in_memory >= SPILL_BYTES:
                self._spill()

    def _refuse(self, why: str) -> None:
        self.end()
        self.refusal = why

    def _hash_new(self) -> None:
        while self._hashed < self._in_memory:
            number, begin = divmod(self._hashed, PIECE_BYTES)
            stop = min(PIECE_BYTES, begin + self._in_memory - self._hashed)
            self._hash.update(memoryview(self._pieces[number])[begin:stop])
            self._hashed += stop - begin

    def _spill(self) -> None:
        """Writes all but the first piece out (the first one too, at the first time); it stays for the peek."""
        self._hash_new()
        try:
            self._check_room(self._in_memory)
            if self._spilled is None:
                self._spilled = Spilled(self._spill_directory)
                self._spilled.write(memoryview(self._pieces[0]))
            for part in self._used_parts()[1:]:
                self._spilled.write(part)
        except DiskFloorReached:
            self._refuse("disk floor reached")
            return
        except OSError:
            self._refuse("cannot be written to disk")
            return
        self._budget.give_back(self._charged - PIECE_BYTES)
        self._charged = PIECE_BYTES
        self._in_memory = self._hashed = PIECE_BYTES

    def _used_parts(self) -> list[memoryview]:
        full, rest = divmod(self._in_memory, PIECE_BYTES)
        parts = [memoryview(piece) for piece in self._pieces[:full]]
        if rest:
            parts.append(memoryview(self._pieces[full])[:rest])
        return parts

    @property
    def head(self) -> Buffer:
        """The begin of the data set, as much as a peek looks at."""
        parts = self._used_parts()
        return parts[0] if parts else b""

    def complete(self) -> tuple[Sequence[Buffer] | Spilled, Digest]:
        """The whole data set and its SHA-256; may change `refusal`, look at it after."""
        if self._spilled is not None and not self.refusal and self._in_memory > PIECE_BYTES:
            self._spill()
        self._hash_new()
        data: Sequence[Buffer] | Spilled = self._spilled or self._used_parts()
        return data, Digest(self._hash.hexdigest())
