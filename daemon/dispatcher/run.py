"""The dispatcher: decides, delivers, cleans up. Computes on no pixel and loads neither torch nor SimpleITK."""

import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

import structlog
from sqlalchemy.exc import DBAPIError

from anomalyd.daemon.bundles import bundles_in_force, facts_in_force
from anomalyd.daemon.certificate_watch import CertificateWatch
from anomalyd.daemon.dispatcher.closing import Closing
from anomalyd.daemon.dispatcher.confirming import Confirmer, patience_of
from anomalyd.daemon.dispatcher.headers import Headers
from anomalyd.daemon.dispatcher.outbox import Courier, back_off_of
from anomalyd.daemon.dispatcher.reaping import reap_leases
from anomalyd.daemon.dispatcher.reporting import Reporting
from anomalyd.daemon.dispatcher.retention import DiskWatch, remove_expired, verify_audit
from anomalyd.daemon.dispatcher.selection import Selection
from anomalyd.daemon.dispatcher.timers import Sweep, Timers
from anomalyd.daemon.lifecycle import Lifecycle
from anomalyd.daemon.metrics import serving_metrics
from anomalyd.daemon.routing import is_wanted
from anomalyd.daemon.settings import Settings
from anomalyd.daemon.wake import Role, Waiter, notify
from anomalyd.daemon.wall_clock import SLACK, WallClock
from anomalyd.pipeline import rules
from anomalyd.pipeline.finding import Contrast, Model
from anomalyd.pipeline.terms import ResultKind
from anomalyd.storage import confirmations, deliveries
from anomalyd.storage.alarms import AlarmKind, NewAlarm, raise_alarm
from anomalyd.storage.clock_steps import ahead_of_clock, move_back, move_forward
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.trouble import trouble_of
from anomalyd.storage.withdrawing import enqueue_notes

EXIT_OK = 0
CLOSING_S = DELIVERY_S = 1.0
LEASES_S = WITHDRAWING_S = 5.0
DISK_S = CERTIFICATES_S = 30.0
CHECKPOINT_S = 300.0
RETENTION_S = 3600.0
AUDIT_S = 86_400.0
TICK_S = 1.0
CALM_S = 0.05
"""After a wake the next one is waited for so long: at 300 images a second one look is enough for many."""
AFTERTHOUGHT_S = 0.15
"""The gateway wakes ten times a second at most: after its last datagram an image may have come that had none."""
TELL_EVERY_S = 60.0
log = structlog.get_logger()


def run_dispatcher(settings: Settings, stop: threading.Event) -> int:
    """Runs until `stop` is set; 0. Raises ConfigError for what only the administrator can mend."""
    bundles = bundles_in_force(settings.pipeline)
    store = open_store(settings.storage)
    facts = facts_in_force(bundles, settings.pipeline)
    try:
        with (
            Lifecycle(store, Role.DISPATCHER, settings, facts) as life,
            Waiter(store.root, Role.DISPATCHER) as waiter,
            serving_metrics(settings),
        ):
            Dispatcher(store, settings, bundles).run(waiter, stop, life)
    finally:
        store.close()
    return EXIT_OK


class Dispatcher:
    """All sweeps over one store, and the couriers."""

    def __init__(self, store: Store, settings: Settings, bundles: Mapping[Contrast, Model]) -> None:
        daemon = settings.daemon
        self._store, self._settings = store, settings
        headers = Headers(store, rules.keywords(settings.pipeline))
        self._closing = Closing(store, headers, settle_s=daemon.settle_period, quiet_s=daemon.series_quiet_period)
        self._selection = Selection(
            store, headers, settings.pipeline, bundles, lambda sender: is_wanted(daemon, sender, ResultKind.INELIGIBLE)
        )
        self._confirmers = {to.name: Confirmer(store, to, daemon) for to in daemon.destinations}
        self._couriers = {
            to.name: Courier(store, to, daemon, self._confirmers[to.name].kick) for to in daemon.destinations
        }
        self._take_notes = tuple(to.name for to in daemon.destinations if ResultKind.REJECTION_NOTE in to.send)
        self._patience = patience_of(daemon)
        self._reporting = Reporting(store, daemon)
        self._back_off = back_off_of(daemon)
        self._told_at: dict[str, float] = {}
        self._wall, self._wall_lock = WallClock(store.clock), threading.Lock()
        self._timers = Timers(self._sweeps(), self._tell_failure)

    def run(self, waiter: Waiter, stop: threading.Event, life: Lifecycle) -> None:
        """Recovers what a killed dispatcher left, then works until `stop`; returns when all threads have ended."""
        self._move_waiting(-ahead_of_clock(self._store))
        recovered = deliveries.recover_sending(self._store)
        outdated = self._selection.renew_outdated()
        log.info("dispatcher.recovered", deliveries=recovered, jobs_renewed=outdated)
        threads: tuple[Courier | Confirmer, ...] = (*self._couriers.values(), *self._confirmers.values())
        for thread in threads:
            thread.start()
        self._timers.start()
        life.ready()
        try:
            has_more = False
            while not stop.is_set():
                timeout_s = AFTERTHOUGHT_S if has_more else min(TICK_S, max(CALM_S, self._closing.next_due_s()))
                is_woken = waiter.wait(timeout_s)
                if is_woken or has_more:
                    self._timers.kick("closing", "delivery")
                    stop.wait(CALM_S)
                elif self._closing.next_due_s() <= 0.0:
                    self._timers.kick("closing")
                has_more = is_woken
                self._timers.check()
                self._heed_clock()
                if not self._timers.stuck():
                    life.alive()
        finally:
            self._end(threads)

    def _end(self, threads: Sequence[Courier | Confirmer]) -> None:
        for thread in threads:
            thread.stop()
        self._timers.stop()
        for thread in threads:
            thread.join()

    def _heed_clock(self) -> None:
        """What waits goes on waiting as before; where the database refuses, it is tried at the next look."""
        with self._wall_lock:
            step = self._wall.step()
            try:
                self._move_waiting(step)
            except DBAPIError as exc:
                why = str(trouble_of(exc) or type(exc).__name__)
                log.error("clock.not_heeded", by_s=step.total_seconds(), reason=why)  # noqa: TRY400 - in words
            else:
                self._wall.heed(step)

    def _move_waiting(self, step: timedelta) -> None:
        if abs(step) > SLACK:
            moved = move_forward(self._store, step) if step > SLACK else move_back(self._store, -step)
            log.warning("clock.was_set", by_s=round(step.total_seconds(), 1), moved=moved)
            self._timers.kick("delivery", "leases")

    def _sweeps(self) -> tuple[Sweep, ...]:
        storage, attempts = self._settings.storage, self._settings.pipeline.max_attempts
        return (
            Sweep("closing", CLOSING_S, self._close_and_select),
            Sweep("delivery", DELIVERY_S, self._deliver),
            Sweep("reports", DELIVERY_S, self._reporting.sweep),
            Sweep("withdrawing", WITHDRAWING_S, self._withdraw),
            Sweep("leases", LEASES_S, lambda: self._reap(attempts)),
            Sweep(
                "certificates", CERTIFICATES_S, CertificateWatch(self._store, self._settings.daemon.tls_outwards).look
            ),
            Sweep("disk", DISK_S, DiskWatch(self._store, storage).sweep),
            Sweep("checkpoint", CHECKPOINT_S, self._checkpoint),
            Sweep("retention", RETENTION_S, self._retain),
            Sweep("audit", AUDIT_S, lambda: verify_audit(self._store)),
        )

    def _close_and_select(self) -> None:
        self._closing.sweep()
        if self._selection.sweep():
            notify(self._store.root, Role.WORKER)

    def _deliver(self) -> None:
        for name in deliveries.destinations_due(self._store):
            courier = self._couriers.get(name)
            if courier is not None:
                courier.kick()
            else:
                self._put_off(name)
        for name in confirmations.destinations_due(self._store):
            confirmer = self._confirmers.get(name)
            if confirmer is not None:
                confirmer.kick()
            else:
                self._leave_unconfirmed(name)

    def _withdraw(self) -> None:
        if enqueue_notes(self._store, self._take_notes):
            notify(self._store.root, Role.WORKER)

    def _leave_unconfirmed(self, name: str) -> None:
        """Sent to a destination that is not in the configuration any more: waited for, then told by an alarm."""
        ids = [row.id for row in confirmations.due(self._store, name)]
        asked = confirmations.mark_asked(self._store, ids, None, self._patience)
        why = f"no destination is named {name} in the configuration"
        confirmations.mark_not_asked(self._store, [row.id for row in asked], why, self._patience)

    def _put_off(self, name: str) -> None:
        """Results for a destination that is not in the configuration any more: tried on, then told by an alarm."""
        ids = [row.id for row in deliveries.due(self._store, destination=name)]
        why = f"no destination is named {name} in the configuration"
        deliveries.mark_retry(self._store, ids, why, self._back_off)
        log.warning("delivery.no_destination", destination=name, objects=len(ids))

    def _reap(self, max_attempts: int) -> None:
        self._heed_clock()  # before a lease is thought to have run out
        if reap_leases(self._store, max_attempts):
            notify(self._store.root, Role.WORKER)

    def _retain(self) -> None:
        remove_expired(self._store, self._settings.storage)
        confirmations.forget_ended(self._store)

    def _checkpoint(self) -> None:
        if not self._store.truncate_wal():
            log.debug("wal.busy")

    def _tell_failure(self, sweep: str, error: BaseException) -> None:
        """Once a minute at most: an alarm that counts up with each second tells nothing more."""
        now = time.monotonic()
        if now - self._told_at.get(sweep, float("-inf")) < TELL_EVERY_S:
            return
        self._told_at[sweep] = now
        with self._store.write() as connection:
            raise_alarm(
                connection,
                NewAlarm(
                    kind=AlarmKind.ROLE_FAILED,
                    subject=f"dispatcher: {sweep}",
                    text=f"the sweep {sweep!r} of the dispatcher fails ({type(error).__name__})",
                    next_step="the dispatcher's log says where; it tries again by itself",
                    at=self._store.clock(),
                ),
            )
