"""Settings of DICOM TLS, for what comes in and for what we open."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from anomalyd.daemon.setting_types import Port, PositiveSeconds, Section

_LABEL = "[A-Za-z0-9_-]{1,63}"
HostName = Annotated[str, Field(pattern=rf"^({_LABEL}(\.{_LABEL})*|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)$", max_length=253)]
"""As a certificate names a host: DNS name, IPv4 or IPv6 address."""


class TlsListener(Section):
    """DICOM TLS (PS3.15 B.12) for connections that come in; its files also for those that we open."""

    certificate: Path
    """PEM: ours, then the authorities between it and the root."""
    key: Path | None = None
    """PEM, without a password; None: it stands in the file of the certificate."""
    ca: Path
    """PEM: the authorities whose certificates we take."""
    port: Port | None = None
    """None: nothing comes in over TLS. The same as `daemon.port`: nothing comes in without it."""
    client_certificates: Literal["required", "none"] = "required"
    handshake_timeout: PositiveSeconds = 5.0


class PeerTls(Section):
    """DICOM TLS for connections that we open. What is left out of the files is that of `daemon.tls`."""

    certificate: Path | None = None
    """None: we show none."""
    key: Path | None = None
    ca: Path
    certificate_name: HostName | None = None
    """Host name or address that the peer's certificate must name; None: `host`."""

    @model_validator(mode="before")
    @classmethod
    def _from_true(cls, value: Any) -> Any:
        return {} if value is True else value


def with_files(own: dict[str, Any], peer: Any) -> Any:
    """A key belongs to its certificate: they are inherited together."""
    tls = peer.get("tls") if isinstance(peer, dict) else None
    if tls is True:
        tls = {}
    if not isinstance(tls, dict):
        return peer
    inherited = ("ca",) if "certificate" in tls else ("certificate", "key", "ca")
    return peer | {"tls": {name: own[name] for name in inherited if name in own} | tls}
