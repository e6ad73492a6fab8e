"""The worker's sign of life for the job it has: a thread that prolongs the lease and notices when it is lost."""

import threading
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import DBAPIError

from anomalyd.storage import queue
from anomalyd.storage.engine import Store
from anomalyd.storage.queue import Lease

BEATS_PER_LEASE = 3  # GATEWAY 7
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
        while True:
            self._news.wait(self._lease_s / BEATS_PER_LEASE)
            self._news.clear()
            if self._ended:
                return
            try:
                if not queue.heartbeat(self._store, self._lease, self._lease_s, stage=self._stage):
                    self.lost.set()
                    return
            except DBAPIError:  # the database is busy or gone for a moment: two more beats fit into the lease
                log.exception("heartbeat.failed", job_id=self._lease.job.id)

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
