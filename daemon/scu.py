"""What every association that we open needs: no waiting for full segments, no answer lost, none given up too early.

entity.associate(host, port, contexts, title, evt_handlers=[(evt.EVT_CONN_OPEN, scu.prepare)])
"""

import queue
import socket
import ssl
from contextlib import suppress
from typing import Any

from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import AssociationSocket

from anomalyd.daemon import tls
from anomalyd.daemon.patience import wait_for_answer
from anomalyd.daemon.tls_settings import PeerTls

REJECTED = (1, 2)  # permanent, transient (PS3.8 table 9-21)


def prepare(event: Event) -> None:
    """Handler of EVT_CONN_OPEN on the requesting side."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        # Else each object waits 40 ms for the peer's delayed ACK (RESULTS 9).
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if isinstance(transport.socket, ssl.SSLSocket):
            # With TLS 1.3 the socket is readable before there are data (session tickets): a read must not wait for ever
            transport.socket.settimeout(event.assoc.network_timeout)
        _close_in_any_case(transport)
    _leave_answers_to_the_sender(event)


def tls_arguments(wanted: PeerTls | None, host: str) -> Any:
    """`tls_args` of AE.associate; None for plain DICOM. Raises ConfigError where our files cannot be used.

    host: as configured; the peer's certificate must name it, or `certificate_name`.
    """
    if wanted is None:
        return None
    return tls.Handshake(tls.calling_identity(wanted).context()), wanted.certificate_name or host


def tls_fault(association: Association) -> str:
    """Why TLS with the peer failed, in words; empty where it did not, or is not spoken."""
    transport = association.dul.socket
    arguments: Any = transport.tls_args if transport is not None else None
    return arguments[0].error if arguments else ""


def tls_version(association: Association) -> str:
    """`TLSv1.3`; empty where it is plain DICOM."""
    transport = association.dul.socket
    connection = transport.socket if transport is not None else None
    return (connection.version() or "") if isinstance(connection, ssl.SSLSocket) else ""


def rejection(association: Association) -> A_ASSOCIATE | None:
    """The peer's A-ASSOCIATE-RJ (PS3.8 9.3.4); None where it did not reject.

    pynetdicom 3.0.4 takes a rejection that comes before it looks at the socket for a failed connection (2 of 40
    beside a busy thread): it aborts, and the answer is still in the queue to the user.
    """
    if association.is_rejected:
        return association.acceptor.primitive
    if not association.is_aborted:
        return None
    try:
        # pynetdicom names the type under TYPE_CHECKING; mypy reads it or not by the order in which it takes modules.
        answer: Any = association.dul.to_user_queue.get_nowait()
    except queue.Empty:
        return None
    return answer if isinstance(answer, A_ASSOCIATE) and answer.result in REJECTED else None


class Watched:
    """Associations that another thread may end when a stop does not wait for their answers any longer."""

    def __init__(self) -> None:
        self._open: list[Association] = []

    def add(self, association: Association) -> None:
        """One that is established."""
        self._open = [one for one in self._open if one.is_established] + [association]

    def abort(self) -> None:
        """Ends what is open: whoever waits for an answer is told that there is none, and aborts."""
        for association in self._open:
            if association.is_established:
                association.dimse.msg_queue.put((None, None))  # as pynetdicom does when the connection ends


def sort_messages(association: Association) -> None:
    """The association's own thread takes requests alone, `send_*` answers alone: for an acceptor that also asks.

    It reports on a storage commitment on the association of the request (PS3.4 J.3.3). Why at all: see below.
    """
    dimse = association.dimse
    take, requests = dimse.get_msg, queue.SimpleQueue[Any]()

    def get_msg(block: bool = False) -> tuple[int | None, Any]:  # noqa: FBT001, FBT002 - pynetdicom's signature
        while block:
            context_id, message = take(block=True)
            if message is None or not message.is_valid_request:
                return context_id, message
            requests.put((context_id, message))
        _, first = dimse.peek_msg()
        if first is not None and first.is_valid_request:
            context_id, message = take(block=False)
            if message is not None:
                requests.put((context_id, message))
        return (None, None) if requests.empty() else requests.get()

    dimse.get_msg = get_msg  # type: ignore[method-assign, assignment]  # no other place to put it


def _close_in_any_case(transport: AssociationSocket) -> None:
    """pynetdicom 3.0.4 leaves a socket open that cannot be shut down, as after a reset by the peer."""

    def shutdown_socket() -> None:
        connection = transport.socket
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    transport._shutdown_socket = shutdown_socket  # type: ignore[method-assign]  # noqa: SLF001 - no other place to put it


def _leave_answers_to_the_sender(event: Event) -> None:
    """The association's own thread takes no messages: a requestor gets answers only, and `send_*` waits for them.

    pynetdicom 3.0.4 pauses that thread before each request, but the flag of the pause before may still be standing:
    the thread then takes the answer and drops it, and the sender waits for its time-out (docs/decisions/0050: 18 of
    505 answers lost while other threads computed, none with this).
    """
    association = event.assoc
    dimse = association.dimse

    def get_msg(block: bool = False) -> tuple[int | None, object]:  # noqa: FBT001, FBT002 - pynetdicom's signature
        return wait_for_answer(association) if block else (None, None)

    dimse.get_msg = get_msg  # type: ignore[method-assign, assignment]  # no other place to put it
