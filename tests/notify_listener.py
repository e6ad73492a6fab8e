"""What systemd would hear of a role (sd_notify(3))."""

import select
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

LIMIT_S = 60.0


class NotifyListener:
    """A socket to listen at; `environment` makes a role speak to it, with signs of life five times a second."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(LIMIT_S)
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "600000"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def next_but(self, *ignored: str) -> str:
        """The next message that is none of these."""
        while (message := self._socket.recv(4096).decode()) in ignored:
            pass
        return message

    def has_more(self) -> bool:
        """Whether something has come that was not taken."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def forget(self) -> None:
        """What has come and was not taken."""
        self._socket.settimeout(0)
        try:
            while self._socket.recv(4096):
                pass
        except BlockingIOError:
            self._socket.settimeout(LIMIT_S)
