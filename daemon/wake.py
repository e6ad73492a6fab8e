"""One datagram on a local socket says "look at the store now": roles wake each other without polling.

A datagram carries no fact and may be lost; the sweep by clock is the safety net and is enough alone (DESIGN 2).
Every waiter binds a socket of its own under ROOT/wake, so a role that runs twice is woken twice.
"""

import contextlib
import os
import secrets
import select
import socket
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

WAKE_FOLDER = "wake"
_NUDGE = b"."
_GONE = (ConnectionRefusedError, FileNotFoundError)
# Full buffer: the waiter has been woken already. Permission: another user's role, which its own clock wakes.
_HARMLESS = (BlockingIOError, PermissionError)


class Role(StrEnum):
    """Who can be woken."""

    GATEWAY = "gateway"
    DISPATCHER = "dispatcher"
    WORKER = "worker"


def notify(root: Path, role: Role) -> int:
    """How many waiters of `role` were woken; never blocks, never raises for a waiter that is not there.

    Sockets that nobody listens on any more (a killed role) are removed.
    """
    woken = 0
    folder = root / WAKE_FOLDER
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, _opened(folder) as handle:
        if handle is None:
            return 0
        sender.settimeout(0)
        for name in sorted(entry.name for entry in folder.iterdir()):
            if not name.startswith(f"{role}-"):
                continue
            try:
                sender.sendto(_NUDGE, _address(handle, name))
            except _GONE:
                (folder / name).unlink(missing_ok=True)
            except _HARMLESS:
                continue
            else:
                woken += 1
    return woken


def waiters(root: Path, role: Role) -> int:
    """How many of `role` listen at this moment; wakes nobody."""
    folder, found = root / WAKE_FOLDER, 0
    with _opened(folder) as handle:
        if handle is None:
            return 0
        for name in [entry.name for entry in folder.iterdir() if entry.name.startswith(f"{role}-")]:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
                probe.connect(_address(handle, name))
                found += 1
    return found


class Waiter:
    """The waking end for one role; a context manager, waited on by one thread."""

    def __init__(self, root: Path, role: Role) -> None:
        folder = root / WAKE_FOLDER
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / f"{role}-{secrets.token_hex(6)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)
        with _opened(folder) as handle:
            if handle is None:
                raise FileNotFoundError(folder)
            self._socket.bind(_address(handle, self._path.name))
        self._path.chmod(0o600)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def wait(self, timeout_s: float) -> bool:
        """True when a datagram came within timeout_s; all that wait are taken, so a burst wakes once."""
        if not self._poll.poll(max(0.0, timeout_s) * 1000):
            return False
        with contextlib.suppress(BlockingIOError):  # drained
            while self._socket.recv(len(_NUDGE)):
                pass
        return True

    def close(self) -> None:
        """Leave nothing behind."""
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """The waiter itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """A descriptor of the folder; None where no role ever waited."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _address(handle: int, name: str) -> str:
    """A path of bounded length: sun_path holds 108 bytes, a storage root may be longer (unix(7))."""
    return f"/proc/self/fd/{handle}/{name}"
