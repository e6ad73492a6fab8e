"""How long a group waits for those who are about to join it (PostgreSQL: commit_delay).

Senders that were answered together come again together, but never quite: where a flush takes milliseconds the first one
would be flushed alone, and all others wait for two flushes instead of one.
"""

from typing import Final

SLOW_FLUSH_S: Final = 0.002
"""On a faster disk waiting gains nothing."""
SHARE: Final = 0.25
"""Of the last flush that may be waited: what it costs where nobody comes, once."""
LONGEST_S: Final = 0.01
"""A disk that hung for seconds says nothing of its next flush."""


class Gathering:
    """The committer's own."""

    def __init__(self) -> None:
        self._senders = 0
        self._patience_s = 0.0

    def flushed(self, group: int, waiting: int, took_s: float) -> None:
        """group: requests in it. waiting: those that came meanwhile. Together they are the senders at work."""
        self._senders = group + waiting
        self._patience_s = min(SHARE * took_s, LONGEST_S) if took_s >= SLOW_FLUSH_S else 0.0

    def patience_s(self, gathered: int, waited_s: float) -> float:
        """How much longer a group with so many requests waits for one more; 0: not at all."""
        return max(0.0, self._patience_s - waited_s) if gathered < self._senders else 0.0
