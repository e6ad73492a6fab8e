"""A role's beginning and end: its audit rows, and what systemd is told in between."""

import hashlib
import os
import platform
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import structlog

from anomalyd import __version__
from anomalyd.daemon.notify import sd_notify, watchdog_interval_s
from anomalyd.daemon.settings import Settings
from anomalyd.daemon.wake import Role
from anomalyd.storage import audit
from anomalyd.storage.audit import AuditEvent, AuditKind, Outcome
from anomalyd.storage.engine import Store

log = structlog.get_logger()


class Lifecycle:
    """`with Lifecycle(store, role, settings) as life:`: audit rows role_started and role_stopped around the body."""

    def __init__(self, store: Store, role: Role, settings: Settings, facts: Mapping[str, Any] | None = None) -> None:
        """facts: what else belongs into the row (bundle digests)."""
        self._store, self._role = store, role
        self._facts = {"role": role.value, "version": __version__, "pid": os.getpid(), **(facts or {})}
        self._configuration = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()
        self._interval_s = watchdog_interval_s()
        self._fed_at = float("-inf")

    def ready(self, status: str = "") -> None:
        """The role does its work from now on."""
        sd_notify(f"READY=1\nSTATUS={status}" if status else "READY=1")
        log.info("role.ready", **self._facts)

    def alive(self) -> None:
        """Called as long as the work goes on, often: feeds the watchdog when it is time."""
        now = time.monotonic()
        if self._interval_s is not None and now - self._fed_at >= self._interval_s:
            self._fed_at = now
            sd_notify("WATCHDOG=1")

    def __enter__(self) -> Self:
        """Writes the first row."""
        facts = {**self._facts, "configuration": self._configuration, "python": platform.python_version()}
        self._record(AuditKind.STARTED_ROLE, Outcome.SUCCESS, facts)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes the last one, with the type of the error that ended the role, if one did."""
        sd_notify("STOPPING=1")
        facts = {**self._facts, "error": kind.__name__} if kind else self._facts
        self._record(AuditKind.STOPPED_ROLE, Outcome.SERIOUS if kind else Outcome.SUCCESS, facts)

    def _record(self, kind: AuditKind, outcome: Outcome, facts: Mapping[str, Any]) -> None:
        audit.record(self._store, AuditEvent(kind=kind, at=self._store.clock(), outcome=outcome, detail=dict(facts)))
