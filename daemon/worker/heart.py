"""The worker's sign of life for the job it has: a thread that prolongs the lease and notices when it is lost."""

import threading
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import DBAPIError

from anomalyd.storage import queue
from anomalyd.storage.engine import Store
from anomalyd.storage.queue import Lease
from anomalyd.storage.trouble import trouble_of

BEATS_PER_LEASE = 3  # GATEWAY 7
RETRY_S = 1.0
"""A database that refused is asked again after so long."""
log = structlog.get_logger()


class Heart:
    """`with Heart(store, lease, lease_s) as heart:`; `reached` as the job goes on: a new stage is noted at once."""

    def __init__(self, store: Store, lease: Lease, lease_s: float) -> None:
        self._store, self._lease, self._lease_s = store, lease, lease_s
        self.lost = threading.Event()
        self._stage: str | None = None
        self._ended = False
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart")

    def reached(self, stage: str | None) -> None:
        """The job is at this stage now."""
        if stage != self._stage:
            self._stage = stage
            self._news.set()

    def _beat(self) -> None:
        pause_s = self._lease_s / BEATS_PER_LEASE
        while True:
            self._news.wait(pause_s)
            self._news.clear()
            pause_s = self._lease_s / BEATS_PER_LEASE
            if self._ended:
                return
            try:
                if not queue.heartbeat(self._store, self._lease, self._lease_s, stage=self._stage):
                    self.lost.set()
                    return
            except DBAPIError as exc:
                why = str(trouble_of(exc) or type(exc).__name__)
                log.error("heartbeat.failed", job_id=self._lease.job.id, reason=why)  # noqa: TRY400 - in words
                pause_s = min(RETRY_S, pause_s)  # a lease that ran out meanwhile is saved before it is taken back

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; returns when the thread has."""
        self._ended = True
        self._news.set()
        self._thread.join()
