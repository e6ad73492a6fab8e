"""TLS for DICOM (PS3.15 B.12, BCP 195 with RFC 8996, 9325): contexts, their renewal, names of peers, faults in words.

TLS 1.2 or later; 1.3 is taken wherever the peer can. Standard library alone.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import structlog

from anomalyd.daemon import certificates
from anomalyd.daemon.certificates import Period
from anomalyd.daemon.tls_settings import PeerTls, TlsListener
from anomalyd.errors import ConfigError

log = structlog.get_logger()

CIPHERS: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:@SECLEVEL=2"
)
"""The four suites of RFC 9325 4.2 for TLS 1.2; level 2: keys of 2048 bits (RSA) or 224 (ECC) and more, no SHA-1.
Those of TLS 1.3 are OpenSSL's: all of them are sound."""
SILENT: Final = "it says nothing in time"
Held = tuple[tuple[Path, Period], ...]
Signature = tuple[tuple[int, int, int] | None, ...]


class Identity:
    """A context made of files, renewed when they change. Files that cannot be used leave the one before in force.

    So do certificates that do not hold now, while those before do.
    """

    def __init__(
        self,
        make: Callable[[], ssl.SSLContext],
        tls: TlsListener | PeerTls,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Raises ConfigError where the first set cannot be used."""
        self._make, self._tls, self._clock = make, tls, clock
        self.files = _files(tls.certificate, tls.key, tls.ca)
        self._lock = threading.Lock()
        self._tried = _signature(self.files)
        self._context, self._held = make(), _held(tls)
        self._again_at: datetime | None = None
        self.fault = ""
        """Why the newest files are not in force; empty where they are."""
        self.is_out_of_date = False
        """Whether they are whole, and do not hold now."""

    def context(self) -> ssl.SSLContext:
        """Of the newest files that can be used. Any thread."""
        with self._lock:
            found = _signature(self.files)
            now = self._clock()
            has_begun = self._again_at is not None and self._again_at <= now
            if found != self._tried or has_begun:
                self._tried = found  # before reading: what changes meanwhile is read again
                self._renew(now)
            return self._context

    def _renew(self, now: datetime) -> None:
        self._again_at, self.is_out_of_date = None, False
        try:
            context, held = self._make(), _held(self._tls)
            self._must_hold(held, now)
        except ConfigError as exc:
            self.fault = str(exc)
            log.error("tls.not_renewed", reason=self.fault)  # noqa: TRY400 - foreseen, in words
        else:
            self._context, self._held, self.fault = context, held, ""
            log.info("tls.renewed", files=[str(path) for path in self.files])

    def _must_hold(self, held: Held, now: datetime) -> None:
        words = _not_held(held, now)
        if words and not _not_held(self._held, now):
            self.is_out_of_date = True
            self._again_at = min((period.begins for _, period in held if now < period.begins), default=None)
            raise ConfigError(words)


def _held(tls: TlsListener | PeerTls) -> Held:
    """When our certificate holds (not those behind it in its chain), and when any of the authorities does."""
    found: list[tuple[Path, Period]] = []
    for path in _files(tls.certificate, tls.ca):
        try:
            each = certificates.periods(path)
        except ConfigError:  # OpenSSL reads more than we do: `check` and the watch tell it
            continue
        authorities = Period(min(one.begins for one in each), max(one.ends for one in each))
        found.append((path, each[0] if path == tls.certificate else authorities))
    return tuple(found)


def _not_held(held: Held, now: datetime) -> str:
    """What does not hold at that moment, in words; empty where all does."""
    for path, period in held:
        if now < period.begins:
            return f"tls: {path} does not hold before {period.begins:%Y-%m-%d %H:%M} UTC"
        if now > period.ends:
            return f"tls: {path} ended at {period.ends:%Y-%m-%d %H:%M} UTC"
    return ""


def _signature(files: Sequence[Path]) -> Signature:
    found: list[tuple[int, int, int] | None] = []
    for path in files:
        try:
            state = path.stat()
            found.append((state.st_mtime_ns, state.st_ino, state.st_size))
        except OSError:
            found.append(None)
    return tuple(found)


@cache
def listening_identity(tls: TlsListener) -> Identity:
    """For connections that come in; raises ConfigError. One for each set of settings, so that a watch sees it too."""

    def make() -> ssl.SSLContext:
        context = _bare(ssl.PROTOCOL_TLS_SERVER, tls.certificate, tls.key, tls.ca)
        context.verify_mode = ssl.CERT_REQUIRED if tls.client_certificates == "required" else ssl.CERT_NONE
        # No resumption: who connects proves anew that its certificate holds.
        context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.num_tickets = 0
        return context

    return Identity(make, tls)


@cache
def calling_identity(tls: PeerTls) -> Identity:
    """For connections that we open; raises ConfigError. The peer must have a certificate of `ca` that names it."""

    def make() -> ssl.SSLContext:
        context = _bare(ssl.PROTOCOL_TLS_CLIENT, tls.certificate, tls.key, tls.ca)
        context.sslsocket_class = _TellingSocket
        return context

    return Identity(make, tls)


def identity_of(tls: TlsListener | PeerTls) -> Identity:
    """Of either kind; raises ConfigError."""
    return listening_identity(tls) if isinstance(tls, TlsListener) else calling_identity(tls)


def _files(*paths: Path | None) -> tuple[Path, ...]:
    return tuple(path for path in paths if path is not None)


def _bare(protocol: int, certificate: Path | None, key: Path | None, ca: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    for path in _files(certificate, key, ca):
        _must_be_readable(path)
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except ssl.SSLError as exc:
            together = f"{certificate} with the key {key}" if key else f"{certificate}"
            raise ConfigError(
                f"tls: {together} cannot be used: {_reason(exc)}: PEM, certificate first, then its chain"
            ) from exc
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as exc:
        raise ConfigError(f"tls: {ca} holds no certificates of authorities in PEM: {_reason(exc)}") from exc
    return context


def _must_be_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as exc:
        raise ConfigError(f"tls: {path} cannot be read: {exc.strerror}") from exc


def _no_password() -> NoReturn:
    raise ConfigError("tls: the key is encrypted: use one without a password, protected by its file mode (0600)")


class Handshake:
    """Stands where pynetdicom wants an SSLContext for a connection that we open, and keeps what went wrong with it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.error = ""

    def wrap_socket(self, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
        """As SSLContext.wrap_socket."""
        wrapped = cast(_TellingSocket, self._context.wrap_socket(sock, **options))
        wrapped.handshake = self
        return wrapped


class _TellingSocket(ssl.SSLSocket):
    """Tells its Handshake why TLS failed: pynetdicom drops the reason."""

    handshake: Handshake

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the base's
        try:
            super().do_handshake(block)
        except OSError as exc:
            self.handshake.error = in_words(exc)
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ssl.SSLError as exc:  # with TLS 1.3 a peer refuses our certificate only now
            self.handshake.error = in_words(exc)
            raise

    def shutdown(self, how: int) -> None:
        """Closed also where the peer was faster: pynetdicom closes only after a shutdown that works."""
        try:
            super().shutdown(how)
        except OSError:
            self.close()
            raise


def in_words(exc: OSError) -> str:
    """What went wrong in a handshake, for log, audit and `check`."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {exc.verify_message.rstrip('.')}"
    if isinstance(exc, ssl.SSLError):
        return _IN_WORDS.get(exc.reason or "", "") or f"TLS fails: {_reason(exc)}"
    if isinstance(exc, TimeoutError):
        return SILENT
    return f"the connection ended during the TLS handshake ({exc.strerror or type(exc).__name__})"


_IN_WORDS: Final = {
    # Reasons of OpenSSL. An alert is what the other side says of us.
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "HTTP_REQUEST": "it does not speak TLS but HTTP",
    "UNSUPPORTED_PROTOCOL": "it offers no TLS 1.2 or later",
    "NO_SHARED_CIPHER": "it offers no cipher suite of the profile",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a certificate, and has got none",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it does not accept our certificate: expired",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not accept our certificate: it does not know the authority",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it does not accept our certificate: not meant for this use",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it refuses the handshake: no certificate from us, or no cipher suite in common",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it refuses our version of TLS (1.2 or later)",
    "TLSV1_ALERT_DECRYPT_ERROR": "it does not accept our certificate",
}


def _reason(exc: ssl.SSLError) -> str:
    return (exc.reason or str(exc)).replace("_", " ").lower()


def names_of(connection: socket.socket | None) -> frozenset[str]:
    """Names in the verified certificate of a peer: common name and alternative names, in lower case.

    Empty: no TLS, or no certificate was asked for.
    """
    certificate = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
    if not certificate:
        return frozenset()
    subject = cast(Sequence[Sequence[tuple[str, str]]], certificate.get("subject", ()))
    alternatives = cast(Sequence[tuple[str, str]], certificate.get("subjectAltName", ()))
    common = {value for part in subject for name, value in part if name == "commonName"}
    return frozenset(value.casefold() for value in common | {value for _, value in alternatives})
