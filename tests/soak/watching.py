"""Gateway and dispatcher under the soak, and how large the gateway is meanwhile."""

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from running import RunningDaemon

EVERY_S = 0.5


class Watching:
    """A context manager: the roles run, a thread looks."""

    def __init__(self, root: Path) -> None:
        self.daemon = RunningDaemon(
            root, roles=("gateway", "dispatcher"), storage={"disk_floor": "50 MB"}, daemon={"max_associations": 100}
        )
        self.sizes: list[tuple[float, float]] = []
        """Seconds since the start and resident MB (10^6 bytes), twice a second."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self.daemon.__enter__()
        self.begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.daemon.__exit__(kind, error, trace)

    def stop(self) -> None:
        """The roles end in order; what they kept can be looked at."""
        self._stop.set()
        self._thread.join()
        self.daemon.stop()

    def _look(self) -> None:
        status = Path(f"/proc/{self.daemon.children['gateway'].pid}/status")
        while not self._stop.wait(EVERY_S):
            kb = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))
            self.sizes.append((time.monotonic() - self.begun, kb * 1024 / 1e6))
