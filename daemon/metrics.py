"""Prometheus metrics on 127.0.0.1, read from the store at each scrape; UIDs and patients are in none of them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from threading import Lock

import structlog
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from anomalyd.daemon.certificates import days_left
from anomalyd.daemon.overview import Overview, overview
from anomalyd.daemon.settings import DaemonSettings, Settings
from anomalyd.daemon.tls_settings import PeerTls, TlsListener
from anomalyd.errors import ConfigError
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.overview import turned_away

ADDRESS = "127.0.0.1"
log = structlog.get_logger()


@contextmanager
def serving_metrics(settings: Settings) -> Iterator[None]:
    """http://127.0.0.1:PORT/metrics while the body runs, if a port is set; raises ConfigError where it is taken."""
    port = settings.daemon.metrics.port
    if port is None:
        yield
        return
    store = open_store(settings.storage)
    registry = CollectorRegistry()
    registry.register(StoreCollector(store))
    registry.register(CertificateCollector(settings.daemon))
    try:
        server, thread = start_http_server(port, ADDRESS, registry)
    except OSError as exc:
        store.close()
        raise ConfigError(f"daemon.metrics.port {port} cannot be opened: {exc.strerror}") from exc
    log.info("metrics.ready", address=ADDRESS, port=port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        store.close()


class StoreCollector(Collector):
    """One overview a scrape, as gauges."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, Lock()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All families."""
        with self._lock:
            seen = overview(self._store)
        yield _counted("anomalyd_series", "Received series by state", "state", seen.series_counts)
        yield _counted("anomalyd_jobs", "Analyses by state", "state", seen.job_counts)
        yield _counted("anomalyd_deliveries", "Results on their way, by state", "state", seen.delivery_counts)
        kinds = Counter(alarm.kind for alarm in seen.alarms)
        yield _counted("anomalyd_open_alarms", "Alarms nobody has acknowledged, by kind", "kind", kinds)
        up = {role: int(answers) for role, answers in seen.roles.items()}
        yield _counted("anomalyd_role_up", "1 where a role listens to the others", "role", up)
        yield _gauge("anomalyd_oldest_job_seconds", "Age of the longest waiting job", _oldest_s(seen))
        pending = float(seen.pending_erasure)
        yield _gauge("anomalyd_pending_erasure", "Images of purged studies that the gateway has yet to erase", pending)
        yield _gauge("anomalyd_free_bytes", "Free space under storage.root", float(seen.free_bytes))
        yield _sources(seen)
        refused = {"association_rejected": 0, "connection_refused": 0, **turned_away(self._store)}
        yield _counted("anomalyd_turned_away", "Peers that were not let in, since the store was made", "kind", refused)


class CertificateCollector(Collector):
    """Read from the files at each scrape."""

    def __init__(self, daemon: DaemonSettings) -> None:
        own = {"daemon": daemon.tls} if daemon.tls is not None else {}
        uses: dict[str, TlsListener | PeerTls] = {**own, **daemon.tls_outwards}
        self._files = {(name, path) for name, use in uses.items() for path in (use.certificate, use.ca) if path}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family; a file that cannot be read has no sample, and an alarm."""
        family = GaugeMetricFamily(
            "anomalyd_certificate_days_left",
            "Days until the first certificate in a file ends",
            labels=("use", "file"),
        )
        for use, path in sorted(self._files):
            with suppress(ConfigError):
                family.add_metric((use, str(path)), days_left(path, datetime.now(UTC)))
        yield family


def _oldest_s(seen: Overview) -> float:
    return (seen.at - seen.queued[0].created_at).total_seconds() if seen.queued else 0.0


def _sources(seen: Overview) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "anomalyd_last_image_timestamp_seconds",
        "When the newest image of a sender came",
        labels=("calling_ae", "address"),
    )
    for source in seen.sources:
        family.add_metric((source.calling_ae, source.address), source.last_at.timestamp())
    return family


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _counted(name: str, text: str, label: str, counts: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for value, count in sorted(counts.items()):
        family.add_metric((value,), float(count))
    return family
