"""What `anomalyd check` says of TLS: the port, our certificate and key, how long they hold, who is bound to a name."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from anomalyd.daemon import certificates, tls
from anomalyd.daemon.certificates import WARN_DAYS
from anomalyd.daemon.checked import Checked, Grade
from anomalyd.daemon.settings import DaemonSettings
from anomalyd.daemon.tls_settings import PeerTls, TlsListener
from anomalyd.errors import ConfigError


def check_tls(daemon: DaemonSettings) -> Iterator[Checked]:
    """Nothing where TLS is not configured."""
    if daemon.tls is not None:
        yield from _check_port(daemon)
    uses: dict[str, TlsListener | PeerTls] = {**({"daemon": daemon.tls} if daemon.tls else {}), **daemon.tls_outwards}
    seen: set[tuple[Path | None, ...]] = set()
    for name, use in uses.items():
        files = (use.certificate, use.key, use.ca)
        if files not in seen:
            seen.add(files)
            yield from _check_files(f"tls {name}", use)


def _check_port(daemon: DaemonSettings) -> Iterator[Checked]:
    assert daemon.tls is not None  # noqa: S101 - the caller looked
    if daemon.tls_port is None:
        yield Checked(Grade.NOTE, "tls", "tls.port is not set: nothing comes in over TLS, it is used outwards alone")
        return
    beside = f", plain DICOM on port {daemon.plain_port}" if daemon.plain_port else ", and nothing without it"
    asked = "senders need a certificate" if daemon.tls.client_certificates == "required" else "anybody may connect"
    yield Checked(Grade.OK, "tls", f"DICOM TLS on port {daemon.tls_port} ({asked}){beside}")
    unbound = [peer.ae_title for peer in daemon.accept_from if peer.certificate_name is None]
    if unbound and daemon.plain_port is None:
        text = f"bound to no certificate_name: {', '.join(unbound)}: any certificate of the authorities may call so"
        yield Checked(Grade.NOTE, "tls", text, "set certificate_name in accept_from")


def _check_files(subject: str, use: TlsListener | PeerTls) -> Iterator[Checked]:
    try:
        tls.identity_of(use)
    except ConfigError as exc:
        yield Checked(Grade.WRONG, subject, str(exc), "put files there that belong together")
        return
    key = use.key or use.certificate
    if key is not None and certificates.is_open_to_others(key):
        yield Checked(Grade.WRONG, subject, f"others may read or change the key {key}", f"chmod 600 {key}")
    for what, path in (("certificate", use.certificate), ("authority", use.ca)):
        if path is not None:
            yield _check_end(subject, what, path)


def _check_end(subject: str, what: str, path: Path) -> Checked:
    left = certificates.days_left(path, datetime.now(UTC))
    if left < 0:
        return Checked(Grade.WRONG, subject, f"{what} {path} ended {-left:.0f} days ago", "renew it")
    text = f"{what} {path} holds for {left:.0f} days"
    return Checked(Grade.NOTE, subject, text, "renew it") if left < WARN_DAYS else Checked(Grade.OK, subject, text)
