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
    """`with Heart(store, lease, lease_s) as heart:`; set `stage` as the job goes on."""

    def __init__(self, store: Store, lease: Lease, lease_s: float) -> None:
        self._store, self._lease, self._lease_s = store, lease, lease_s
        self.lost = threading.Event()
        self.stage: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart")

    def _beat(self) -> None:
        while not self._ended.wait(self._lease_s / BEATS_PER_LEASE):
            try:
                if not queue.heartbeat(self._store, self._lease, self._lease_s, stage=self.stage):
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
        self._ended.set()
        self._thread.join()
