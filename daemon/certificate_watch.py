"""Certificates while a role runs: taken when renewed, told by an alarm when they end or cannot be used."""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy.exc import DBAPIError

from anomalyd.daemon import certificates, tls
from anomalyd.daemon.certificates import WARN_DAYS
from anomalyd.daemon.tls_settings import PeerTls, TlsListener
from anomalyd.errors import ConfigError
from anomalyd.storage.alarms import AlarmKind, NewAlarm, raise_alarm
from anomalyd.storage.engine import Store

log = structlog.get_logger()

ENDS_EVERY_S: Final = 86_400.0
"""How often an end that comes near is told again."""


class CertificateWatch:
    """Looks when told to, every few seconds; does nothing where no TLS is spoken."""

    def __init__(
        self,
        store: Store,
        uses: Mapping[str, TlsListener | PeerTls],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """uses: by the name that alarms call them."""
        self._store, self._uses, self._monotonic = store, uses, monotonic
        self._faults: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._ends_due = float("-inf")
        for name, use in uses.items():
            self._warn_of_open_key(name, use)

    def look(self) -> None:
        """One look at all of them."""
        try:
            for name, use in self._uses.items():
                self._look_at(name, use)
            if self._uses and self._monotonic() >= self._ends_due:
                self._tell_ends(self._store.clock())
                self._ends_due = self._monotonic() + ENDS_EVERY_S
        except DBAPIError:  # the next look tells
            log.exception("tls.not_told")

    def _look_at(self, name: str, use: TlsListener | PeerTls) -> None:
        is_sure = False
        try:
            identity = tls.identity_of(use)
            identity.context()
            fault, is_sure = identity.fault, identity.is_out_of_date
        except ConfigError as exc:
            fault = str(exc)
        # Told when it stands for two looks: between a new certificate and its key the two do not fit
        lasts = is_sure or fault == self._faults.get(name, "")
        self._faults[name] = fault
        if fault and lasts and self._told.get(name) != fault:
            text = f"new TLS files of {name} cannot be used, those before stay in force: {fault}"
            self._raise(f"tls of {name}", text, "put certificate and key there that belong together and hold now")
            self._told[name] = fault
        elif not fault:
            self._told.pop(name, None)

    def _tell_ends(self, now: datetime) -> None:
        paths = {path: name for name, use in self._uses.items() for path in _certificates(use)}
        for path, name in paths.items():
            try:
                left = certificates.days_left(path, now)
            except ConfigError as exc:
                log.warning("tls.no_end", reason=str(exc))
                continue
            if left < WARN_DAYS:
                text = f"{path} ({name}) {f'ends in {left:.0f} days' if left >= 0 else f'ended {-left:.0f} days ago'}"
                self._raise(_last(str(path)), text, "renew it and put it in the same place: no restart is needed")

    def _raise(self, subject: str, text: str, next_step: str) -> None:
        log.warning("tls.alarm", subject=subject, text=text)
        with self._store.write() as connection:
            alarm = NewAlarm(
                kind=AlarmKind.CERTIFICATE, subject=subject, text=text, next_step=next_step, at=self._store.clock()
            )
            raise_alarm(connection, alarm)

    def _warn_of_open_key(self, name: str, use: TlsListener | PeerTls) -> None:
        key = use.key or use.certificate
        if key is not None and key.exists() and certificates.is_open_to_others(key):
            log.warning("tls.key_open_to_others", use=name, key=str(key), mend=f"chmod 600 {key}")


def _certificates(use: TlsListener | PeerTls) -> tuple[Path, ...]:
    return tuple(path for path in (use.certificate, use.ca) if path is not None)


def _last(text: str, limit: int = 128) -> str:
    """What fits into the subject of an alarm."""
    return text if len(text) <= limit else f"...{text[-limit + 3 :]}"
