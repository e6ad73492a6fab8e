"""Carries out what purge and retention have asked for: bytes of forgotten images leave the segment log.

The gateway is the only writer of segments (GATEWAY 4), so it alone erases. A request is a row: it waits while no
gateway runs, and is carried out at the next start.
"""

import threading
from types import TracebackType
from typing import Final, Self

import structlog
from sqlalchemy.exc import DBAPIError

from anomalyd.daemon import wake
from anomalyd.storage.engine import Store
from anomalyd.storage.erasing import erase_images

log = structlog.get_logger()

SWEEP_S: Final = 10.0
"""By clock, where a wake call was lost; `purge` and the dispatcher's retention wake it at once."""


class Eraser:
    """A thread beside the committer; it rewrites finished records alone, in place, and drops segments but the newest.

    A context manager, entered once the log is locked and replayed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stop = threading.Event()
        self._waiter = wake.Waiter(store.root, wake.Role.GATEWAY)
        self._thread = threading.Thread(target=self._run, name="eraser")

    def __enter__(self) -> Self:
        """Begins with what waits from before."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends after the study in hand."""
        self._stop.set()
        wake.notify(self._store.root, wake.Role.GATEWAY)
        self._thread.join()
        self._waiter.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._sweep()
            self._waiter.wait(SWEEP_S)

    def _sweep(self) -> None:
        try:
            erased = erase_images(self._store)
        except (OSError, DBAPIError) as exc:
            log.error("erase.failed", reason=str(exc), again_in_s=SWEEP_S)  # noqa: TRY400 - foreseen, in words
            return
        if erased.images or erased.segments:
            log.info("erase.done", images=erased.images, segments=erased.segments)
        if erased.damaged:
            log.error("erase.damaged", records=len(erased.damaged), first=erased.damaged[0])
