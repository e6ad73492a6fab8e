"""Audit rows of peers that are not let in: one each for the first, then one a minute that says how many there were.

Anybody who reaches the port can be refused a thousand times a second; each row is flushed to disk and kept for ever.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from anomalyd.storage.audit import AuditEvent
from anomalyd.storage.clock import Clock, to_text

ROWS_EACH: Final = 10
"""Of one address and reason within WINDOW_S: a scanner that was set up wrongly is seen whole."""
WINDOW_S: Final = 60.0
ORIGINS: Final = 256
"""Addresses and reasons that are told apart at once; what comes beyond them is counted together."""
_SEVERAL: Final = ("several", "")


@dataclass(slots=True)
class _Origin:
    """One address that is refused for one reason."""

    begun_s: float
    rows: int = 0
    untold: list[AuditEvent] = field(default_factory=list)
    """First and newest of those without a row."""
    times: int = 0


class TurnedAway:
    """Any thread. `settle` has to be called from time to time, else what was only counted stays untold."""

    def __init__(
        self, write: Callable[[AuditEvent], None], clock: Clock, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """write: makes one row durable."""
        self._write, self._clock, self._monotonic = write, clock, monotonic
        self._origins: dict[tuple[str, str], _Origin] = {}
        self._lock = threading.Lock()

    def tell(self, event: AuditEvent, reason: str) -> bool:
        """Writes the row of a refusal; False where it is only counted."""
        with self._lock:
            origin = self._origin(event.address or "", reason)
            is_row = origin.rows < ROWS_EACH
            if is_row:
                origin.rows += 1
            else:
                origin.times += 1
                origin.untold[1:] = [event]
        if is_row:
            self._write(event)
        return is_row

    def count(self, event: AuditEvent, reason: str) -> bool:
        """Only counts, and never waits; True for the first since the last row."""
        with self._lock:
            origin = self._origin(event.address or "", reason)
            origin.times += 1
            origin.untold[1:] = [event]
            return origin.times == 1

    def settle(self, *, is_last: bool = False) -> None:
        """A row for each origin whose minute has passed, or at the end for every one, with what was only counted."""
        with self._lock:
            begun_before = self._monotonic() - (0.0 if is_last else WINDOW_S)
            ended = [(key, one) for key, one in self._origins.items() if one.begun_s <= begun_before]
            for key, _ in ended:
                del self._origins[key]
        for key, origin in ended:
            if origin.times:
                self._write(self._sum(origin, is_one_address=key != _SEVERAL))

    def _origin(self, address: str, reason: str) -> _Origin:
        key = (address, reason)
        if key not in self._origins and len(self._origins) >= ORIGINS:
            key = _SEVERAL
        return self._origins.setdefault(key, _Origin(self._monotonic()))

    def _sum(self, origin: _Origin, *, is_one_address: bool) -> AuditEvent:
        """The newest refusal, as it would stand by itself, with their number and the time of the first."""
        first, newest = origin.untold[0], origin.untold[-1]
        detail = {**(newest.detail or {}), "times": origin.times, "since": to_text(first.at)}
        address = newest.address if is_one_address else None
        return replace(newest, at=self._clock(), address=address, detail=detail)
