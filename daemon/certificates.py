"""When certificates hold (X.509, RFC 5280 4.1.2.5), and whether others may read a key."""

import re
import ssl
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from anomalyd.errors import ConfigError

WARN_DAYS: Final = 30
"""An alarm is raised when a certificate ends within so many days."""
_PEM: Final = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0
_LONG_LENGTH: Final = 0x80


@dataclass(frozen=True, slots=True)
class Period:
    """From when until when a certificate holds, in UTC."""

    begins: datetime
    ends: datetime


def periods(path: Path) -> tuple[Period, ...]:
    """Those of the certificates in a PEM file, in its order, at least one; raises ConfigError."""
    try:
        found = _PEM.findall(path.read_text(encoding="ascii", errors="replace"))
    except OSError as exc:
        raise ConfigError(f"tls: {path} cannot be read: {exc.strerror}") from exc
    if not found:
        raise ConfigError(f"tls: {path} holds no certificate in PEM")
    try:
        return tuple(_period(ssl.PEM_cert_to_DER_cert(pem)) for pem in found)
    except (ValueError, IndexError) as exc:
        raise ConfigError(f"tls: {path} holds no certificate in PEM that can be read") from exc


def first_end(path: Path) -> datetime:
    """When the first of the certificates in a PEM file ends, in UTC; raises ConfigError."""
    return min(period.ends for period in periods(path))


def days_left(path: Path, now: datetime) -> float:
    """Days until the first certificate of a PEM file ends, negative afterwards; raises ConfigError."""
    return (first_end(path) - now).total_seconds() / 86_400


def is_open_to_others(key: Path) -> bool:
    """Whether anybody but its owner may change a key, or anybody but owner and group may read it."""
    return bool(key.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP))


def _period(certificate: bytes) -> Period:
    """notBefore and notAfter of a certificate in DER."""
    signed = _elements(_elements(certificate)[0][1])
    fields = _elements(signed[0][1])
    if fields[0][0] == _VERSION:
        fields = fields[1:]
    _serial, _algorithm, _issuer, validity = fields[:4]
    if validity[0] != _SEQUENCE:
        raise ValueError("no validity where X.509 has it")
    begins, ends = _elements(validity[1])[:2]
    return Period(_time(*begins), _time(*ends))


def _time(kind: int, text: bytes) -> datetime:
    if kind not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("no time where X.509 has it")
    # UTCTime has two digits of the year, up to 2049 (RFC 5280 4.1.2.5.1); strptime changes centuries at 1969
    return datetime.strptime(text.decode("ascii"), "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ").replace(
        tzinfo=UTC
    )


def _elements(content: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each element (X.690 8.1); tags of one byte, as X.509 has them."""
    found, at = [], 0
    while at < len(content):
        tag, length = content[at], content[at + 1]
        at += 2
        if length & _LONG_LENGTH:
            count = length & ~_LONG_LENGTH
            length = int.from_bytes(content[at : at + count], "big")
            at += count
        found.append((tag, content[at : at + length]))
        at += length
    return found
