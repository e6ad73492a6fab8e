"""All of config.yaml: the `daemon:` section, and the sections of the other two houses beside it."""

import os
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from anomalyd.daemon import config_file
from anomalyd.daemon.setting_types import ByteCount, Port, PositiveSeconds, Seconds, Section
from anomalyd.daemon.tls_settings import HostName, PeerTls, TlsListener, with_files
from anomalyd.errors import ConfigError
from anomalyd.ids import AETitle, ae_title
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.pipeline.terms import DEFAULT_KINDS, ResultKind
from anomalyd.storage.settings import StorageSettings

ANYBODY = "any"
"""Written in `accept_from` to take images from every AE title."""
ENV_PREFIX = "ANOMALYD_"


def _title(value: object) -> AETitle:
    if not isinstance(value, str):
        raise ValueError("an AE title in quotes")  # noqa: TRY004 - pydantic turns only ValueError into a located error
    return ae_title(value)


def _network(value: object) -> IPv4Network | IPv6Network:
    try:
        return ip_network(str(value))
    except ValueError as exc:
        raise ValueError(f'an address or a network as "10.1.2.3" or "10.1.2.0/24" ({exc})') from exc


Title = Annotated[AETitle, PlainValidator(_title)]
Network = Annotated[IPv4Network | IPv6Network, PlainValidator(_network)]


class ReportAddress(Section):
    """Where a sender takes the answer to its storage commitment, on an association that we open."""

    host: Annotated[str, Field(min_length=1)]
    port: Port
    tls: PeerTls | None = None


class Peer(Section):
    """Who may send. A bare text in the list is its AE title."""

    ae_title: Title
    """Calling AE title, or `any`."""
    address: Network | None = None
    """Address or network that it must come from; None: from anywhere."""
    called: Title | None = None
    """AE title that it must call us by; None: `daemon.ae_title`."""
    certificate_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Name that its certificate must hold: it may only come over TLS then. None: any certificate, or none."""
    max_associations: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Open at once; None: as many as `daemon.max_associations`."""
    associations_per_minute: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """New ones within any 60 s; None: no limit."""
    report_to: ReportAddress | None = None
    """Where its storage commitments are answered; None: on the association that it asked on, only."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"ae_title": value} if isinstance(value, str) else value

    @property
    def is_anybody(self) -> bool:
        """True where no AE title is asked for."""
        return self.ae_title == ANYBODY


class AskAt(Section):
    """Another entity of the same PACS: where it is asked, if not where it stores."""

    ae_title: Title
    host: Annotated[str, Field(min_length=1)]
    port: Port
    certificate_name: HostName | None = None
    """As in `tls` of the destination, whose files hold here too."""


class Destination(Section):
    """A PACS that results are sent to."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")]
    """What `status`, `audit` and the log call it."""
    ae_title: Title
    host: Annotated[str, Field(min_length=1)]
    port: Port
    calling_ae_title: Title | None = None
    """How we call ourselves there; None: `daemon.ae_title`."""
    send: tuple[ResultKind, ...] = DEFAULT_KINDS
    """Kinds of result that this destination gets."""
    confirm: Literal["none", "query", "commitment"] = "none"
    """What proves that a result is there: its answer 0x0000, a C-FIND, or storage commitment (DESIGN 4.9)."""
    ask_at: AskAt | None = None
    """Where it is asked (storage commitment, C-FIND); None: where it stores."""
    check_source: bool = False
    """Before sending, a C-FIND whether the study is there and still the same patient's."""
    tls: PeerTls | None = None
    """None: plain DICOM."""
    connect_timeout: PositiveSeconds = 10.0
    acse_timeout: PositiveSeconds = 30.0
    dimse_timeout: PositiveSeconds = 60.0
    network_timeout: PositiveSeconds = 60.0

    @property
    def asked(self) -> "Destination":
        """The entity that is asked, as a destination of its own."""
        at = self.ask_at
        if at is None:
            return self
        tls = self.tls and self.tls.model_copy(update={"certificate_name": at.certificate_name})
        return self.model_copy(update={"ae_title": at.ae_title, "host": at.host, "port": at.port, "tls": tls})


class DeliverySettings(Section):
    """How results are sent again."""

    back_off_first: PositiveSeconds = 30.0
    back_off_cap: PositiveSeconds = 3600.0
    parallel_associations: Annotated[int, Field(ge=1, le=8)] = 2

    @model_validator(mode="after")
    def _cap_is_above_first(self) -> Self:
        if self.back_off_cap < self.back_off_first:
            raise ValueError(
                f"back_off_cap ({self.back_off_cap:g} s) is below back_off_first ({self.back_off_first:g} s)"
            )
        return self


class ConfirmationSettings(Section):
    """How long a confirmation is waited for."""

    answer_within: PositiveSeconds = 600.0
    """A storage commitment that is not answered within this is asked anew; it doubles with each."""
    give_up_after: PositiveSeconds = 86_400.0
    send_again: Annotated[int, Field(ge=0, le=20)] = 3
    """How often an object that is reported missing is sent again."""


class GatewaySettings(Section):
    """The receiving side: limits and ways of writing (GATEWAY.md)."""

    fast: bool = True
    """Event-driven classes in place of pynetdicom's polling ones."""
    index_sync: Literal["normal", "full"] = "normal"
    """normal: one flush an image, the index is replayed from the log; full: two flushes."""
    max_instance_bytes: ByteCount = 512_000_000
    bytes_in_flight: ByteCount = 64_000_000
    """Budget of all images being received at once; beyond it 0xA700."""
    segment_bytes: ByteCount = 256_000_000
    acse_timeout: PositiveSeconds = 10.0
    stall_timeout: PositiveSeconds = 15.0
    commit_timeout: PositiveSeconds = 20.0
    drain: Seconds = 30.0
    """How long open associations may go on after SIGTERM."""


class WorkerSettings(Section):
    """The analysing side."""

    lease: PositiveSeconds = 60.0
    """A job whose worker gave no sign of life for so long goes to another."""
    memory_limit: ByteCount = 6_000_000_000
    """An analysis that takes more memory is killed, before it takes the machine's."""


class MetricsSettings(Section):
    """Prometheus metrics, on 127.0.0.1 only."""

    port: Port | None = None
    """None: off."""


class LogSettings(Section):
    """What the roles write to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    """auto: console on a terminal, else JSON."""


class DaemonSettings(Section):
    """Who we are on the network, who may send, where results go."""

    ae_title: Title = AETitle("ANOMALYD")
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Port = 11112
    tls: TlsListener | None = None
    """None: plain DICOM alone."""
    accept_from: tuple[Peer, ...] = ()
    """Empty: nobody."""
    unwanted_sop_classes: Literal["reject_context", "status"] = "reject_context"
    settle_period: Seconds = 5.0
    series_quiet_period: PositiveSeconds = 30.0
    max_associations: Annotated[int, Field(ge=1, le=1000)] = 16
    idle_timeout: PositiveSeconds = 60.0
    destinations: tuple[Destination, ...] = ()
    return_to_sender: bool = False
    give_up_after: PositiveSeconds = 259_200.0
    max_result_age: PositiveSeconds = 604_800.0
    """Results of series received longer ago than this are kept, not sent unasked."""
    delivery: DeliverySettings = DeliverySettings()
    confirmation: ConfirmationSettings = ConfirmationSettings()
    gateway: GatewaySettings = GatewaySettings()
    worker: WorkerSettings = WorkerSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="before")
    @classmethod
    def _any_without_a_list(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("accept_from"), str):
            return value | {"accept_from": [value["accept_from"]]}
        return value

    @model_validator(mode="before")
    @classmethod
    def _files_are_inherited(cls, value: Any) -> Any:
        """`tls` of a destination, and of `report_to`, has the files of `daemon.tls` where it names none."""
        own = value.get("tls") if isinstance(value, dict) else None
        if not isinstance(own, dict):
            return value
        peers, destinations = value.get("accept_from"), value.get("destinations")
        if isinstance(destinations, list | tuple):
            value = value | {"destinations": [with_files(own, to) for to in destinations]}
        if isinstance(peers, list | tuple):
            told = [
                peer | {"report_to": with_files(own, peer["report_to"])}
                if isinstance(peer, dict) and "report_to" in peer
                else peer
                for peer in peers
            ]
            value = value | {"accept_from": told}
        return value

    @model_validator(mode="after")
    def _certificates_are_asked_for(self) -> Self:
        named = next((peer for peer in self.accept_from if peer.certificate_name is not None), None)
        asks = self.tls is not None and self.tls.port is not None and self.tls.client_certificates == "required"
        if named is not None and not asks:
            raise ValueError(
                f"accept_from: {named.ae_title} has a certificate_name, and nobody is asked for a certificate: "
                "set tls.port, and client_certificates: required"
            )
        return self

    @model_validator(mode="after")
    def _names_and_ports_differ(self) -> Self:
        names = [destination.name for destination in self.destinations]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two destinations are named {twice[0]}: give each its own name")
        if self.metrics.port is not None and self.metrics.port in self.ports:
            raise ValueError(f"metrics.port and port are both {self.metrics.port}: choose another for metrics")
        return self

    @property
    def tls_port(self) -> int | None:
        """Where TLS is spoken."""
        return self.tls.port if self.tls is not None else None

    @property
    def plain_port(self) -> int | None:
        """Where plain DICOM is spoken; None: nowhere."""
        return None if self.port == self.tls_port else self.port

    @property
    def ports(self) -> tuple[int, ...]:
        """All that the gateway listens on."""
        return tuple(port for port in (self.plain_port, self.tls_port) if port is not None)

    @property
    def tls_outwards(self) -> dict[str, PeerTls]:
        """What connections that we open use, by the name of the destination, or the AE title of the sender told."""
        told = {str(peer.ae_title): peer.report_to.tls for peer in self.accept_from if peer.report_to is not None}
        called = {to.name: to.tls for to in self.destinations}
        return {name: tls for name, tls in {**told, **called}.items() if tls is not None}

    @property
    def is_loopback(self) -> bool:
        """True where only this machine can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class _YamlEnv(EnvSettingsSource):
    """Environment variables whose lists are written as in the file (JSON is YAML too)."""

    def decode_complex_value(self, field_name: str, field: FieldInfo | None, value: Any) -> Any:
        del field_name, field
        return config_file.parse_value(value)


class Settings(BaseSettings):
    """The whole configuration, read once and handed down by section."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", env_ignore_empty=True, extra="forbid", frozen=True
    )

    daemon: DaemonSettings = DaemonSettings()
    pipeline: PipelineSettings = PipelineSettings()
    storage: StorageSettings = StorageSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before file; no .env, no secrets folder."""
        del env_settings, dotenv_settings, file_secret_settings
        return _YamlEnv(settings_cls), init_settings


def load_settings(path: Path | None = None) -> Settings:
    """The configuration in force: file, then environment over it.

    path: the file; None: ./config.yaml, /etc/anomalyd/config.yaml, the packaged one, whichever is there first.
    Raises ConfigError that names file, line, key, what is allowed.
    """
    document = config_file.read(path if path is not None else config_file.default_path())
    config_file.refuse_misspelt_environment(os.environ, Settings, ENV_PREFIX)
    try:
        settings = Settings(**document.data)
    except ValidationError as exc:
        raise config_file.in_words(exc, document, Settings, os.environ, ENV_PREFIX) from None
    except SettingsError as exc:
        raise ConfigError(f"environment: {exc}") from None
    _refuse_an_unwritten_any(settings, document, os.environ)
    return settings


def _refuse_an_unwritten_any(settings: Settings, document: config_file.Document, env: Mapping[str, str]) -> None:
    """A file's `any` that was meant for loopback must not be opened to the network by a variable alone."""
    daemon = settings.daemon
    if daemon.is_loopback or not any(peer.is_anybody and peer.address is None for peer in daemon.accept_from):
        return
    variables = {name.upper() for name in env}
    host, accept_from = f"{ENV_PREFIX}DAEMON__HOST", f"{ENV_PREFIX}DAEMON__ACCEPT_FROM"
    if host in variables and accept_from not in variables:
        raise ConfigError(
            f"{document.path}: daemon.accept_from: [any] was written beside another host; with {host}={daemon.host} "
            f"list who may send, or write {accept_from}='[any]' too"
        )
