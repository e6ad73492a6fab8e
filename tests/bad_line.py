"""What may go wrong between us and a PACS, put between us and a real one: a TCP relay that fails as told.

with Pacs(behind) as pacs, BadLine(port, behind, Fault("reset", after=10_000)) as line:
    ...
    line.mend()
"""

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

A_ABORT = bytes([0x07, 0, 0, 0, 0, 4, 0, 0, 2, 0])
"""By the service provider, no reason given (PS3.8 9.3.8)."""
RECEIVE_BUFFER = 4096
"""Bytes: small, so that whoever sends feels at once that nothing is read."""
CHUNK = 2048
_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, 0 s


@dataclass(frozen=True)
class Fault:
    """deaf: no byte is read any more, none comes. mute: all is read, none comes. abort: A-ABORT. reset: TCP RST.

    after: so many bytes from us pass before. once_answered: and the first answer of the PACS (its A-ASSOCIATE-AC).
    bytes_per_s: how fast what we send is read, 0: at once.
    """

    what: Literal["none", "deaf", "mute", "abort", "reset"] = "none"
    after: int = 0
    once_answered: bool = False
    bytes_per_s: float = 0.0


DEAF = Fault("deaf")
"""From the connection on."""


class BadLine:
    """Listens on `port`, and relays to the PACS that listens on `to`."""

    def __init__(self, port: int, to: int, fault: Fault) -> None:
        self.fault = fault
        self.connections = 0
        self._port, self._to = port, to
        self._mended, self._threads = threading.Event(), list[threading.Thread]()
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._server = socket.socket()
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._server.bind(("127.0.0.1", self._port))
        self._server.listen()
        self._start(self._listen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mend()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._hang_up()
        for thread in self._threads:
            thread.join(10)

    def mend(self) -> None:
        """From now on everything passes; what hung ends."""
        was, self.fault = self.fault, Fault()
        self._mended.set()
        if was != self.fault:
            self._hang_up()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _hang_up(self) -> None:
        with self._lock:
            for one in self._sockets:
                _shut(one)

    def _listen(self) -> None:
        while True:
            try:
                ours, _ = self._server.accept()
            except OSError:
                return  # the line is taken down
            with self._lock:
                self.connections += 1
                self._sockets.append(ours)
            self._start(self._relay, ours)

    def _relay(self, ours: socket.socket) -> None:
        """Both ways of one connection, until either side ends it."""
        answered, failed = threading.Event(), threading.Event()
        if self.fault == DEAF:  # the PACS hears nothing of it
            self._mended.wait(60)
            self._close(ours)
            return
        theirs = socket.create_connection(("127.0.0.1", self._to))
        with self._lock:
            self._sockets.append(theirs)
        back = threading.Thread(target=self._bring_back, args=(ours, theirs, answered, failed))
        back.start()
        fault, passed = self.fault, 0
        try:
            while True:
                if passed >= fault.after and not failed.is_set() and (answered.is_set() or not fault.once_answered):
                    self._fail(fault, ours, failed)
                data = ours.recv(CHUNK)
                if not data:
                    return
                passed += len(data)
                if not failed.is_set():
                    theirs.sendall(data)
                if fault.bytes_per_s:
                    self._mended.wait(len(data) / fault.bytes_per_s)
        except OSError:
            return  # one of the two has ended it
        finally:
            for one in (ours, theirs):
                _shut(one)
            back.join(10)
            self._close(ours, theirs)

    def _close(self, *ended: socket.socket) -> None:
        with self._lock:
            for one in ended:
                self._sockets.remove(one)
                one.close()

    def _fail(self, fault: Fault, ours: socket.socket, failed: threading.Event) -> None:
        """Once it is time: returns to go on reading, or raises OSError when the connection is over."""
        if fault.what == "none":
            return
        failed.set()
        if fault.what == "deaf":
            self._mended.wait(60)
        elif fault.what == "abort":
            ours.sendall(A_ABORT)
        elif fault.what == "reset":
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            ours.close()
            raise ConnectionResetError

    def _bring_back(
        self, ours: socket.socket, theirs: socket.socket, answered: threading.Event, failed: threading.Event
    ) -> None:
        try:
            while data := theirs.recv(CHUNK):
                if not failed.is_set():
                    ours.sendall(data)
                    answered.set()
        except OSError:
            return  # the other direction tells
        finally:
            if not failed.is_set():
                _shut(ours)


def _shut(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is over already
