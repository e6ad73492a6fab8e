"""Deliveries from the store to their destinations: one courier thread for each, so a dead one delays no other.

What became of a parcel is written down in groups: a crash in between sends it again, under the same UIDs.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from itertools import groupby
from pathlib import Path

import structlog
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian

from anomalyd.daemon.dispatcher import sources
from anomalyd.daemon.dispatcher.delivery import STOP_GRACE_S, Outcome, Parcel, Verdict, send
from anomalyd.daemon.dispatcher.refusals import PAUSE_S, tell_refusal
from anomalyd.daemon.scu import Watched
from anomalyd.daemon.settings import DaemonSettings, Destination
from anomalyd.storage import deliveries
from anomalyd.storage.deliveries import BackOff, DeliveryRow
from anomalyd.storage.engine import Store
from anomalyd.storage.objects import result_path

BATCH = 500
"""Deliveries taken at once: a few large series."""
GROUP_S = 0.2
"""Outcomes of so long are written in one transaction."""
KIND_RANK = {"heatmap": 0, "summary": 0, "sr": 2, "rejection_note": 2}  # pictures, SEG, then what refers to others
OTHER_RANK = 1
RESPONSE = "response"
"""Without `confirm` an answer 0x0000 to each object is the proof (DESIGN 4.9)."""
log = structlog.get_logger()
_Answer = tuple[Parcel, Outcome]


class Courier:
    """Takes what is due for one destination and sends it; sleeps until kicked."""

    def __init__(
        self, store: Store, to: Destination, daemon: DaemonSettings, on_sent: Callable[[], None] = lambda: None
    ) -> None:
        """on_sent: called when something was sent that is to be confirmed."""
        self._store, self._to, self._on_sent = store, to, on_sent
        self._calling = daemon.ae_title
        self._parallel = daemon.delivery.parallel_associations
        self._back_off = back_off_of(daemon)
        self._kicked = threading.Event()
        self._stop = threading.Event()
        self._watched = Watched()
        self._thread = threading.Thread(target=self._run, name=f"courier-{to.name}")

    @property
    def name(self) -> str:
        """Name of the destination."""
        return self._to.name

    def start(self) -> None:
        """Begin; something may be due already."""
        self._kicked.set()
        self._thread.start()

    def kick(self) -> None:
        """Something is due."""
        self._kicked.set()

    def stop(self) -> None:
        """Finish the object that is on the wire, give the rest back; `join` waits for it."""
        self._stop.set()
        self._kicked.set()

    def join(self) -> None:
        """Returns when the thread has ended; a query that is not answered is ended after a grace."""
        self._thread.join(STOP_GRACE_S * 2)  # sending ends itself within STOP_GRACE_S
        self._watched.abort()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._kicked.wait()
            self._kicked.clear()
            try:
                while not self._stop.is_set() and self._send_batch():
                    pass
            except Exception as exc:  # a courier that died would be silence: all stays due, the next kick tries again
                if tell_refusal(exc, courier=self._to.name):
                    self._stop.wait(PAUSE_S)
                else:
                    log.exception("delivery.crashed", destination=self._to.name)

    def _send_batch(self) -> bool:
        """True when something was due."""
        rows = deliveries.due(self._store, destination=self._to.name, limit=BATCH)
        if not rows:
            return False
        taken = set(deliveries.mark_sending(self._store, [row.id for row in rows], self._patience(len(rows))))
        chosen = [row for row in rows if row.id in taken]
        wanted = self._of_known_sources(chosen) if self._to.check_source else chosen
        parcels = sorted((self._parcel(row) for row in wanted), key=lambda parcel: parcel.rank)
        if parcels:
            self._send_all(parcels)
            self._on_sent()
        return bool(chosen)

    def _of_known_sources(self, rows: Sequence[DeliveryRow]) -> list[DeliveryRow]:
        """Those whose study and patient are in the PACS as they were; what becomes of the others is written down."""
        verdicts = sources.judge(self._store, rows, self._to, self._calling, self._watched)
        others: dict[Outcome, list[int]] = {}
        for row in rows:
            if (outcome := verdicts[row.id]) is not None:
                others.setdefault(outcome, []).append(row.id)
        for outcome, ids in others.items():
            log.warning("delivery.not_sent", destination=self._to.name, objects=len(ids), text=outcome.text)
            self._mark(ids, outcome)
        return [row for row in rows if verdicts[row.id] is None]

    def _send_all(self, parcels: Sequence[Parcel]) -> None:
        log.info("delivery.started", destination=self._to.name, objects=len(parcels))
        told: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        open_keys = {parcel.key for parcel in parcels}
        with ThreadPoolExecutor(1, thread_name_prefix=f"sending-{self._to.name}") as pool:
            sending = pool.submit(self._send, parcels, told)
            try:
                while group := _next_group(told, sending):
                    self._write_down(group)
                    open_keys -= {parcel.key for parcel, _ in group}
            finally:
                if open_keys:  # stopped, or an error of ours
                    deliveries.put_back(self._store, sorted(open_keys))
            sending.result()

    def _send(self, parcels: Sequence[Parcel], told: "queue.SimpleQueue[_Answer]") -> None:
        def report(parcel: Parcel, outcome: Outcome) -> None:
            told.put((parcel, outcome))

        send(parcels, self._to, self._calling, parallel=self._parallel, report=report, stop=self._stop)

    def _write_down(self, group: Sequence[_Answer]) -> None:
        """Outcomes of one kind share a transaction."""

        def kind(item: _Answer) -> tuple[str, str, int]:
            outcome = item[1]
            return outcome.verdict, outcome.text, outcome.status or 0

        for _, same in groupby(sorted(group, key=kind), key=kind):
            items = list(same)
            outcome = items[0][1]
            self._mark([parcel.key for parcel, _ in items], outcome)
            write = log.info if outcome.verdict is Verdict.SENT else log.warning
            write(
                "delivery.answered",
                destination=self._to.name,
                objects=len(items),
                verdict=outcome.verdict.value,
                text=outcome.text,
            )

    def _mark(self, ids: Sequence[int], outcome: Outcome) -> None:
        if outcome.verdict is Verdict.SENT:
            deliveries.mark_sent(self._store, ids, outcome.status or 0)
            if self._to.confirm == "none":
                deliveries.mark_confirmed(self._store, ids, RESPONSE)
        elif outcome.verdict is Verdict.REFUSED:
            deliveries.mark_refused(self._store, ids, outcome.text, status=outcome.status)
            log.error("delivery.refused", destination=self._to.name, objects=len(ids), text=outcome.text)
        else:
            given_up = deliveries.mark_retry(self._store, ids, outcome.text, self._back_off, status=outcome.status)
            if given_up:
                log.error("delivery.gave_up", destination=self._to.name, objects=len(given_up), text=outcome.text)

    def _parcel(self, row: DeliveryRow) -> Parcel:
        path = result_path(self._store, row.path)
        rank = KIND_RANK.get(row.kind, OTHER_RANK)
        return Parcel(row.id, rank, row.sop_class, row.sop_instance_uid, _transfer_syntax(path), path)

    def _patience(self, objects: int) -> timedelta:
        """After so long another dispatcher may think that this one is dead."""
        each = self._to.dimse_timeout + self._to.network_timeout
        return timedelta(seconds=self._to.connect_timeout + self._to.acse_timeout + objects * each)


def back_off_of(daemon: DaemonSettings) -> BackOff:
    """How long a failed delivery waits, and when it is given up."""
    return BackOff(
        timedelta(seconds=daemon.delivery.back_off_first),
        timedelta(seconds=daemon.delivery.back_off_cap),
        timedelta(seconds=daemon.give_up_after),
    )


def _next_group(told: "queue.SimpleQueue[_Answer]", sending: "Future[None]") -> list[_Answer]:
    """Outcomes that came within GROUP_S of the first; empty once sending has ended and all were taken."""
    group: list[_Answer] = []
    while not group and not (sending.done() and told.empty()):
        deadline = time.monotonic() + GROUP_S
        while (left := deadline - time.monotonic()) > 0:
            try:
                group.append(told.get(timeout=left))
            except queue.Empty:
                break
            if sending.done() and told.empty():
                break
    return group


def _transfer_syntax(path: Path) -> str:
    """As the file says; for one that cannot be read any (the attempt to send it tells why)."""
    try:
        return str(read_file_meta_info(path).TransferSyntaxUID)
    except (OSError, InvalidDicomError):
        return str(ExplicitVRLittleEndian)
