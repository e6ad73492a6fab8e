"""When a series has all its images: complete by content after the settle time, else after the quiet period.

Quiet time is measured on the monotonic clock, from when this process saw the last image come; a step of the wall clock
closes nothing and holds nothing. Stored instants count only for series found at the start of the process, and never for
all of the waiting time: each is watched for the settle time at least.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from anomalyd.daemon.dispatcher.headers import Headers
from anomalyd.pipeline.completeness import Completeness, completeness
from anomalyd.pipeline.series import assemble
from anomalyd.storage import series as stored
from anomalyd.storage.engine import Store
from anomalyd.storage.series import SeriesRow

PARSE_EVERY_S = 1.0
"""Images that are still coming are parsed in portions, so that little is left to do at the end."""
COMPLETE, QUIET = "complete", "quiet"
log = structlog.get_logger()


@dataclass(slots=True)
class _Watched:
    """One receiving series. quiet_since: monotonic; arrivals: the count that it belongs to."""

    arrivals: int
    quiet_since: float
    parsed_at: float = float("-inf")
    judged: Completeness | None = None


class Closing:
    """Watches receiving series; `sweep` is called often, by one thread at a time."""

    def __init__(
        self,
        store: Store,
        headers: Headers,
        *,
        settle_s: float,
        quiet_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._headers = store, headers
        self._settle_s, self._quiet_s = settle_s, quiet_s
        self._monotonic = monotonic
        self._watched: dict[int, _Watched] = {}
        self._is_first = True

    def sweep(self) -> tuple[SeriesRow, ...]:
        """Series that were closed now, for selection."""
        rows = stored.receiving_series(self._store)
        now = self._monotonic()
        for row in rows:
            self._note(row, now)
        self._is_first = False
        present = {row.id for row in rows}
        self._watched = {key: watched for key, watched in self._watched.items() if key in present}
        return tuple(row for row in rows if self._is_closed_now(row, now))

    def next_due_s(self) -> float:
        """Seconds until a sweep can close something; a large number when nothing is receiving."""
        now = self._monotonic()
        waits = [self._due_in(watched, now) for watched in tuple(self._watched.values())]
        return max(0.0, min(waits, default=float("inf")))

    def _note(self, row: SeriesRow, now: float) -> None:
        watched = self._watched.get(row.id)
        if watched is None:
            quiet_since = now - (self._quiet_before_start_s(row) if self._is_first else 0.0)
            self._watched[row.id] = _Watched(row.arrivals, quiet_since)
        elif watched.arrivals != row.arrivals:
            self._watched[row.id] = _Watched(row.arrivals, now, watched.parsed_at)

    def _quiet_before_start_s(self, row: SeriesRow) -> float:
        """What the stored instants say, bounded below by nothing and above by all but the settle time."""
        by_wall_clock = (self._store.clock() - row.last_at).total_seconds()
        return min(max(0.0, by_wall_clock), max(0.0, self._quiet_s - self._settle_s))

    def _is_closed_now(self, row: SeriesRow, now: float) -> bool:
        watched = self._watched[row.id]
        quiet_s = now - watched.quiet_since
        is_settled = quiet_s >= self._settle_s
        if watched.judged is None and (is_settled or now - watched.parsed_at >= PARSE_EVERY_S):
            self._judge(row, watched, now, is_final=is_settled)
        judged = watched.judged
        if judged is not None and judged.provable and is_settled:
            return self._close(row, COMPLETE, judged.text)
        if quiet_s >= self._quiet_s:
            text = judged.text if judged else "no readable image"
            return self._close(row, QUIET, f"no image for {self._quiet_s:g} s: {text}")
        return False

    def _judge(self, row: SeriesRow, watched: _Watched, now: float, *, is_final: bool) -> None:
        """Parse what is new; the verdict on completeness waits until images have stopped coming."""
        parsed = self._headers.of(row)
        watched.parsed_at = now
        if is_final and parsed.headers:
            watched.judged = completeness(assemble(parsed.headers))

    def _close(self, row: SeriesRow, rule: str, text: str) -> bool:
        if not stored.close_series(self._store, row, rule, text):
            return False  # an image came in between: the next sweep sees it
        del self._watched[row.id]
        log.info("series.closed", series_uid=row.series_uid, study_uid=row.study_uid, rule=rule, why=text)
        return True

    def _due_in(self, watched: _Watched, now: float) -> float:
        quiet_s = now - watched.quiet_since
        if quiet_s < self._settle_s:
            return self._settle_s - quiet_s
        return self._quiet_s - quiet_s
