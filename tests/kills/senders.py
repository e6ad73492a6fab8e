"""A scanner that does not give up: dcmtk's storescu, started again for what was not acknowledged."""

import re
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from running import DAEMON, RunningDaemon
from waiting import wait_until

ANSWER_LIMIT_S = 20
"""Of storescu: for a connection, an association, an answer."""
_SENDING = re.compile(r"^I: Sending file: (?P<path>.+)$")
_SUCCESS = "I: Received Store Response (Success)"


class Sender:
    """One scanner with the files of one series."""

    def __init__(self, daemon: RunningDaemon, files: Iterable[Path], *, calling: str, limit_s: float) -> None:
        """limit_s: after so long it gives up, and `acknowledged` says how far it came."""
        self.files = tuple(files)
        self.acknowledged: list[Path] = []
        """In order of acknowledgement: success, and nothing else."""
        self.associations = 0
        self._daemon, self._calling, self._limit_s = daemon, calling, limit_s
        self._thread = threading.Thread(target=self._run, name=f"sender-{calling}")

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def join(self) -> None:
        """Returns when all is acknowledged, or limit_s is over."""
        self._thread.join()

    @property
    def is_done(self) -> bool:
        """Whether all is acknowledged."""
        return len(self.acknowledged) == len(self.files)

    def _run(self) -> None:
        ends = time.monotonic() + self._limit_s
        while not self.is_done and time.monotonic() < ends:
            wait_until(self._daemon.answers, limit_s=self._limit_s, what="the gateway answers")
            known = set(self.acknowledged)
            self._send([path for path in self.files if path not in known])

    def _send(self, files: Iterable[Path]) -> None:
        """One association, as far as it goes."""
        limits = ["-to", str(ANSWER_LIMIT_S), "-ta", str(ANSWER_LIMIT_S), "-td", str(ANSWER_LIMIT_S)]
        names = ["-aet", self._calling, "-aec", DAEMON, "127.0.0.1", str(self._daemon.port)]
        command = ["storescu", "-v", "-R", *limits, *names, *map(str, files)]
        self.associations += 1
        current: Path | None = None
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as child:
            for line in child.stderr or ():
                if found := _SENDING.match(line.rstrip()):
                    current = Path(found["path"])
                elif line.startswith(_SUCCESS) and current is not None:
                    self.acknowledged.append(current)
                    current = None
