"""Storage commitment at the door (PS3.4 J): what senders ask us for, and what a PACS reports of our results.

A report is kept in the store before it is answered, and the dispatcher acts on it. A request is judged against the
index: `0x0000` to an image says that its record is durable, and its row is waited for here.
"""

import threading
from collections.abc import Callable
from typing import Any, Final, Protocol
from weakref import WeakSet

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.presentation import PresentationContext, build_context
from sqlalchemy.exc import DBAPIError

from anomalyd.daemon import commitment_messages as messages
from anomalyd.daemon import scu
from anomalyd.daemon.commitment_messages import MalformedCommitment, Report, Request
from anomalyd.daemon.settings import DaemonSettings
from anomalyd.storage import commitment_requests as requests
from anomalyd.storage.confirmations import record_report
from anomalyd.storage.engine import Store
from anomalyd.storage.inbox import Inbox
from anomalyd.storage.received import NotStored, Sender

log = structlog.get_logger()

SUCCESS: Final = 0x0000
Answer = tuple[int, Dataset | None]


class Visits(Protocol):
    """What the door knows of an association."""

    def sender(self, visitor: Any) -> Sender:
        """Who it is."""
        ...

    def is_reporter(self, visitor: Any) -> bool:
        """Whether it may bring reports, and nothing else."""
        ...


def context(transfer_syntaxes: list[str]) -> PresentationContext:
    """Storage commitment in both roles: senders ask us (SCU), a PACS reports to us (SCP)."""
    both = build_context(messages.PUSH_MODEL, transfer_syntaxes)
    both.scu_role = both.scp_role = True
    return both


class CommitmentDesk:
    """Answers N-ACTION and N-EVENT-REPORT. Any thread."""

    def __init__(
        self, store: Store, inbox: Inbox, visits: Visits, daemon: DaemonSettings, wake: Callable[[], object]
    ) -> None:
        """wake: called when the dispatcher has something to do."""
        self._store, self._inbox, self._visits, self._wake = store, inbox, visits, wake
        self._told_elsewhere = {peer.ae_title for peer in daemon.accept_from if peer.report_to is not None}
        self._sorted: WeakSet[Association] = WeakSet()

    # What a PACS tells us

    def on_report(self, event: evt.Event) -> Answer:
        """N-EVENT-REPORT: 0x0000 says that it is kept."""
        sender = self._visits.sender(event.assoc)
        if event.event_type not in (messages.ALL_COMMITTED, messages.SOME_FAILED):
            return messages.NO_SUCH_EVENT, None
        try:
            report = messages.report_of(event.event_information)
            failed = {uid: reason for (_, uid), reason in report.failed.items()}
            committed = [uid for _, uid in report.committed]
            name = record_report(self._store, report.transaction_uid, committed, failed)
        except MalformedCommitment as exc:
            log.warning("commitment.malformed", sender=sender.calling_ae, reason=str(exc))
            return messages.INVALID_ARGUMENT, None
        except DBAPIError:
            log.exception("commitment.not_kept", sender=sender.calling_ae)
            return messages.PROCESSING_FAILURE, None
        if name is None:
            log.warning("commitment.unknown_transaction", sender=sender.calling_ae, address=sender.address)
            return messages.INVALID_ARGUMENT, None
        log.info(
            "commitment.reported", destination=name, sender=sender.calling_ae, committed=len(committed),
            failed=len(failed),
        )  # fmt: skip
        self._wake()
        return SUCCESS, None

    # What senders ask us

    def on_request(self, event: evt.Event) -> Answer:
        """N-ACTION: 0x0000 says that it will be answered, on this association or on a new one to `report_to`."""
        sender = self._visits.sender(event.assoc)
        if self._visits.is_reporter(event.assoc):
            return messages.NOT_AUTHORISED, None
        if event.action_type != messages.REQUEST:
            return messages.NO_SUCH_ACTION, None
        is_told_elsewhere = sender.calling_ae in self._told_elsewhere
        try:
            request = messages.request_of(event.action_information)
            self._inbox.probe()  # rows of all that was acknowledged before stand then
            requests.keep(self._store, sender, request.transaction_uid, request.objects, to_be_told=is_told_elsewhere)
        except MalformedCommitment as exc:
            log.warning("commitment.malformed", sender=sender.calling_ae, reason=str(exc))
            return messages.INVALID_ARGUMENT, None
        except (NotStored, DBAPIError):
            log.exception("commitment.not_kept", sender=sender.calling_ae)
            return messages.PROCESSING_FAILURE, None
        log.info("commitment.requested", sender=sender.calling_ae, objects=len(request.objects))
        if is_told_elsewhere:
            self._wake()
        else:
            self._tell_after_the_answer(event.assoc, request, sender)
        return SUCCESS, None

    def _tell_after_the_answer(self, association: Association, request: Request, sender: Sender) -> None:
        if association not in self._sorted:
            self._sorted.add(association)
            scu.sort_messages(association)

        def on_sent(sent: evt.Event) -> None:
            # Bytes on the wire: EVT_DIMSE_SENT comes before them, and the report would overtake the answer
            if isinstance(sent.pdu, P_DATA_TF):
                association.unbind(evt.EVT_PDU_SENT, on_sent)
                threading.Thread(
                    target=self._tell, args=(association, request, sender), name="commitment", daemon=True
                ).start()

        association.bind(evt.EVT_PDU_SENT, on_sent)

    def _tell(self, association: Association, request: Request, sender: Sender) -> None:
        """The report, on the association of the request."""
        try:
            outcomes = requests.judge(self._store, request.objects)
            committed = tuple(reference for reference, reason in outcomes.items() if reason is None)
            failed = {reference: reason for reference, reason in outcomes.items() if reason is not None}
            error = _send(association, Report(request.transaction_uid, committed, failed))
            requests.record_told(self._store, sender.calling_ae, request.transaction_uid, outcomes, error)
        except Exception:  # the thread's outer loop: the sender gets no report, and asks again
            log.exception("commitment.crashed", sender=sender.calling_ae)
            return
        write = log.warning if error else log.info
        write("commitment.told", sender=sender.calling_ae, objects=len(outcomes), failed=len(failed), error=error)


def _send(association: Association, report: Report) -> str:
    """Why the report did not arrive; empty where it did."""
    event_type, ds = messages.report_data_set(report)
    try:
        status, _ = association.send_n_event_report(ds, event_type, messages.PUSH_MODEL, messages.PUSH_MODEL_INSTANCE)
    except (RuntimeError, ValueError):  # pynetdicom: not established any more, or the context is not ours
        return "the sender has ended the association, and has no `report_to` in accept_from"
    if "Status" not in status:
        return "the sender gave no answer to the report"
    return "" if status.Status == SUCCESS else f"the sender answered 0x{int(status.Status):04X}"
