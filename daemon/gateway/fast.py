"""pynetdicom's acceptor without its waits and copies (GATEWAY 3): subclasses, no run loop is copied.

What changes: the upper-layer thread waits on socket and wake-up instead of polling; P-DATA goes from the socket into
the data set's own memory; C-STORE and C-ECHO are answered in that thread. What does not: association control, the
state machine, and every other message stay pynetdicom's. `misfit` says when a release of it no longer fits.
"""

import inspect
import queue
import ssl
import threading
from typing import Any, Final

import pynetdicom
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.timer import Timer
from pynetdicom.transport import AssociationSocket, RequestHandler

from anomalyd.daemon.gateway.connection import PDU_HEAD_BYTES, WAIT_MS, FastSocket, MonotonicTimer, TlsSocket, WakeUp
from anomalyd.daemon.gateway.dataset import IncomingDataSet
from anomalyd.daemon.gateway.dimse import Command, ProtocolError, encode_response
from anomalyd.daemon.gateway.door import Door
from anomalyd.daemon.gateway.messages import MessageReader
from anomalyd.storage.crash import crash_point

FITS_VERSION: Final = "3.0."
_ASSOCIATE_LIMIT: Final = 1 << 18  # 128 contexts with 20 transfer syntaxes each are 70 KB
_P_DATA_TF: Final = 0x04
# What pynetdicom raises where a PDU does not belong here (PS3.8 table 9-10) or holds a value that does not exist
_UNFIT: Final = (InvalidEventError, ValueError, TypeError, KeyError, IndexError, AttributeError)
_TLS_HANDSHAKE: Final = 0x16  # first byte of a ClientHello; no PDU type


class FastDul(DULServiceProvider):
    """The upper layer of one association."""

    def __init__(self, assoc: "FastAssociation", door: Door) -> None:
        super().__init__(assoc)
        self._fast_assoc, self._door = assoc, door
        self._run_loop_delay = 0
        self._idle_timer = MonotonicTimer(None)
        self.artim_timer = MonotonicTimer(None)
        self.to_user_queue = _NoticedQueue(assoc.activity)
        self.wake = WakeUp()
        self._messages = MessageReader(self, door.data_set())
        self._syntaxes: dict[int, tuple[str, str]] = {}

    def run_reactor(self) -> None:
        """The thread: as the base; at its end the association's thread is told."""
        try:
            super().run_reactor()
        except _UNFIT as exc:
            if not self._door.is_closing:  # else it is our own abort that does not belong here
                self._tell_broken(f"a PDU that the state machine cannot take: {type(exc).__name__}")
            if self.socket is not None:
                self.socket.close()
        finally:
            self.wake.close()
            self._messages.broken_off()
            if self.assoc.requestor.primitive is None:
                # The association's thread waits for a request that cannot come any more: up to acse_timeout otherwise
                nothing: Any = None
                self.to_user_queue.put(nothing)
            self._fast_assoc.activity.set()

    def send_pdu(self, primitive: Any) -> None:
        """As the base; the thread is woken to send it."""
        super().send_pdu(primitive)
        self.wake.ring()

    def kill_dul(self) -> None:
        """As the base, at once."""
        super().kill_dul()
        self.wake.ring()

    def stop_dul(self) -> bool:
        """As the base, at once."""
        if self.state_machine.current_state != "Sta1":
            return False
        self._kill_thread = True
        self.wake.ring()
        self.join()
        return True

    def _read_pdu_data(self) -> None:
        """One PDU, and those that follow while there is nothing else to do: a turn of the base costs 30 us."""
        connection = self._connection
        self._read_one_pdu(connection)
        while self._is_only_receiving and connection.ready:
            self._idle_timer.restart()
            self._read_one_pdu(connection)

    @property
    def _is_only_receiving(self) -> bool:
        has_work = self._kill_thread or self.event_queue.queue or self.to_provider_queue.queue
        return not has_work and self.state_machine.current_state == "Sta6"

    def _read_one_pdu(self, connection: FastSocket) -> None:
        """Its length is checked before any memory is taken: it comes from the wire, up to 4 GB."""
        try:
            kind, length = connection.begin_pdu()
            if kind == _TLS_HANDSHAKE and self.assoc.requestor.primitive is None:
                self._door.connection_refused(self.assoc.requestor.address, "TLS on the port of plain DICOM")
                connection.throw_away()
                self.event_queue.put("Evt19")
                return
            _check_length(length, self._door.pdu_limit if kind == _P_DATA_TF else _ASSOCIATE_LIMIT)
            if kind != _P_DATA_TF or self.state_machine.current_state != "Sta6":
                super()._read_pdu_data()
                if "Evt19" in self.event_queue.queue:
                    self._tell_broken("a PDU that breaks PS3.8 9.3")
                return
            connection.take(PDU_HEAD_BYTES)
            self._messages.read_pdu(connection, length)
        except ProtocolError as exc:
            self._tell_broken(str(exc))
            connection.throw_away()
            self.event_queue.put("Evt19")
        except OSError as exc:
            if isinstance(exc, TimeoutError):
                self._tell_broken(str(exc))
            self.event_queue.put("Evt17")

    def _tell_broken(self, what: str) -> None:
        """Of an association, or of a connection on which none was asked for yet: that one is nobody's we know."""
        if self.assoc.requestor.primitive is None:
            self._door.connection_refused(self.assoc.requestor.address, what)
        else:
            self._door.protocol_error(self.assoc, what)

    @property
    def _connection(self) -> FastSocket:
        if not isinstance(self.socket, FastSocket):
            raise TypeError("a fast association runs on a FastSocket")
        return self.socket

    # Desk of the MessageReader

    def _syntaxes_of(self, context_id: int) -> tuple[str, str]:
        """Abstract and transfer syntax of an accepted presentation context; raises ProtocolError."""
        if not self._syntaxes:
            accepted = self.assoc.accepted_contexts
            self._syntaxes = {cx.context_id or 0: (str(cx.abstract_syntax), cx.transfer_syntax[0]) for cx in accepted}
        try:
            return self._syntaxes[context_id]
        except KeyError as exc:
            raise ProtocolError("presentation context was not accepted") from exc

    def refusal_in_advance(self, context_id: int, command: Command) -> str:
        """Why the data set that follows need not be kept."""
        return self._door.refusal_in_advance(command, *self._syntaxes_of(context_id))

    def serve(self, context_id: int, command: Command, data_set: IncomingDataSet) -> None:
        """Answers a request, in this thread."""
        crash_point("gateway.received")
        answer = self._door.answer(self.assoc, command, *self._syntaxes_of(context_id), data_set)
        limit = self.assoc.requestor.maximum_length or 0
        self._connection.send(encode_response(command, context_id, answer.status, answer.comment, limit))
        crash_point("gateway.answered")

    def pass_on(self, context_id: int, command: bytes, data_set: bytes | None) -> None:
        """Messages of services that are not offered: pynetdicom knows what to do."""
        primitive = P_DATA()
        values: Any = [[context_id, b"\x03" + command]]  # lists: pynetdicom takes no tuples, whatever its types say
        if data_set is not None:
            values.append([context_id, b"\x02" + data_set])
        primitive.presentation_data_value_list = values
        self.assoc.dimse.receive_primitive(primitive)
        self._fast_assoc.activity.set()


def _check_length(length: int, limit: int) -> None:
    if length > limit:
        raise ProtocolError("a PDU is longer than what was agreed")


class _NoticedQueue(queue.Queue[Any]):
    """What the upper layer tells the association's thread."""

    def __init__(self, activity: threading.Event) -> None:
        super().__init__()
        self._activity = activity

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: FBT001, FBT002 - the base's
        """As the base; wakes the reader."""
        super().put(item, block, timeout)
        self._activity.set()


class Checkpoint(threading.Event):
    """Where the association's thread rests until something happened, in place of a turn each millisecond."""

    def __init__(self, activity: threading.Event, messages: "queue.Queue[Any]") -> None:
        super().__init__()
        self._activity, self._messages = activity, messages

    def wait(self, timeout: float | None = None) -> bool:
        """As the base, after activity or a quarter of a second."""
        if not self._messages.queue:
            self._activity.wait(WAIT_MS / 1000)
        self._activity.clear()
        return super().wait(timeout)


class FastAssociation(Association):
    """An association whose upper layer is FastDul."""

    def __init__(self, ae: ApplicationEntity, door: Door) -> None:
        self.activity = threading.Event()
        super().__init__(ae, "acceptor")
        self.fast_dul = FastDul(self, door)
        self.dul = self.fast_dul
        self.acse_timeout = ae.acse_timeout  # they live in the timers of the upper layer, which is another one now
        self.network_timeout = ae.network_timeout
        self._reactor_checkpoint = Checkpoint(self.activity, self.dul.to_user_queue)
        self._reactor_checkpoint.set()


class FastRequestHandler(RequestHandler):
    """Makes a FastAssociation of a connection."""

    def _create_association(self) -> Association:
        """As the base, which names its classes in its body."""
        server, ae = self.server, self.ae
        door: Door = server.door  # type: ignore[attr-defined]  # GatewayServer has it
        assoc = FastAssociation(ae, door)
        assoc._server = server  # noqa: SLF001 - as the base does
        assoc.name = f"AcceptorThread@{id(assoc):x}"  # the base's server finds its threads by this word
        kind = TlsSocket if isinstance(self.request, ssl.SSLSocket) else FastSocket
        assoc.set_socket(kind(assoc, self.request, assoc.fast_dul.wake, stall_timeout_s=door.stall_timeout_s))
        assoc.acceptor.maximum_length = ae.maximum_pdu_size
        assoc.acceptor.ae_title = server.ae_title
        assoc.acceptor.address_info = self.local
        assoc.acceptor.implementation_class_uid = ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = ae.implementation_version_name
        assoc.acceptor.supported_contexts = list(server.contexts)  # only read: a deep copy took most of an accept
        assoc.requestor.address_info = self.remote
        for event in server.get_events():
            bound: Any = server.get_handlers(event)
            if isinstance(event, evt.NotificationEvent):
                for handler, arguments in bound:
                    assoc.bind(event, handler, arguments)
            elif bound:
                assoc.bind(event, *bound)
        return assoc


_OVERRIDDEN: Final[tuple[tuple[type, str, str], ...]] = (
    (AssociationSocket, "__init__", "self assoc client_socket address"),
    (AssociationSocket, "recv", "self nr_bytes"),
    (AssociationSocket, "ready", "self"),
    (AssociationSocket, "send", "self bytestream"),
    (DULServiceProvider, "__init__", "self assoc"),
    (DULServiceProvider, "run_reactor", "self"),
    (DULServiceProvider, "send_pdu", "self primitive"),
    (DULServiceProvider, "kill_dul", "self"),
    (DULServiceProvider, "stop_dul", "self"),
    (DULServiceProvider, "_read_pdu_data", "self"),
    (DIMSEServiceProvider, "receive_primitive", "self primitive"),
    (Association, "__init__", "self ae mode"),
    (Association, "_run_reactor", "self"),
    (RequestHandler, "_create_association", "self"),
    (Timer, "start", "self"),
    (Timer, "stop", "self"),
    (Timer, "remaining", "self"),
)
"""Members that are overridden or counted on, with the names of their parameters."""


def misfit() -> str:
    """Why these classes do not fit the installed pynetdicom, empty where they do: then the stock ones are used."""
    if not pynetdicom.__version__.startswith(FITS_VERSION):
        return f"pynetdicom {pynetdicom.__version__} is not {FITS_VERSION}x"
    for owner, name, expected in _OVERRIDDEN:
        member = inspect.getattr_static(owner, name, None)
        target = member.fget if isinstance(member, property) else member
        found = " ".join(inspect.signature(target).parameters) if callable(target) else "absent"
        if found != expected:
            return f"{owner.__name__}.{name} has the parameters ({found}), expected ({expected})"
    return ""
