"""The gateway's process: store, inbox, door, listener, in this order at the start and in reverse at the end."""

import gc
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made by a module-level __getattr__

from anomalyd.daemon import notify, scu, wake
from anomalyd.daemon.certificate_watch import CertificateWatch
from anomalyd.daemon.gateway.door import Door, DoorLimits
from anomalyd.daemon.gateway.eraser import Eraser
from anomalyd.daemon.gateway.lean import share_freed_memory
from anomalyd.daemon.gateway.peers import AcceptList
from anomalyd.daemon.gateway.scheduling import ask_for_short_slices
from anomalyd.daemon.gateway.scp import listen
from anomalyd.daemon.gateway.server import GatewayServer
from anomalyd.daemon.lifecycle import Lifecycle
from anomalyd.daemon.settings import DaemonSettings, Settings
from anomalyd.daemon.tls_settings import PeerTls, TlsListener
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.inbox import Acknowledge, Inbox
from anomalyd.storage.received import NeedsRestart, NotStored

log = structlog.get_logger()

EXIT_INTERNAL: Final = 70
_CHECK_S: Final = 10.0
_ECHO_TIMEOUT_S: Final = 5.0
_NUDGE_EVERY_S: Final = 0.1
_DRAIN_STEP_S: Final = 0.05


def run_gateway(settings: Settings, stop: threading.Event) -> int:
    """Receives until `stop`; the exit code of the process. Raises ConfigError for what cannot be used or bound."""
    # Both before any thread is started
    share_freed_memory()
    has_short_slices = ask_for_short_slices()
    daemon = settings.daemon
    store = open_store(settings.storage, index_sync=daemon.gateway.index_sync)
    inbox = Inbox(
        store,
        disk_floor=settings.storage.disk_floor,
        acknowledge=Acknowledge.AFTER_INDEX if daemon.gateway.index_sync == "full" else Acknowledge.AFTER_FLUSH,
        segment_bytes=daemon.gateway.segment_bytes,
        commit_timeout_s=daemon.gateway.commit_timeout,
        on_commit=_nudges_to_dispatcher(store),
    )
    threading.excepthook = _end_with_the_committer
    replayed = inbox.open(stop)
    if replayed is None:
        store.close()
        return 0
    log.debug("gateway.scheduling", has_short_slices=has_short_slices)
    log.info("log.replayed", records=replayed.records, torn_bytes=replayed.torn_bytes, damaged=replayed.damaged)
    try:
        _serve(settings, store, inbox, stop)
    finally:
        inbox.close()
        store.close()
    return 0


def _serve(settings: Settings, store: Store, inbox: Inbox, stop: threading.Event) -> None:
    daemon = settings.daemon
    title = f"ECHO{secrets.token_hex(6).upper()}"
    door = Door(store, inbox, AcceptList.of(daemon), _limits(daemon), self_echo_title=title)
    facts = {"host": daemon.host, "port": daemon.plain_port, "tls_port": daemon.tls_port}
    with Lifecycle(store, wake.Role.GATEWAY, settings, facts) as life, Eraser(store):
        servers = listen(daemon, door)  # last: a start that fails must not have let anybody in
        gc.freeze()  # what the start made stays: the server's collections need not walk it
        life.ready()
        log.info("gateway.ready", ae_title=daemon.ae_title, peers=len(daemon.accept_from), **facts)
        certificates = CertificateWatch(store, _listening(daemon))
        try:
            _watch(life, door, certificates, partial(_all_echo, servers, title, daemon.ae_title), stop)
        finally:
            _shut(servers, door, daemon.gateway.drain)
            door.settle(is_last=True)
            inbox.close()  # the rows of all that was received stand before the role's last one
            log.info("gateway.stopped")


def _listening(daemon: DaemonSettings) -> dict[str, TlsListener | PeerTls]:
    return {"listener": daemon.tls} if daemon.tls is not None and daemon.tls.port is not None else {}


def _limits(daemon: DaemonSettings) -> DoorLimits:
    return DoorLimits(
        max_associations=daemon.max_associations,
        max_instance_bytes=daemon.gateway.max_instance_bytes,
        bytes_in_flight=daemon.gateway.bytes_in_flight,
        stall_timeout_s=daemon.gateway.stall_timeout,
    )


def _watch(
    life: Lifecycle,
    door: Door,
    certificates: CertificateWatch,
    echoes: Callable[[], bool],
    stop: threading.Event,
) -> None:
    """Until stop: feeds the watchdog only while an echo comes back and the store answers (DESIGN 11)."""
    interval = min(notify.watchdog_interval_s() or _CHECK_S, _CHECK_S)
    while not stop.wait(interval):
        if _answers(door.inbox) and echoes():
            life.alive()
        door.settle()
        certificates.look()


def _answers(inbox: Inbox) -> bool:
    """Whether a commit works, or is refused by disk or database: a new process could not do more, and would be away."""
    try:
        inbox.probe()
    except NotStored as exc:
        log.error("inbox.not_ready", reason=str(exc))  # noqa: TRY400 - foreseen, in words
        return not isinstance(exc, NeedsRestart)
    return True


def _all_echo(servers: Sequence[GatewayServer], title: str, own_title: str) -> bool:
    """True when every port answers a C-ECHO over the network."""
    answers = [_echoes(server, title, own_title) for server in servers]
    return all(answers)


def _echoes(server: GatewayServer, title: str, own_title: str) -> bool:
    host, port = server.server_address[:2]
    ae = AE(title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = _ECHO_TIMEOUT_S
    ae.add_requested_context(Verification)
    own = _own_address(_reachable(str(host)))
    server.own_connections.add(own)  # there is room for it at a full door, and on the port of TLS it may do without
    handlers: list[evt.EventHandlerType] = [(evt.EVT_CONN_OPEN, scu.prepare)]
    assoc = ae.associate(_reachable(str(host)), int(port), ae_title=own_title, bind_address=own, evt_handlers=handlers)
    try:
        is_answered = assoc.is_established and assoc.send_c_echo().get("Status") is not None
    finally:
        if assoc.is_established:
            assoc.release()
        server.own_connections.discard(own)
    if not is_answered:
        log.error("gateway.no_echo", port=port)
    return is_answered


def _own_address(host: str) -> tuple[str, int]:
    """An address of this machine that nobody connects from."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        address: tuple[str, int] = probe.getsockname()[:2]
    return address


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def _shut(servers: Sequence[GatewayServer], door: Door, drain_s: float) -> None:
    """Closes the listeners, lets open associations finish for a while, aborts what is left (GATEWAY 8.6)."""
    notify.sd_notify("STOPPING=1")
    door.close()
    entities = [server.ae for server in servers]
    for server in servers:
        server.shutdown()
    deadline = time.monotonic() + drain_s
    still_open = threading.Event()
    while door.visitors() and time.monotonic() < deadline:
        still_open.wait(_DRAIN_STEP_S)
    if door.visitors():
        log.warning("gateway.aborting", associations=door.visitors())
    for entity in entities:
        entity.shutdown()


def _nudges_to_dispatcher(store: Store) -> Callable[[], None]:
    """Wakes the dispatcher, at most ten times a second; what is left out its own clock finds."""
    due = time.monotonic()

    def nudge() -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _NUDGE_EVERY_S
            wake.notify(store.root, wake.Role.DISPATCHER)

    return nudge


def _end_with_the_committer(failure: threading.ExceptHookArgs) -> None:
    """A gateway whose committer died would let every sender wait: it ends, and is started again."""
    name = failure.thread.name if failure.thread else ""
    error = failure.exc_value
    log.error("thread.died", thread=name, exc_info=error)
    if name in ("committer", "indexer"):
        os._exit(EXIT_INTERNAL)
