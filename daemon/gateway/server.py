"""pynetdicom's server with what each connection needs before its first byte (GATEWAY 2, 8)."""

import errno
import socket
import struct
import sys
import threading
from contextlib import suppress
from socketserver import BaseServer
from typing import Any, Final

import structlog
from pynetdicom.transport import ThreadedAssociationServer

from anomalyd.daemon.gateway.door import Door

log = structlog.get_logger()

BACKLOG: Final = 64
SPARE_CONNECTIONS: Final = 256
"""Beyond max_associations: those that negotiate, say nothing, or are on the way to a rejection."""
SPARE_OF_ONE: Final = 208
"""Of these from one address: who fills its share with silent connections does not shut out the others."""
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_S: Final = 0.1  # between two tries to take a connection for which there is no descriptor


class GatewayServer(ThreadedAssociationServer):
    """pynetdicom's server: no Nagle, socket timeouts, and an end to connections that never ask for anything."""

    request_queue_size = BACKLOG
    daemon_threads = True
    door: Door
    max_connections: int

    def __init__(self, *args: Any, door: Door, max_connections: int, **kwargs: Any) -> None:
        """max_connections: in all, whatever has become of them."""
        self.door, self.max_connections = door, max_connections
        self.own_connections: set[tuple[str, int]] = set()
        """Addresses from which this very process connects to see whether it answers: there is room for these."""
        self._pause = threading.Event()
        super().__init__(*args, **kwargs)

    def get_request(self) -> tuple[socket.socket, Any]:
        """As the base, with the socket options that each association needs before its first byte."""
        try:
            connection, address = super().get_request()
        except OSError as exc:
            if exc.errno in _EXHAUSTED:
                self.door.no_room(None, _exhausted(exc))
                self._pause.wait(_PAUSE_S)  # the connection goes on waiting: the base would ask for it without end
            raise
        # Without TCP_NODELAY each answer waits for the peer's delayed ACK: 22 images/s (GATEWAY 2)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A peer that stalls must not hold a thread for ever. As a socket option, not Python's timeout: that would
        # cost a poll before each read.
        whole, part = divmod(self.door.stall_timeout_s, 1)
        limit = struct.pack("@ll", int(whole), int(part * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection, address

    def shutdown(self) -> None:
        """Closes the listener and what has asked for nothing yet; open associations go on.

        The base also strikes it off a list of start_server.
        """
        BaseServer.shutdown(self)
        if self.socket is not None and self.socket.fileno() >= 0:
            self.server_close()
        for one in self.active_associations:
            if one.requestor.primitive is None and one.dul.socket is not None and one.dul.socket.socket is not None:
                with suppress(OSError):  # it has ended meanwhile
                    one.dul.socket.socket.shutdown(socket.SHUT_RDWR)  # aborting each would take a tenth of a second

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """False, and the connection is closed, where too many are open: in all, or of its address undecided."""
        del request
        reason = self._fullness(client_address)
        if reason:
            self.door.no_room(str(client_address[0]), reason)
        return not reason

    def _fullness(self, client_address: Any) -> str:
        open_ones = self.active_associations
        if len(open_ones) < SPARE_OF_ONE or client_address[:2] in self.own_connections:
            return ""
        if len(open_ones) >= self.max_connections:
            return "too many connections at once"
        undecided = [one for one in open_ones if not one.is_established]
        of_one = sum(one.requestor.address == client_address[0] for one in undecided)
        return "too many connections of this address at once" if of_one >= SPARE_OF_ONE else ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What a new connection failed by, as a line of the log; the base prints a trace."""
        del request
        error, address = sys.exc_info()[1], str(client_address[0])
        if isinstance(error, OSError) and error.errno in _EXHAUSTED:
            self.door.no_room(address, _exhausted(error))
        else:
            log.error("connection.failed", address=address, exc_info=error)


def _exhausted(error: OSError) -> str:
    return f"{error.strerror}: raise LimitNOFILE, or lower daemon.max_associations"
