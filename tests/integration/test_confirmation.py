"""Gateway and dispatcher as processes, and a PACS that reports on associations of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalyd.storage import audit, deliveries
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.tables import DeliveryState
from committing_pacs import CommittingPacs
from ports import free_port
from rows import STUDY, add_finished_job
from running import RunningDaemon
from waiting import wait_until

LIMIT_S = 30.0


@pytest.fixture
def pacs() -> Iterator[CommittingPacs]:
    with CommittingPacs(free_port(), way="new") as running:
        yield running


@pytest.fixture
def daemon(pacs: CommittingPacs, tmp_path: Path) -> Iterator[RunningDaemon]:
    to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "confirm": "commitment"}
    with RunningDaemon(
        tmp_path / "run", roles=("gateway", "dispatcher"), daemon={"accept_from": ["SCANNER"], "destinations": [to]}
    ) as running:
        pacs.gateway = running.port
        yield running


@pytest.fixture
def store(daemon: RunningDaemon) -> Iterator[Store]:
    opened = open_store(StorageSettings(root=daemon.store_root, disk_floor=0))
    yield opened
    opened.close()


def confirmed(store: Store) -> bool:
    return {row.state for row in deliveries.deliveries(store)} == {DeliveryState.CONFIRMED}


def test_a_report_on_a_new_association_confirms_and_every_command_shows_it(
    daemon: RunningDaemon, store: Store, pacs: CommittingPacs
) -> None:
    checked = daemon.command("check").stdout
    assert "it takes storage commitment, and its report reached the gateway" in checked
    assert "answers queries" in checked
    made = add_finished_job(store, heatmaps=5)
    wait_until(lambda: confirmed(store), limit_s=LIMIT_S, what="all results confirmed")
    assert pacs.reported[-1] == 0x0000
    asked = [item.ReferencedSOPInstanceUID for item in pacs.requests[-1].ReferencedSOPSequence]
    assert sorted(asked) == sorted(made.uids)
    (row,) = audit.query(store, AuditFilter(kind=AuditKind.ASKED))
    assert row.detail["objects"] == len(made.uids)
    told = daemon.command("explain", f"{STUDY}.1").stdout
    assert "asked pacs for storage commitment about 6 results" in told
    assert "6 results confirmed at pacs by storage commitment" in told
    listed = daemon.command("audit", "--event", "confirmation_asked", "--json").stdout
    assert json.loads(listed.splitlines()[0] if listed.startswith("{") else listed)
    assert audit.verify(store).problems == ()


def test_what_waits_stands_in_status_and_what_is_missing_is_alarmed(
    daemon: RunningDaemon, store: Store, pacs: CommittingPacs
) -> None:
    pacs.way = "never"
    add_finished_job(store, heatmaps=1)
    wait_until(lambda: pacs.requests, limit_s=LIMIT_S, what="a question")
    assert "To confirm 2 results of job 1 at pacs" in daemon.command("status").stdout
    pacs.lost, pacs.reason = set(pacs.pacs.objects), 0x0122
    assert pacs.report(pacs.requests[0]) == 0x0000
    wait_until(
        lambda: {row.state for row in deliveries.deliveries(store)} == {DeliveryState.GAVE_UP},
        limit_s=LIMIT_S, what="it is given up",
    )  # fmt: skip
    status = daemon.command("status").stdout
    assert "are not confirmed at pacs" in " ".join(status.split())
    assert "SOP class not supported" in " ".join(status.split())
    assert "missing at pacs" in daemon.command("explain", f"{STUDY}.1").stdout


def test_check_says_what_is_not_offered(daemon: RunningDaemon, pacs: CommittingPacs) -> None:
    pacs.refusal = 0x0110
    told = daemon.command("check")
    assert "WRONG  confirmation pacs: it refuses the request: processing failure (0x0110)" in " ".join(
        told.stdout.split(" ")
    )
    with CommittingPacs(free_port(), services=()) as poor:
        to = {"name": "poor", "ae_title": "PACS", "host": "127.0.0.1", "port": poor.port}
        daemon.configuration["daemon"]["destinations"] = [
            to,
            {**to, "name": "asked", "confirm": "query"},
            {**to, "name": "committed", "confirm": "commitment"},
        ]
        daemon.write_configuration()
        told = daemon.command("check")
    assert told.returncode == 1
    words = " ".join(told.stdout.split())
    assert "confirmation poor: its answer 0x0000 alone is taken as proof" in words
    assert "WRONG confirmation asked:" in words
    assert "takes no queries" in words
    assert "does not offer storage commitment" in words


def test_check_says_what_is_wrong_with_ask_at(tmp_path: Path) -> None:
    """It stores in the PACS as it should; who is to confirm it is another entity, and that address is wrong."""
    closed = free_port()
    with CommittingPacs(free_port()) as pacs, CommittingPacs(free_port(), services=()) as mute:
        at = {"ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "confirm": "commitment"}
        wrong = {
            "port": {"ae_title": "PACS_QR", "host": "127.0.0.1", "port": closed},
            "host": {"ae_title": "PACS_QR", "host": "no-such-host.invalid", "port": pacs.port},
            "entity": {"ae_title": "PACS_QR", "host": "127.0.0.1", "port": mute.port},
        }
        destinations = [{**at, "name": name, "ask_at": ask_at} for name, ask_at in wrong.items()]
        daemon = RunningDaemon(tmp_path / "run", roles=(), daemon={"destinations": destinations})
        with daemon:
            told = daemon.command("check")
    assert told.returncode == 1
    words = " ".join(told.stdout.split())
    assert (
        f"WRONG confirmation port: 127.0.0.1:{closed} (ask_at) does not open (Connection refused) "
        "mend: correct ask_at, or start that entity"
    ) in words
    assert "WRONG confirmation host: the name no-such-host.invalid (ask_at) cannot be resolved" in words
    assert f"WRONG confirmation entity: PACS_QR at 127.0.0.1:{mute.port} does not offer storage commitment" in words
