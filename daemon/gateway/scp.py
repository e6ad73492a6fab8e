"""The listening end: pynetdicom's server with our limits, and the handlers that ask the door (GATEWAY 3, 6, 8)."""

import logging
import socket
import struct
import threading
from functools import partial
from socketserver import BaseServer
from typing import Any, Final

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from anomalyd.daemon.gateway import fast
from anomalyd.daemon.gateway.commitment import CommitmentDesk
from anomalyd.daemon.gateway.contexts import reporter_contexts, supported_contexts
from anomalyd.daemon.gateway.dimse import C_STORE_RQ, Command
from anomalyd.daemon.gateway.door import Door
from anomalyd.daemon.settings import DaemonSettings
from anomalyd.daemon.wake import Role, notify
from anomalyd.errors import ConfigError
from anomalyd.storage.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

log = structlog.get_logger()

BACKLOG: Final = 64
_STOCK_LIMIT_OFF: Final = 10_000  # the door counts itself: pynetdicom's count knows no audit
_POLL_S: Final = 0.25  # how late the listener sees that it shall end
_SPARE_CONNECTIONS: Final = 16
"""Connections beyond max_associations that may be negotiating, or are on the way to a rejection."""


class GatewayServer(ThreadedAssociationServer):
    """pynetdicom's server: no Nagle, socket timeouts, and an end to connections that never ask for anything."""

    request_queue_size = BACKLOG
    daemon_threads = True
    door: Door
    max_connections: int

    def __init__(self, *args: Any, door: Door, max_connections: int, **kwargs: Any) -> None:
        self.door, self.max_connections = door, max_connections
        super().__init__(*args, **kwargs)

    def get_request(self) -> tuple[socket.socket, Any]:
        """As the base, with the socket options that each association needs before its first byte."""
        connection, address = super().get_request()
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
        """Closes the listener; open associations go on. The base also strikes it off a list of start_server."""
        BaseServer.shutdown(self)
        if self.socket is not None and self.socket.fileno() >= 0:
            self.server_close()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """False, and the connection is closed, while too many are open that have not been admitted or rejected yet."""
        del request
        if len(self.active_associations) < self.max_connections:
            return True
        log.warning("connection.refused", reason="too many connections", address=client_address[0])
        return False


def listen(daemon: DaemonSettings, door: Door) -> GatewayServer:
    """Binds the port and serves it from a thread of its own; raises ConfigError where it cannot be bound."""
    _quieten_pynetdicom()
    ae = AE(daemon.ae_title)
    ae.maximum_pdu_size = door.pdu_limit
    ae.maximum_associations = _STOCK_LIMIT_OFF
    ae.acse_timeout = daemon.gateway.acse_timeout
    ae.network_timeout = daemon.idle_timeout
    ae.dimse_timeout = daemon.idle_timeout
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION
    wake_dispatcher = partial(notify, door.store.root, Role.DISPATCHER)
    desk = CommitmentDesk(door.store, door.inbox, door, daemon, wake_dispatcher)
    try:
        server: Any = ae.make_server(  # typed as the base by pynetdicom, whatever server_class says
            (daemon.host, daemon.port),
            contexts=supported_contexts(daemon.unwanted_sop_classes),
            evt_handlers=[
                (evt.EVT_REQUESTED, _on_requested, [door]),
                (evt.EVT_C_STORE, _on_c_store, [door]),
                (evt.EVT_N_ACTION, desk.on_request),
                (evt.EVT_N_EVENT_REPORT, desk.on_report),
            ],
            server_class=GatewayServer,
            request_handler=request_handler(is_fast=daemon.gateway.fast),
            door=door,
            max_connections=daemon.max_associations + _SPARE_CONNECTIONS,
        )
    except OSError as exc:
        raise ConfigError(
            f"daemon.host {daemon.host}, daemon.port {daemon.port}: {exc.strerror or exc}: choose a free port"
        ) from exc
    threading.Thread(target=server.serve_forever, args=(_POLL_S,), name="listener", daemon=True).start()
    listening: GatewayServer = server
    return listening


def request_handler(*, is_fast: bool) -> type[RequestHandler]:
    """Our classes, or pynetdicom's own where those are asked for or ours do not fit the installed release."""
    if not is_fast:
        return RequestHandler
    reason = fast.misfit()
    if reason:
        log.warning("gateway.stock_classes", reason=reason)
        return RequestHandler
    return fast.FastRequestHandler


def _quieten_pynetdicom() -> None:
    """Its log lines may quote what peers send, and cost time; ours say what happened."""
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)


def _on_requested(event: evt.Event, door: Door) -> None:
    """Admits or rejects an association before it is negotiated."""
    assoc = event.assoc
    request = assoc.requestor.primitive
    if request is None:
        return
    address = str(assoc.requestor.address)
    connection = assoc.dul.socket.socket if assoc.dul.socket else None
    own = connection.getsockname()[0] if connection else None
    rejection = door.admit(
        assoc,
        (request.calling_ae_title or "").strip(),
        (request.called_ae_title or "").strip(),
        address,
        is_own=address == own,
    )
    if rejection is not None:
        assoc.acse.send_reject(rejection.result, rejection.source, rejection.reason)
        assoc.is_rejected = True
        assoc.kill()  # without it the peer sees the connection end in place of the rejection (GATEWAY 6)
    elif door.is_reporter(assoc):
        assoc.acceptor.supported_contexts = reporter_contexts()


def _on_c_store(event: evt.Event, door: Door) -> Dataset:
    """C-STORE by way of the stock classes."""
    request: Any = event.request
    command = Command(
        field=C_STORE_RQ,
        message_id=request.MessageID,
        sop_class=str(request.AffectedSOPClassUID),
        instance_uid=str(request.AffectedSOPInstanceUID),
        has_data_set=True,
    )
    data = request.DataSet.getvalue() if request.DataSet else b""
    syntax = event.context
    answer = door.answer_bytes(event.assoc, command, str(syntax.abstract_syntax), str(syntax.transfer_syntax), data)
    status = Dataset()
    status.Status = int(answer.status)
    if answer.comment:
        status.ErrorComment = answer.comment
    return status
