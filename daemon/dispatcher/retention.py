"""Room and proof: what nobody waits for any more goes by age, free space is watched, the audit chain is verified."""

import structlog

from anomalyd.daemon.wake import Role, notify
from anomalyd.storage import audit, retention
from anomalyd.storage.alarms import AlarmKind, NewAlarm, raise_alarm
from anomalyd.storage.audit import AuditEvent, AuditKind, Outcome
from anomalyd.storage.engine import Store
from anomalyd.storage.settings import StorageSettings

NOTICE_ABOVE_FLOOR = 1.5
"""A warning is logged below so many times the disk floor, before anything is refused."""
log = structlog.get_logger()


def remove_expired(store: Store, settings: StorageSettings) -> None:
    """Series older than `keep_for` that nobody waits for; the gateway is told to drop their segments."""
    expired = retention.sweep(store, settings.keep_for)
    for gone in expired:
        log.info("series.expired", series_uid=gone.series_uid, images=gone.images, results=gone.results)
    if expired:
        notify(store.root, Role.GATEWAY)


class DiskWatch:
    """Tells once when free space falls below a line, and once when it is back; the gateway does the refusing."""

    def __init__(self, store: Store, settings: StorageSettings) -> None:
        self._store, self._floor = store, settings.disk_floor
        self._told = ""

    def sweep(self) -> None:
        """One look."""
        free = self._store.free_bytes()
        state = "below_floor" if free < self._floor else "low" if free < self._floor * NOTICE_ABOVE_FLOOR else ""
        if state == self._told:
            return
        self._told = state
        if not state:
            log.info("disk.recovered", free_bytes=free, floor_bytes=self._floor)
            return
        if state == "below_floor":
            log.error("disk.below_floor", free_bytes=free, floor_bytes=self._floor)
            self._raise(free)
        else:
            log.warning("disk.low", free_bytes=free, floor_bytes=self._floor)

    def _raise(self, free: int) -> None:
        with self._store.write() as connection:
            raise_alarm(
                connection,
                NewAlarm(
                    kind=AlarmKind.DISK_FLOOR,
                    subject="storage.root",
                    text=f"{free} bytes are free below storage.root, the floor is {self._floor}: images are refused",
                    next_step="make room, or lower storage.disk_floor; senders send again by themselves",
                    at=self._store.clock(),
                ),
            )


def verify_audit(store: Store) -> None:
    """The chain from its first row on; its newest hash goes to the log, which is kept elsewhere (GATEWAY 7)."""
    verdict = audit.verify(store)
    facts = {"rows": verdict.rows, "seq": verdict.newest.seq, "head": verdict.newest.hash}
    audit.record(
        store,
        AuditEvent(
            kind=AuditKind.VERIFIED,
            at=store.clock(),
            outcome=Outcome.SUCCESS if verdict.is_intact else Outcome.MAJOR,
            detail={**facts, "by": "dispatcher", "problems": list(verdict.problems)},
        ),
    )
    if verdict.is_intact:
        log.info("audit.verified", **facts)
        return
    log.error("audit.broken", problems=verdict.problems, **facts)
    with store.write() as connection:
        raise_alarm(
            connection,
            NewAlarm(
                kind=AlarmKind.AUDIT_BROKEN,
                subject="audit log",
                text=f"the audit log is not what was written: {verdict.problems[0]}",
                next_step="`anomalyd audit verify` lists all; compare with a backup before anything else is done",
                at=store.clock(),
            ),
        )
