"""The listening end of DICOM TLS: the handshake of each connection in its own thread, in bounded time and number."""

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog

from anomalyd.daemon import tls
from anomalyd.daemon.gateway.server import GatewayServer

log = structlog.get_logger()

HANDSHAKES: Final = 64
HANDSHAKES_OF_ONE: Final = 16
"""At once, in all and from one address: who fills its share with silent connections does not shut out the others."""
_DRAIN_BYTES: Final = 4096
_CLIENT_HELLO: Final = b"\x16"


class TlsServer(GatewayServer):
    """Gives connections on when TLS stands; what is not TLS, or shows no certificate that is accepted, is closed."""

    def __init__(self, *args: Any, identity: tls.Identity, handshake_timeout_s: float, **kwargs: Any) -> None:
        self._identity, self._handshake_timeout_s = identity, handshake_timeout_s
        self._busy: Counter[str] = Counter()
        self._lock = threading.Lock()
        super().__init__(*args, **kwargs)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, as the base has it: a silent client keeps nobody waiting."""
        address = str(client_address[0])
        with self._slot(address) as is_free:
            if not is_free:
                self.door.no_room(address, "too many TLS handshakes at once")
            connection = self._secured(request, client_address) if is_free else None
        if connection is None:
            self.shutdown_request(request)
        else:
            super().finish_request(connection, client_address)

    def _secured(self, connection: socket.socket, client_address: Any) -> socket.socket | None:
        """The connection as TLS; None: it shall be closed, and that is logged and audited."""
        deadline = time.monotonic() + self._handshake_timeout_s
        try:
            connection.settimeout(self._handshake_timeout_s)
            first = connection.recv(1, socket.MSG_PEEK)
            if not first:  # a load balancer that looks whether the port opens
                return None
            if first != _CLIENT_HELLO:
                if client_address[:2] in self.own_connections:
                    connection.settimeout(None)
                    return connection
                self._refuse(client_address, "no TLS on the port of DICOM TLS")
                return None
            secured = self._identity.context().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError as exc:
            self._refuse(client_address, tls.in_words(exc))
            return None
        try:
            secured.settimeout(max(0.01, deadline - time.monotonic()))
            secured.do_handshake()
            secured.settimeout(self.door.stall_timeout_s)
            log.debug("connection.secured", version=secured.version(), address=client_address[0])
        except OSError as exc:
            self._refuse(client_address, tls.in_words(exc))
            _close(secured)
            return None
        return secured

    def _refuse(self, client_address: Any, reason: str) -> None:
        self.door.connection_refused(str(client_address[0]), reason)

    @contextmanager
    def _slot(self, address: str) -> Iterator[bool]:
        with self._lock:
            is_free = self._busy.total() < HANDSHAKES and self._busy[address] < HANDSHAKES_OF_ONE
            self._busy[address] += 1
        try:
            yield is_free
        finally:
            with self._lock:
                self._busy[address] -= 1
                if not self._busy[address]:
                    del self._busy[address]


def _close(connection: ssl.SSLSocket) -> None:
    """Closed so that the alert that says why still arrives: with unread bytes the kernel would reset the connection."""
    try:
        connection.settimeout(0)
        socket.socket.shutdown(connection, socket.SHUT_WR)  # not SSLSocket's, which would end both ways
        while socket.socket.recv(connection, _DRAIN_BYTES):
            pass
    except OSError:
        pass
    finally:
        connection.close()
