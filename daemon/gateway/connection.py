"""The connection of a fast association: waits for data or a wake-up, reads ahead, gives every read a deadline."""

import os
import select
import socket
import ssl
import threading
import time
from typing import Final

from pynetdicom.association import Association
from pynetdicom.timer import Timer
from pynetdicom.transport import AssociationSocket

WAIT_MS: Final = 250  # how late a timer of the upper layer may be seen
PDU_HEAD_BYTES: Final = 6
_READ_AHEAD: Final = 32 * 1024
_SLOWEST_RATE: Final = 16 * 1024  # bytes/s below which a PDU counts as stalled


class MonotonicTimer(Timer):
    """pynetdicom's timers run on the wall clock: a step of it aborts every open association (GATEWAY 8.2)."""

    def start(self) -> None:
        """Resets and starts."""
        self._start_time = time.monotonic()
        self._end_time = None

    def stop(self) -> None:
        """Stops and keeps what was left."""
        self._end_time = time.monotonic()

    @property
    def remaining(self) -> float:
        """Seconds until it expires."""
        if self.timeout is None:
            return 1
        if self._start_time is None:
            return self.timeout
        now = time.monotonic() if self._end_time is None else self._end_time
        return self.timeout - (now - self._start_time)


class WakeUp:
    """Ends another thread's wait in poll; may be rung after it was closed."""

    def __init__(self) -> None:
        self._lock, self.descriptor = threading.Lock(), -1
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        """Wakes the waiting thread."""
        with self._lock:
            if self.descriptor >= 0:
                os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        """Takes what was rung."""
        os.eventfd_read(self.descriptor)

    def close(self) -> None:
        """Gives the descriptor back."""
        with self._lock:
            if self.descriptor >= 0:
                os.close(self.descriptor)
                self.descriptor = -1

    def __del__(self) -> None:
        """An association that was never started has one too."""
        self.close()


class FastSocket(AssociationSocket):
    """The connection: reads ahead by some KB, the rest goes straight to where it belongs; every read has a deadline.

    The socket blocks, with SO_RCVTIMEO set by the server: Python's own timeout costs a second system call per read.
    """

    def __init__(
        self, assoc: Association, client_socket: socket.socket, wake: WakeUp, *, stall_timeout_s: float
    ) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self._connection = client_socket
        self._stall_timeout_s = stall_timeout_s
        self._deadline = time.monotonic() + stall_timeout_s
        self._ahead = bytearray(_READ_AHEAD)
        self._begin = self._end = 0
        self._poll = select.poll()
        self._wake = wake
        self._poll.register(client_socket, select.POLLIN)
        self._poll.register(self._wake.descriptor, select.POLLIN)

    @property
    def ready(self) -> bool:
        """True when there is something to read; waits for it, or for a wake-up, up to WAIT_MS."""
        if self.socket is None or not self._is_connected:
            return False
        if self._begin < self._end:
            return True
        dul = self.assoc.dul
        # Sta13 closes the connection as soon as nothing can be read
        must_not_wait = dul.event_queue.queue or dul.to_provider_queue.queue
        is_waiting = not must_not_wait and dul.state_machine.current_state != "Sta13"
        try:
            happened = self._poll.poll(WAIT_MS if is_waiting else 0)
        except OSError:
            self.event_queue.put("Evt17")
            return False
        is_readable = False
        for descriptor, event in happened:
            if descriptor == self._wake.descriptor:
                self._wake.clear()
            elif event & select.POLLNVAL:
                self.event_queue.put("Evt17")
            else:
                is_readable = True
        return is_readable

    def begin_pdu(self) -> tuple[int, int]:
        """Type and length of the PDU that comes next; it is not taken yet. Raises OSError."""
        self._deadline = time.monotonic() + self._stall_timeout_s
        self._ensure(PDU_HEAD_BYTES)
        head = self._ahead[self._begin : self._begin + PDU_HEAD_BYTES]
        length = int.from_bytes(head[2:6], "big")
        self._deadline += length / _SLOWEST_RATE
        return head[0], length

    def take(self, count: int) -> bytes:
        """The next bytes; raises OSError."""
        if count > _READ_AHEAD:
            whole = bytearray(count)
            self.fill(memoryview(whole))
            return bytes(whole)
        self._ensure(count)
        self._begin += count
        return bytes(self._ahead[self._begin - count : self._begin])

    def fill(self, view: memoryview) -> None:
        """The next bytes into a view; raises OSError."""
        count = min(len(view), self._end - self._begin)
        view[:count] = self._ahead[self._begin : self._begin + count]
        self._begin += count
        while count < len(view):
            count += self._receive(view[count:], socket.MSG_WAITALL)

    def recv(self, nr_bytes: int) -> bytearray:
        """As the base: exactly so many bytes, fewer when the connection ends; raises OSError."""
        whole = bytearray(nr_bytes)
        try:
            self.fill(memoryview(whole))
        except ConnectionResetError:
            return bytearray()
        return whole

    def throw_away(self) -> None:
        """Bytes that were read ahead and belong to nothing that can be trusted."""
        self._begin = self._end = 0

    def _ensure(self, count: int) -> None:
        if self._begin + count > _READ_AHEAD or self._begin == self._end:
            rest = self._ahead[self._begin : self._end]
            self._ahead[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        while self._end - self._begin < count:
            self._end += self._receive(memoryview(self._ahead)[self._end :], 0)

    def _receive(self, view: memoryview, flags: int) -> int:
        if time.monotonic() > self._deadline:
            raise TimeoutError("the peer sends too slowly")
        try:
            count = self._connection.recv_into(view, 0, flags)
        except BlockingIOError as exc:
            raise TimeoutError("the peer stalls in a PDU") from exc
        if count == 0:
            raise ConnectionResetError("the peer closed the connection in a PDU")
        return count


class TlsSocket(FastSocket):
    """The same over TLS: an SSLSocket with Python's own timeout, since OpenSSL knows nothing of SO_RCVTIMEO."""

    def __init__(
        self, assoc: Association, client_socket: ssl.SSLSocket, wake: WakeUp, *, stall_timeout_s: float
    ) -> None:
        super().__init__(assoc, client_socket, wake, stall_timeout_s=stall_timeout_s)
        self._tls = client_socket

    @property
    def ready(self) -> bool:
        """As the base. A record may hold no data (a new key), or half of it: only data count."""
        if self.socket is not None and self._begin < self._end:
            return True
        if self.socket is None or not (self._tls.pending() or super().ready):
            return False
        self._tls.settimeout(0)
        try:
            count = self._tls.recv_into(self._ahead)
        except ssl.SSLWantReadError:
            return False
        except (OSError, ValueError):  # ValueError: closed by another thread
            self.event_queue.put("Evt17")
            return False
        finally:
            self._restore_timeout()
        self._begin, self._end = 0, count
        return True  # with no byte the peer has ended the connection: the next read says so

    def _restore_timeout(self) -> None:
        if self._tls.fileno() >= 0:
            self._tls.settimeout(self._stall_timeout_s)

    def _receive(self, view: memoryview, flags: int) -> int:
        del flags  # TLS has none: a read gives one record at most
        return super()._receive(view, 0)
