"""Storage commitment over the network, both ways (PS3.4 J): asking a PACS, and reporting to a sender."""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydicom import Dataset
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from anomalyd.daemon import commitment_messages as messages
from anomalyd.daemon.commitment_messages import Report, Request
from anomalyd.daemon.dispatcher.delivery import CannotCall, Verdict, associate, why_no_association
from anomalyd.daemon.scu import Watched
from anomalyd.daemon.settings import Destination
from anomalyd.ids import AETitle
from anomalyd.storage.confirmations import REASONS

KEEP_OPEN_S = 5.0
"""A report on the association of its request is waited for so long; after that it needs one of its own."""
SUCCESS = 0x0000


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a question could not be put, or was not taken. for_good: the peer does not offer the service."""

    text: str
    for_good: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long the association stays open: until `is_answered`, looked at when `woken`, or KEEP_OPEN_S, or `stop`."""

    is_answered: Callable[[], bool]
    woken: threading.Event
    stop: threading.Event

    def wait(self, association: Association) -> None:
        """Returns when one of these is so, or the peer has ended the association."""
        for _ in range(round(KEEP_OPEN_S / 0.25)):
            if self.stop.is_set() or not association.is_established or self.is_answered():
                return
            self.woken.wait(0.25)
            self.woken.clear()


OnReport = Callable[[Report], bool]
"""Keeps a report; False for a transaction that is not ours."""


class _Incoming:
    """Reports on the association of their request. pynetdicom answers each in a thread of its own."""

    def __init__(self, on_report: OnReport) -> None:
        self._on_report = on_report
        self._threads: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()

    def keep(self, event: Event) -> tuple[int, Dataset | None]:
        """Handler of EVT_N_EVENT_REPORT."""
        self._threads.put(threading.current_thread())
        try:
            report = messages.report_of(event.event_information)
        except messages.MalformedCommitment:
            return messages.INVALID_ARGUMENT, None
        return (SUCCESS if self._on_report(report) else messages.INVALID_ARGUMENT), None

    def settle(self) -> None:
        """Before anything more is sent: such a thread ends a pause that pynetdicom 3.0.4 would wait for."""
        while not self._threads.empty():
            self._threads.get().join()


def ask(
    requests: Sequence[Request],
    of: Destination,
    calling: AETitle,
    on_report: OnReport,
    waiting: Waiting,
    *,
    watched: Watched | None = None,
) -> dict[str, Refusal]:
    """Puts requests over one association; gives those that were not taken, by transaction UID."""
    incoming = _Incoming(on_report)
    try:
        association = associate(of, calling, [messages.context()], handlers=[(evt.EVT_N_EVENT_REPORT, incoming.keep)])
    except CannotCall as exc:
        return _all(requests, Refusal(str(exc)))
    if not association.is_established:
        if association.rejected_contexts and not association.accepted_contexts:
            where = f"{of.ae_title} at {of.host}:{of.port}"
            text = f"{where} does not offer storage commitment (presentation context rejected)"
            return _all(requests, Refusal(text, for_good=True))
        answer = why_no_association(association, of)
        return _all(requests, Refusal(answer.text, for_good=answer.verdict is Verdict.REFUSED))
    if watched is not None:
        watched.add(association)
    refused = {}
    try:
        for number, request in enumerate(requests, 1):
            incoming.settle()
            if (refusal := _ask_one(association, request, number)) is not None:
                refused[request.transaction_uid] = refusal
        if len(refused) < len(requests):
            waiting.wait(association)
    finally:
        incoming.settle()
        if association.is_established:
            association.release()
    return refused


def offers_commitment(of: Destination, calling: AETitle) -> bool:
    """Whether it takes the presentation context; nothing is asked."""
    try:
        association = associate(of, calling, [messages.context()])
    except CannotCall:
        return False
    offers = association.is_established
    if offers:
        association.release()
    return offers


def _ask_one(association: Association, request: Request, number: int) -> Refusal | None:
    try:
        status, _ = association.send_n_action(
            messages.request_data_set(request), messages.REQUEST, messages.PUSH_MODEL, messages.PUSH_MODEL_INSTANCE,
            msg_id=number,
        )  # fmt: skip
    except RuntimeError:  # pynetdicom: no longer established
        return Refusal("the association was lost")
    if "Status" not in status:
        return Refusal("no answer to the request: the association was aborted, closed or timed out")
    if status.Status != SUCCESS:
        return Refusal(f"it refuses the request: {_in_words(int(status.Status))}")
    return None


def tell(report: Report, to: Destination, calling: AETitle) -> str | None:
    """Reports to a sender on a new association, as SCP; None when it was taken, else why not."""
    role = build_role(messages.PUSH_MODEL, scu_role=False, scp_role=True)
    try:
        association = associate(to, calling, [messages.context()], roles=[role])
    except CannotCall as exc:
        return str(exc)
    if not association.is_established:
        return why_no_association(association, to).text
    event_type, ds = messages.report_data_set(report)
    try:
        status, _ = association.send_n_event_report(ds, event_type, messages.PUSH_MODEL, messages.PUSH_MODEL_INSTANCE)
    except RuntimeError:
        return "the association was lost"
    except ValueError:  # pynetdicom: no context in which we are SCP
        return f"{to.ae_title} takes no storage commitment reports (role rejected)"
    finally:
        if association.is_established:
            association.release()
    if "Status" not in status:
        return "no answer to the report: the association was aborted, closed or timed out"
    return None if status.Status == SUCCESS else f"it refuses the report: {_in_words(int(status.Status))}"


def _in_words(status: int) -> str:
    return f"{REASONS.get(status, 'status')} (0x{status:04X})"


def _all(requests: Sequence[Request], refusal: Refusal) -> dict[str, Refusal]:
    return {request.transaction_uid: refusal for request in requests}
