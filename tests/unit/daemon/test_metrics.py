"""Prometheus metrics: what they say, where they listen, what they never hold."""

import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalyd.daemon.metrics import serving_metrics
from anomalyd.daemon.settings import Settings, load_settings
from anomalyd.errors import ConfigError
from anomalyd.storage.audit import AuditEvent, AuditKind, record
from anomalyd.storage.tables import TURNED_AWAY
from stored import ACCESSION, PATIENT_ID, PATIENT_NAME, SERIES, SteppedStore, open_stepped


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[SteppedStore]:
    opened = open_stepped(tmp_path)
    yield opened
    opened.store.close()


@pytest.fixture
def settings(tmp_path: Path, free_port: int) -> Settings:
    path = tmp_path / "config.yaml"
    path.write_text(f"storage: {{root: {tmp_path / 'store'}}}\ndaemon: {{metrics: {{port: {free_port}}}}}\n")
    return load_settings(path)


def scraped(settings: Settings) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{settings.daemon.metrics.port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_metrics_tell_queue_deliveries_senders_and_disk(stepped: SteppedStore, settings: Settings) -> None:
    stepped.done("pacs")
    with serving_metrics(settings):
        text = scraped(settings)
    assert 'anomalyd_jobs{state="done"} 1.0' in text
    assert 'anomalyd_deliveries{state="due"} 2.0' in text
    assert 'anomalyd_role_up{role="worker"} 0.0' in text
    assert 'anomalyd_last_image_timestamp_seconds{address="10.0.0.7",calling_ae="SCANNER"}' in text
    assert "anomalyd_free_bytes" in text
    assert not any(marker in text for marker in (PATIENT_ID, PATIENT_NAME, ACCESSION, SERIES))


def test_peers_that_were_turned_away_are_counted_by_an_index(stepped: SteppedStore, settings: Settings) -> None:
    refused: tuple[tuple[AuditKind, dict[str, int]], ...] = (
        (AuditKind.CONNECTION_REFUSED, {}),
        (AuditKind.CONNECTION_REFUSED, {"times": 40}),  # one row for many
        (AuditKind.ASSOCIATION_REJECTED, {}),
    )
    for kind, more in refused:
        detail = {"text": "it shows no certificate", **more}
        record(stepped.store, AuditEvent(kind=kind, at=stepped.store.clock(), detail=detail))
    with serving_metrics(settings):
        text = scraped(settings)
    assert 'anomalyd_turned_away{kind="connection_refused"} 41.0' in text
    assert 'anomalyd_turned_away{kind="association_rejected"} 1.0' in text
    with stepped.store.read() as connection:
        plan = connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN SELECT count(*) FROM audit WHERE {TURNED_AWAY}"  # noqa: S608 - our own constant
        ).fetchall()
    assert "audit_turned_away" in str(plan), "not a walk through the whole log at each scrape"


def test_metrics_listen_on_loopback_only_and_stop_with_the_role(stepped: SteppedStore, settings: Settings) -> None:
    stepped.queued()
    port = settings.daemon.metrics.port or 0
    with serving_metrics(settings), socket.socket() as probe:
        probe.bind(("127.0.0.2", port))  # free: nothing listens on every address
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_taken_port_is_a_configuration_error(stepped: SteppedStore, settings: Settings) -> None:
    stepped.queued()
    with socket.socket() as other:
        other.bind(("127.0.0.1", settings.daemon.metrics.port or 0))
        other.listen()
        with pytest.raises(ConfigError, match=r"daemon\.metrics\.port"), serving_metrics(settings):
            pass
