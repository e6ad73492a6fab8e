"""The door's memory: who is in, what may still come in, and what each association's images are answered with.

Knows nothing of pynetdicom: stock and fast classes both ask here.
"""

import itertools
import threading
import time
from dataclasses import dataclass
from typing import Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

import structlog

from anomalyd.daemon.gateway.dataset import Budget, IncomingDataSet
from anomalyd.daemon.gateway.dimse import C_ECHO_RQ, Command
from anomalyd.daemon.gateway.peer_limits import PeerLimits
from anomalyd.daemon.gateway.peers import CLOSING, NO_SPACE, NO_STORE, TOO_MANY, AcceptList, Rejection
from anomalyd.daemon.gateway.reception import SUCCESS, Answer, Body, Kept, Reception, StoreCommand
from anomalyd.daemon.gateway.turned_away import TurnedAway
from anomalyd.daemon.settings import Peer
from anomalyd.storage.audit import AuditEvent, AuditKind, Outcome
from anomalyd.storage.engine import Store
from anomalyd.storage.inbox import Inbox
from anomalyd.storage.received import DiskFloorReached, Sender
from anomalyd.storage.segments import segments_directory

log = structlog.get_logger()

PDU_LIMIT: Final = 1 << 20
"""Maximum PDU length that is advertised; 16 KB, the default of pynetdicom, costs half the rate (GATEWAY 3)."""


class Visitor(Protocol):
    """An association, as far as the door looks at it."""

    is_released: bool
    is_aborted: bool
    is_rejected: bool

    def is_alive(self) -> bool:
        """True while its thread runs."""
        ...


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """`daemon:` settings that the door keeps."""

    max_associations: int
    max_instance_bytes: int
    bytes_in_flight: int
    stall_timeout_s: float


class Door:
    """Admits associations and answers their images. Any thread."""

    def __init__(
        self, store: Store, inbox: Inbox, accept_list: AcceptList, limits: DoorLimits, *, self_echo_title: str = ""
    ) -> None:
        """self_echo_title: a secret AE title that this process may echo itself with, from its own address only."""
        self._store, self._inbox = store, inbox
        self._accept_list, self._limits = accept_list, limits
        self._self_echo_title = self_echo_title
        self._reception = Reception(store, inbox)
        self._turned_away = TurnedAway(self._reception.note, store.clock)
        self._budget = Budget(limits.bytes_in_flight)
        self._visitors: WeakKeyDictionary[Visitor, Sender] = WeakKeyDictionary()
        self._reporters: WeakSet[Visitor] = WeakSet()
        self._entries: WeakKeyDictionary[Visitor, Peer] = WeakKeyDictionary()
        self._peer_limits = PeerLimits()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._name = f"{time.time_ns() // 1_000_000_000:x}"
        self._is_closing = False

    @property
    def store(self) -> Store:
        """Where all is kept."""
        return self._store

    @property
    def inbox(self) -> Inbox:
        """The way into it."""
        return self._inbox

    @property
    def pdu_limit(self) -> int:
        """Maximum length of a P-DATA PDU that is advertised."""
        return PDU_LIMIT

    @property
    def stall_timeout_s(self) -> float:
        """How long a peer may pause within a PDU."""
        return self._limits.stall_timeout_s

    @property
    def budget(self) -> Budget:
        """Bytes in flight."""
        return self._budget

    def close(self) -> None:
        """No new association from now on (transient rejection)."""
        self._is_closing = True

    @property
    def is_closing(self) -> bool:
        """Whether associations are being ended by us."""
        return self._is_closing

    def settle(self, *, is_last: bool = False) -> None:
        """Writes the rows of refusals that were only counted; now and then, and at the end."""
        if self._inbox.is_ready:  # else each row waits for a disk that is away; they are written when it is back
            self._turned_away.settle(is_last=is_last)

    def visitors(self) -> int:
        """Associations that are open."""
        with self._lock:
            return sum(map(_is_inside, self._visitors))

    def admit(
        self,
        visitor: Visitor,
        calling: str,
        called: str,
        address: str,
        *,
        is_own: bool,
        names: frozenset[str] = frozenset(),
    ) -> Rejection | None:
        """None: the association may go on. is_own: it comes from this machine's own listening address.

        names: those in its verified certificate.
        """
        if is_own and self._self_echo_title and calling == self._self_echo_title:
            return None
        judged = self._accept_list.judge(calling, called, address, names)
        is_reporter = isinstance(judged, Rejection) and self._accept_list.is_reporter(calling, called)
        peer = None if isinstance(judged, Rejection) else judged
        rejection = judged if isinstance(judged, Rejection) and not is_reporter else None
        if rejection is None:
            rejection = self._closed_by()
        with self._lock:
            if rejection is None:
                rejection = self._no_room(peer)
            association = f"{self._name}-{next(self._numbers)}"
            sender = Sender(calling, called, address, association)
            if rejection is None:
                self._visitors[visitor] = sender
                if peer is not None:
                    self._entries[visitor] = peer
                else:
                    self._reporters.add(visitor)
        if rejection is not None:
            self._audit_rejection(sender, rejection)
        return rejection

    def _no_room(self, peer: Peer | None) -> Rejection | None:
        """Under the lock. peer: its entry in accept_from; None: it only reports."""
        if sum(map(_is_inside, self._visitors)) >= self._limits.max_associations:
            return TOO_MANY
        if peer is None:
            return None
        return self._peer_limits.admit(
            peer, sum(entry is peer and _is_inside(visitor) for visitor, entry in self._entries.items())
        )

    def is_reporter(self, visitor: Visitor) -> bool:
        """A PACS that is not in `accept_from` and may only report on storage commitments."""
        with self._lock:
            return visitor in self._reporters

    def _closed_by(self) -> Rejection | None:
        if self._is_closing:
            return CLOSING
        if not self._inbox.is_ready:
            return NO_STORE
        try:
            self._inbox.check_room()
        except DiskFloorReached as exc:
            log.warning("disk.floor_reached", free=exc.free, floor=exc.floor)
            return NO_SPACE
        return None

    def _audit_rejection(self, sender: Sender, rejection: Rejection) -> None:
        detail = {
            "result": rejection.result,
            "source": rejection.source,
            "reason": rejection.reason,
            "text": rejection.text,
            "association": sender.association,
        }
        event = AuditEvent(
            kind=AuditKind.ASSOCIATION_REJECTED,
            at=self._store.clock(),
            outcome=Outcome.MINOR,
            calling_ae=sender.calling_ae,
            called_ae=sender.called_ae,
            address=sender.address,
            detail=detail,
        )
        if self._turned_away.tell(event, rejection.text):
            log.warning(
                "association.rejected", reason=rejection.text, calling=sender.calling_ae, called=sender.called_ae,
                address=sender.address,
            )  # fmt: skip

    def connection_refused(self, address: str, reason: str) -> None:
        """A connection that ends before anybody has asked for an association."""
        if self._turned_away.tell(self._refused_connection(address, reason), reason):
            log.warning("connection.refused", reason=reason, address=address)

    def no_room(self, address: str | None, reason: str) -> None:
        """A connection that is closed at once, by the thread that takes all of them: it must not wait for a disk."""
        if self._turned_away.count(self._refused_connection(address, reason), reason):
            log.warning("connection.refused", reason=reason, address=address)

    def _refused_connection(self, address: str | None, reason: str) -> AuditEvent:
        return AuditEvent(
            kind=AuditKind.CONNECTION_REFUSED,
            at=self._store.clock(),
            outcome=Outcome.MINOR,
            address=address,
            detail={"text": reason},
        )

    def protocol_error(self, visitor: Visitor, what: str) -> None:
        """An association that is about to be aborted for breaking the protocol."""
        sender = self.sender(visitor)
        log.warning("association.protocol_error", reason=what, association=sender.association, address=sender.address)

    def data_set(self) -> IncomingDataSet:
        """Memory for one association's data sets."""
        return IncomingDataSet(
            self._budget,
            max_bytes=self._limits.max_instance_bytes,
            spill_directory=segments_directory(self._store.root),
            check_room=self._inbox.check_room,
        )

    def refusal_in_advance(self, command: Command, abstract_syntax: str, transfer_syntax: str) -> str:
        """Why a data set need not be kept while it is received; empty: keep it."""
        if not StoreCommand(command.sop_class, command.instance_uid, abstract_syntax, transfer_syntax).is_wanted:
            return "SOP class is not wanted"
        if not self._inbox.is_ready:
            return "not ready, send again later"
        try:
            self._inbox.check_room()
        except DiskFloorReached:
            return "disk floor reached"
        return ""

    def answer(
        self, visitor: Visitor, command: Command, abstract_syntax: str, transfer_syntax: str, data_set: IncomingDataSet
    ) -> Answer:
        """The answer to a C-STORE or C-ECHO request, its data set received."""
        if command.field == C_ECHO_RQ:
            return SUCCESS
        asked = StoreCommand(command.sop_class, command.instance_uid, abstract_syntax, transfer_syntax)
        body = _body(data_set)
        answer = self._reception.store(asked, body, self.sender(visitor))
        if answer.status:
            data_set.forget_pieces()
        return answer

    def answer_bytes(
        self, visitor: Visitor, command: Command, abstract_syntax: str, transfer_syntax: str, data: bytes
    ) -> Answer:
        """The same for a data set that came in one piece (stock classes)."""
        incoming = self.data_set()
        incoming.begin(self.refusal_in_advance(command, abstract_syntax, transfer_syntax))
        view = memoryview(data)
        try:
            while view:
                space = incoming.space(len(view))
                space[:] = view[: len(space)]
                incoming.filled(len(space))
                view = view[len(space) :]
            return self.answer(visitor, command, abstract_syntax, transfer_syntax, incoming)
        finally:
            incoming.end()

    def sender(self, visitor: Visitor) -> Sender:
        """Who an association is."""
        return self._visitors.get(visitor) or Sender(None, None, None, None)


def _is_inside(visitor: Visitor) -> bool:
    return visitor.is_alive() and not (visitor.is_released or visitor.is_aborted or visitor.is_rejected)


def _body(data_set: IncomingDataSet) -> Body:
    if data_set.refusal or not data_set.length:
        return Body(data_set.length, data_set.refusal)
    data, sha256 = data_set.complete()
    late_refusal = str(data_set.refusal)  # of the last piece, which is spilled only now
    return Body(data_set.length, late_refusal, None if late_refusal else Kept(data_set.head, data, sha256))
