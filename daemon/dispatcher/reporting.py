"""Answers to storage commitments that senders asked the gateway for, on associations that we open."""

import threading
from collections.abc import Mapping
from datetime import timedelta

import structlog

from anomalyd.daemon.commitment_messages import Report
from anomalyd.daemon.dispatcher.committing import tell
from anomalyd.daemon.settings import DaemonSettings, Destination, ReportAddress
from anomalyd.ids import AETitle
from anomalyd.storage import commitment_requests as requests
from anomalyd.storage.commitment_requests import RequestRow
from anomalyd.storage.engine import Store

log = structlog.get_logger()


class Reporting:
    """One thread per sender that is being told; a sweep starts them."""

    def __init__(self, store: Store, daemon: DaemonSettings) -> None:
        self._store, self._daemon = store, daemon
        self._addresses: Mapping[AETitle, ReportAddress] = {
            peer.ae_title: peer.report_to for peer in daemon.accept_from if peer.report_to is not None
        }
        self._busy: dict[AETitle, threading.Thread] = {}

    def sweep(self) -> None:
        """Tells every sender what is due, a slow one delays no other."""
        by_sender: dict[AETitle, list[RequestRow]] = {}
        for row in requests.due(self._store):
            by_sender.setdefault(row.calling_ae, []).append(row)
        for title, rows in by_sender.items():
            running = self._busy.get(title)
            if running is None or not running.is_alive():
                # A daemon thread: its end may wait for time-outs, and what it did not write down is due again.
                thread = threading.Thread(target=self._tell, args=(rows,), name=f"report-{title}", daemon=True)
                self._busy[title] = thread
                thread.start()

    def _tell(self, rows: list[RequestRow]) -> None:
        for row in rows:
            try:
                if not self._tell_one(row):
                    return  # the others would fail for the same reason: they are due again with it
            except Exception:  # stays due: the next sweep tries again
                log.exception("commitment.crashed", sender=row.calling_ae)
                return

    def _tell_one(self, row: RequestRow) -> bool:
        outcomes = requests.judge(self._store, row.objects)
        address = self._addresses.get(row.calling_ae)
        if address is None:
            error: str | None = "it has no `report_to` in accept_from any more"
        else:
            committed = tuple(reference for reference, reason in outcomes.items() if reason is None)
            failed = {reference: reason for reference, reason in outcomes.items() if reason is not None}
            to = Destination(
                name="sender", ae_title=row.calling_ae, host=address.host, port=address.port,
                calling_ae_title=row.called_ae or None, tls=address.tls,
            )  # fmt: skip
            error = tell(Report(row.transaction_uid, committed, failed), to, self._daemon.ae_title)
        if error is None:
            requests.mark_told(self._store, row, outcomes)
            log.info("commitment.told", sender=row.calling_ae, objects=len(row.objects))
            return True
        wait = self._daemon.delivery.back_off_first * 2 ** min(row.attempts, 20)
        given_up_after = timedelta(seconds=self._daemon.confirmation.give_up_after)
        again = timedelta(seconds=min(wait, self._daemon.delivery.back_off_cap))
        requests.mark_not_told(self._store, row, error, again, given_up_after)
        log.warning("commitment.not_told", sender=row.calling_ae, text=error)
        return False
