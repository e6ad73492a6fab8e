"""Is it in the PACS? One thread for each destination asks about what was sent there, and acts on what it is told."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby
from operator import attrgetter

import structlog
from pydicom.uid import generate_uid

from anomalyd.daemon.commitment_messages import Report, Request
from anomalyd.daemon.dispatcher.committing import Refusal, Waiting, ask
from anomalyd.daemon.dispatcher.delivery import STOP_GRACE_S
from anomalyd.daemon.dispatcher.querying import Asker, NotAnswered, asking
from anomalyd.daemon.dispatcher.refusals import PAUSE_S, tell_refusal
from anomalyd.daemon.scu import Watched
from anomalyd.daemon.settings import DaemonSettings, Destination
from anomalyd.storage import confirmations
from anomalyd.storage.confirmations import Patience
from anomalyd.storage.crash import crash_point
from anomalyd.storage.deliveries import DeliveryRow, mark_confirmed
from anomalyd.storage.engine import Store

BATCH = 2000
LOOKS = 4
"""A query that does not find an object may come before the PACS has indexed it: after so many it is missing."""
COMMITMENT, QUERY, RESPONSE = "storage commitment", "query", "response"
log = structlog.get_logger()


class Confirmer:
    """Asks one destination; sleeps until kicked."""

    def __init__(self, store: Store, to: Destination, daemon: DaemonSettings) -> None:
        self._store, self._to = store, to
        self._calling = daemon.ae_title
        self._patience = patience_of(daemon)
        self._first_wait = timedelta(seconds=daemon.delivery.back_off_first)
        self._kicked, self._woken, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._watched = Watched()
        self._thread = threading.Thread(target=self._run, name=f"confirmer-{to.name}")

    def start(self) -> None:
        """Begin; something may be sent, or reported, already."""
        self._kicked.set()
        self._thread.start()

    def kick(self) -> None:
        """Something was sent or reported."""
        self._kicked.set()
        self._woken.set()

    def stop(self) -> None:
        """End after the question that is on the wire; `join` waits for it."""
        self._stop.set()
        self.kick()

    def join(self) -> None:
        """Returns when the thread has ended; what is not answered by then is ended after a grace, and asked again."""
        self._thread.join(STOP_GRACE_S)
        self._watched.abort()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._kicked.wait()
            self._kicked.clear()
            try:
                self._look()
            except Exception as exc:  # a confirmer that died would be silence: all stays, the next kick tries again
                if tell_refusal(exc, confirmer=self._to.name):
                    self._stop.wait(PAUSE_S)
                else:
                    log.exception("confirmation.crashed", destination=self._to.name)

    def _look(self) -> None:
        """Acts on reports, then asks about all that may be asked about."""
        self._apply()
        while not self._stop.is_set():
            rows = confirmations.due(self._store, self._to.name, limit=BATCH)
            if not rows:
                return
            if self._to.confirm == "commitment":
                self._ask_commitment(rows)
            elif self._to.confirm == "query":
                self._query(rows)
            else:
                mark_confirmed(self._store, [row.id for row in rows], RESPONSE)
            self._apply()

    def _apply(self) -> None:
        applied = confirmations.apply_reports(self._store, self._to.name, self._first_wait, self._patience)
        if applied.confirmed or applied.missing:
            write = log.warning if applied.missing else log.info
            write(
                "confirmation.reported",
                destination=self._to.name,
                confirmed=applied.confirmed,
                missing=applied.missing,
            )

    # Storage commitment

    def _ask_commitment(self, rows: Sequence[DeliveryRow]) -> None:
        asked: dict[str, list[int]] = {}
        requests = []
        for _, group in groupby(rows, key=attrgetter("job_id")):
            uid = str(
                generate_uid(prefix=None)
            )  # 2.25 and a random number: who does not see the request cannot guess it
            ids = [row.id for row in group]
            chosen = confirmations.mark_asked(self._store, ids, COMMITMENT, self._patience, transaction_uid=uid)
            if chosen:
                asked[uid] = [row.id for row in chosen]
                requests.append(Request(uid, tuple((row.sop_class, row.sop_instance_uid) for row in chosen)))
        if not requests:
            return
        log.info("confirmation.asked", destination=self._to.name, how=COMMITMENT, objects=sum(map(len, asked.values())))
        crash_point("confirmation.mid_ask")
        waiting = Waiting(lambda: confirmations.is_answered(self._store, list(asked)), self._woken, self._stop)
        refused = ask(requests, self._to.asked, self._calling, self._keep, waiting, watched=self._watched)
        for uid, refusal in refused.items():
            self._not_asked(asked[uid], refusal, uid)

    def _keep(self, report: Report) -> bool:
        """A report on our own association."""
        failed = {uid: reason for (_, uid), reason in report.failed.items()}
        committed = [uid for _, uid in report.committed]
        name = confirmations.record_report(self._store, report.transaction_uid, committed, failed)
        self._woken.set()
        return name is not None

    def _not_asked(self, ids: Sequence[int], refusal: Refusal, uid: str | None = None) -> None:
        log.warning("confirmation.not_asked", destination=self._to.name, objects=len(ids), text=refusal.text)
        confirmations.mark_not_asked(
            self._store, ids, refusal.text, self._patience, transaction_uid=uid, for_good=refusal.for_good
        )

    # Query

    def _query(self, rows: Sequence[DeliveryRow]) -> None:
        chosen = confirmations.mark_asked(self._store, [row.id for row in rows], QUERY, self._patience)
        if not chosen:
            return
        left = list(chosen)
        try:
            with asking(self._to.asked, self._calling, self._watched) as asker:
                for _, group in groupby(chosen, key=attrgetter("study_uid", "result_series_uid")):
                    if self._stop.is_set():
                        break  # asked about again when its time is over
                    some = list(group)
                    self._compare(some, asker)
                    left = [row for row in left if row not in some]
        except NotAnswered as exc:
            self._not_asked([row.id for row in left], Refusal(str(exc), for_good=exc.for_good))

    def _compare(self, rows: Sequence[DeliveryRow], asker: Asker) -> None:
        there = asker.instances(rows[0].study_uid, rows[0].result_series_uid)
        found = [row.id for row in rows if row.sop_instance_uid in there]
        others = [row.id for row in rows if row.sop_instance_uid not in there]
        confirmations.mark_found(self._store, found, others, self._first_wait, self._patience, looks=LOOKS)
        write = log.warning if others else log.info
        write("confirmation.looked", destination=self._to.name, found=len(found), not_found=len(others))


def patience_of(daemon: DaemonSettings) -> Patience:
    """How long this configuration waits for confirmations."""
    settings = daemon.confirmation
    return Patience(
        answer_within=timedelta(seconds=settings.answer_within),
        give_up_after=timedelta(seconds=settings.give_up_after),
        send_again=settings.send_again,
    )
