"""The listening end: pynetdicom's server with our limits, and the handlers that ask the door (GATEWAY 3, 6, 8)."""

import logging
import threading
from functools import partial
from typing import Any, Final

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.transport import RequestHandler

from anomalyd.daemon import tls
from anomalyd.daemon.gateway import fast
from anomalyd.daemon.gateway.commitment import CommitmentDesk
from anomalyd.daemon.gateway.contexts import reporter_contexts, supported_contexts
from anomalyd.daemon.gateway.dimse import C_STORE_RQ, Command
from anomalyd.daemon.gateway.door import Door
from anomalyd.daemon.gateway.secure import TlsServer
from anomalyd.daemon.gateway.server import SPARE_CONNECTIONS, GatewayServer
from anomalyd.daemon.settings import DaemonSettings
from anomalyd.daemon.wake import Role, notify
from anomalyd.errors import ConfigError
from anomalyd.storage.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

log = structlog.get_logger()

_STOCK_LIMIT_OFF: Final = 10_000  # the door counts itself: pynetdicom's count knows no audit
_POLL_S: Final = 0.25  # how late the listener sees that it shall end


def listen(daemon: DaemonSettings, door: Door) -> tuple[GatewayServer, ...]:
    """Binds the port of plain DICOM, of DICOM TLS, or both, and serves each from a thread of its own.

    Raises ConfigError for a port that cannot be bound, or certificates that cannot be used.
    """
    _quieten_pynetdicom()
    kinds: list[tuple[int, type[GatewayServer], dict[str, Any]]] = []
    if daemon.plain_port is not None:
        kinds.append((daemon.plain_port, GatewayServer, {}))
    if daemon.tls is not None and daemon.tls.port is not None:
        identity, limit_s = tls.listening_identity(daemon.tls), daemon.tls.handshake_timeout
        kinds.append((daemon.tls.port, TlsServer, {"identity": identity, "handshake_timeout_s": limit_s}))
    servers: list[GatewayServer] = []
    try:
        for port, kind, options in kinds:
            servers.append(_bind(daemon, door, port, kind, options))
    except ConfigError:
        for server in servers:
            server.server_close()
        raise
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(_POLL_S,), name="listener", daemon=True).start()
    return tuple(servers)


def _bind(
    daemon: DaemonSettings, door: Door, port: int, kind: type[GatewayServer], options: dict[str, Any]
) -> GatewayServer:
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
            (daemon.host, port),
            contexts=supported_contexts(daemon.unwanted_sop_classes),
            evt_handlers=[
                (evt.EVT_REQUESTED, _on_requested, [door]),
                (evt.EVT_C_STORE, _on_c_store, [door]),
                (evt.EVT_N_ACTION, desk.on_request),
                (evt.EVT_N_EVENT_REPORT, desk.on_report),
            ],
            server_class=kind,
            request_handler=request_handler(is_fast=daemon.gateway.fast),
            door=door,
            max_connections=daemon.max_associations + SPARE_CONNECTIONS,
            **options,
        )
    except OSError as exc:
        key = "daemon.port" if port == daemon.port else "daemon.tls.port"
        raise ConfigError(
            f"daemon.host {daemon.host}, {key} {port}: {exc.strerror or exc}: choose a free port"
        ) from exc
    bound: GatewayServer = server
    return bound


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
        names=tls.names_of(connection),
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
