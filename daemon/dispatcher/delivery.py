"""Results on their way to one PACS: a C-STORE SCU that tells what a retry can mend from what it cannot.

Knows peers and files, not the store: `outbox.py` gives the parcels and writes down what became of them.
Data sets go out as the bytes of the file wherever the peer takes its transfer syntax; only for a peer that takes
nothing but Implicit VR are they encoded again.
"""

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context

from anomalyd.daemon import scu
from anomalyd.daemon.dispatcher.implicit_vr import implicit_vr
from anomalyd.daemon.settings import Destination
from anomalyd.errors import ConfigError, Transient
from anomalyd.ids import AETitle, InstanceUID
from anomalyd.storage.crash import crash_point

# A path then leaves as the bytes of its file; Dataset objects are encoded as before.
_config.STORE_SEND_CHUNKED_DATASET = True

ALWAYS_PROPOSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
PARCELS_PER_ASSOCIATION = 8
"""Each further parallel association needs so many parcels; below it the handshake costs more than it gives."""
LOSSES_PER_ASSOCIATION = 3
"""So often an association that broke under a parcel is opened again: a poisonous object must not hold up the rest."""
STOP_GRACE_S = 5.0
"""After `stop` an answer is waited for so long, then the association is aborted."""

# PS3.4 table B.2-1 and PS3.7 annex C. What is in neither table is taken as final: a peer that says no, said no.
OUT_OF_RESOURCES = range(0xA700, 0xA800)
WARNINGS = range(0xB000, 0xC000)
OTHER_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})
DUPLICATE_SOP_INSTANCE = 0x0111  # the peer holds this UID, and our UIDs stand for their content
TRANSIENT_STATUSES = frozenset(
    {0x0110, 0x0210, 0x0213}
)  # processing failure, duplicate invocation, resource limitation
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
REJECTED_TRANSIENT = 2  # A-ASSOCIATE-RJ result, PS3.8 9.3.4


class Verdict(StrEnum):
    """What became of one parcel."""

    SENT = "sent"
    REFUSED = "refused"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one parcel. status: the peer's C-STORE status, None where it never came to one."""

    verdict: Verdict
    text: str
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Parcel:
    """One result object for one destination.

    key: the delivery it belongs to. rank: lower ranks are answered before higher ones are sent (heatmaps, then SEG).
    path: a Part 10 file of transfer_syntax.
    """

    key: int
    rank: int
    sop_class: str
    instance_uid: InstanceUID
    transfer_syntax: str
    path: Path


Report = Callable[[Parcel, Outcome], None]


class CannotCall(Transient):
    """Nothing was sent to a peer: its name is unknown, or our certificates cannot be used just now."""


def send(
    parcels: Sequence[Parcel],
    to: Destination,
    calling: AETitle,
    *,
    parallel: int,
    report: Report,
    stop: threading.Event,
) -> None:
    """Every parcel is reported exactly once, except those left when `stop` is set (they stay as they were).

    report is called from several threads. One connection is tried before others are opened, so a dead peer costs one
    time-out and not one for each parcel.
    """
    lanes = [_Lane(to, calling, parcels, report, stop) for _ in range(_lane_count(len(parcels), parallel))]
    try:
        failure = lanes[0].open()
        if failure is not None:
            for parcel in parcels:
                report(parcel, failure)
            return
        with ThreadPoolExecutor(len(lanes), thread_name_prefix=f"send-{to.name}") as pool:
            for rank in sorted({parcel.rank for parcel in parcels}):
                waiting = _queue_of(parcel for parcel in parcels if parcel.rank == rank)
                _finished([pool.submit(lane.work, waiting) for lane in lanes], lanes, stop)
                _report_left_over(waiting, lanes, report, stop)
    finally:
        for lane in lanes:
            lane.close()


def outcome_of(status: int) -> Outcome:
    """What a C-STORE response status means for us (PS3.4 B.2.3, PS3.7 annex C)."""
    if status == 0x0000:
        return Outcome(Verdict.SENT, "stored", status)
    if status in WARNINGS or status in OTHER_WARNINGS:
        return Outcome(Verdict.SENT, f"stored with warning 0x{status:04X}", status)
    if status == DUPLICATE_SOP_INSTANCE:
        return Outcome(Verdict.SENT, "was there already (0x0111)", status)
    if status in OUT_OF_RESOURCES:
        return Outcome(Verdict.RETRY, f"the peer is out of resources (0x{status:04X})", status)
    if status in TRANSIENT_STATUSES:
        return Outcome(Verdict.RETRY, f"the peer failed (0x{status:04X})", status)
    return Outcome(Verdict.REFUSED, f"the peer refuses the object (0x{status:04X})", status)


class _Lane:
    """One association, opened when needed and used for many parcels; its methods run in one thread at a time."""

    def __init__(
        self, to: Destination, calling: AETitle, parcels: Sequence[Parcel], report: Report, stop: threading.Event
    ) -> None:
        self._to, self._report, self._stop = to, report, stop
        self._contexts = _contexts_for(parcels)
        self._calling = calling
        self._association: Association | None = None
        self._message_id = 0
        self._losses = 0
        self.failure: Outcome | None = None

    def open(self) -> Outcome | None:
        """None when the association stands, else why it does not."""
        if self._association is not None and self._association.is_established:
            return None
        try:
            association = associate(self._to, self._calling, self._contexts)
        except CannotCall as exc:
            return Outcome(Verdict.RETRY, str(exc))
        self.failure = None if association.is_established else why_no_association(association, self._to)
        self._association = association if association.is_established else None
        return self.failure

    def work(self, waiting: "queue.SimpleQueue[Parcel]") -> None:
        """Send from the queue until it is empty, `stop` is set, or the peer cannot be reached."""
        while not self._stop.is_set() and self._losses < LOSSES_PER_ASSOCIATION:
            if waiting.empty() or self.open() is not None:
                return
            try:
                parcel = waiting.get_nowait()
            except queue.Empty:
                return
            outcome = self._send_one(parcel)
            if self._association is None:
                self._losses += 1
                self.failure = outcome
            self._report(parcel, outcome)

    def abort(self) -> None:
        """End a wait for an answer; called from another thread."""
        if self._association is not None and self._association.is_established:
            self._association.abort()

    def close(self) -> None:
        """Release in good order, or abort what hangs."""
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._association = None

    def _forget(self, association: Association) -> None:
        """A broken association says for a moment yet that it is established: nothing more may go over it."""
        association.abort()
        self._association = None

    def _send_one(self, parcel: Parcel) -> Outcome:
        association = self._association
        if association is None:
            raise RuntimeError("a lane sends only while it is open")
        if not _accepts(association, parcel.sop_class):
            name = UID(parcel.sop_class).name
            return Outcome(Verdict.REFUSED, f"{self._to.ae_title} does not take {name} (presentation context rejected)")
        self._message_id = self._message_id % 0xFFFF + 1
        crash_point("delivery.mid_send")
        try:
            as_stored = _accepts(association, parcel.sop_class, parcel.transfer_syntax)
            status = association.send_c_store(
                parcel.path if as_stored else implicit_vr(parcel.path), msg_id=self._message_id
            )
        except OSError as exc:
            return Outcome(Verdict.RETRY, f"the result file cannot be read: {exc.strerror}")
        except RuntimeError:  # pynetdicom: no longer established
            self._forget(association)
            return Outcome(Verdict.RETRY, "the association was lost")
        except ValueError:  # pynetdicom: no accepted context can carry this transfer syntax
            return Outcome(Verdict.REFUSED, f"{self._to.ae_title} takes no transfer syntax that the object can have")
        if "Status" not in status:
            self._forget(association)
            return Outcome(Verdict.RETRY, "no answer: the association was aborted, closed or timed out")
        return outcome_of(status.Status)


def _finished(work: Sequence[Future[None]], lanes: Sequence[_Lane], stop: threading.Event) -> None:
    """Wait for all lanes; once `stop` is set, not longer than the grace."""
    unfinished = set(work)
    grace_ends = None
    while unfinished:
        _, unfinished = wait(unfinished, timeout=0.5)
        if stop.is_set():
            grace_ends = grace_ends or time.monotonic() + STOP_GRACE_S
            if time.monotonic() > grace_ends:
                for lane in lanes:
                    lane.abort()
    for done in work:
        done.result()


def _lane_count(parcels: int, parallel: int) -> int:
    return max(1, min(parallel, parcels // PARCELS_PER_ASSOCIATION))


def _queue_of(parcels: Iterator[Parcel]) -> "queue.SimpleQueue[Parcel]":
    waiting: queue.SimpleQueue[Parcel] = queue.SimpleQueue()
    for parcel in parcels:
        waiting.put(parcel)
    return waiting


def _report_left_over(
    waiting: "queue.SimpleQueue[Parcel]", lanes: Sequence[_Lane], report: Report, stop: threading.Event
) -> None:
    """Parcels that no lane came to because the peer went away are tried again with the others."""
    if stop.is_set():
        return
    reason = next((lane.failure for lane in lanes if lane.failure is not None), None)
    outcome = Outcome(Verdict.RETRY, reason.text if reason else "the peer went away")
    while not waiting.empty():
        report(waiting.get_nowait(), outcome)


def associate(
    to: Destination,
    calling: AETitle,
    contexts: list[PresentationContext],
    *,
    handlers: Sequence[evt.EventHandlerType] = (),
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
) -> Association:
    """An association with the destination's own limits, established or not; raises CannotCall.

    handlers: of what the peer asks for on it. roles: those proposed.
    """
    try:
        address = socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)[0][4][0]
        tls_arguments = scu.tls_arguments(to.tls, to.host)
    except OSError as exc:
        raise CannotCall(f"the name {to.host} cannot be resolved: {exc.strerror}") from exc
    except ConfigError as exc:
        raise CannotCall(str(exc)) from exc
    entity = AE(to.calling_ae_title or calling)
    entity.connection_timeout = to.connect_timeout
    entity.acse_timeout = to.acse_timeout
    entity.dimse_timeout = to.dimse_timeout
    entity.network_timeout = to.network_timeout
    bound: list[evt.EventHandlerType] = [
        (evt.EVT_CONN_OPEN, _tune_socket, [to.network_timeout]),
        (evt.EVT_DATA_SENT, _acknowledge_at_once),
        *handlers,
    ]
    return entity.associate(
        str(address), to.port, contexts, to.ae_title, evt_handlers=bound, ext_neg=list(roles) or None,
        tls_args=tls_arguments,
    )  # fmt: skip


def _contexts_for(parcels: Sequence[Parcel]) -> list[PresentationContext]:
    """One context for each class and syntax: the peer's choice among them is then ours (PS3.8 9.3.2.2)."""
    wanted = {
        (parcel.sop_class, syntax)
        for parcel in parcels
        for syntax in (parcel.transfer_syntax, *map(str, ALWAYS_PROPOSED))
    }
    return [build_context(sop_class, syntax) for sop_class, syntax in sorted(wanted)]


def _accepts(association: Association, sop_class: str, transfer_syntax: str | None = None) -> bool:
    return any(
        context.abstract_syntax == sop_class and transfer_syntax in (None, context.transfer_syntax[0])
        for context in association.accepted_contexts
    )


def _tune_socket(event: Event, network_timeout_s: float) -> None:
    """What `scu.prepare` does, and no write that waits for ever on a peer that stopped reading.

    pynetdicom takes the time-out off after connecting; a DUL thread in a blocking send would never end.
    """
    scu.prepare(event)
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.settimeout(network_timeout_s)


def _acknowledge_at_once(event: Event) -> None:
    """The peer's answer comes in two writes; with Nagle on there, the second waits for our delayed ACK of the first.

    176 objects to a stock Orthanc over one association: 9.4 s without this, 1.3 s with it (docs/decisions/0020).
    The kernel forgets the option, so it is set again after each write (tcp(7), TCP_QUICKACK; Linux).
    """
    transport = event.assoc.dul.socket
    if _QUICKACK is not None and transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def why_no_association(association: Association, to: Destination) -> Outcome:
    """What kept an association from being established."""
    where = f"{to.ae_title} at {to.host}:{to.port}"
    answer = scu.rejection(association)
    if answer is not None:
        verdict = Verdict.RETRY if answer.result == REJECTED_TRANSIENT else Verdict.REFUSED
        return Outcome(verdict, f"{where} rejects the association: {answer.result_str}, {answer.reason_str}")
    if fault := scu.tls_fault(association):
        return Outcome(Verdict.RETRY, f"no TLS with {where}: {fault}")
    if association.rejected_contexts and not association.accepted_contexts:
        return Outcome(Verdict.REFUSED, f"{where} takes none of the objects (every presentation context rejected)")
    if association.is_aborted:
        # pynetdicom tells a refused connection and an abort in the same way; `check` tries the steps one by one.
        said = f"{where} cannot be reached, aborted, or gave no answer within {to.acse_timeout:g} s"
        return Outcome(Verdict.RETRY, f"{said}: `anomalyd check` tells which")
    return Outcome(Verdict.RETRY, f"{where} cannot be reached within {to.connect_timeout:g} s")
