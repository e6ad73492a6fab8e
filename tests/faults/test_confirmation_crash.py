"""Processes die around a confirmation: what was sent is confirmed in the end, sent once, and the audit is whole."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import MRImageStorage

from anomalyd.storage import audit, commitment_requests, deliveries
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.tables import DeliveryState
from asking_scanner import asked, asking, listening
from committing_pacs import CommittingPacs
from ports import free_port
from rows import Made, add_finished_job
from running import Role, RunningDaemon
from waiting import wait_until

pytestmark = pytest.mark.faults
LIMIT_S = 60.0

# pynetdicom forgets to close the socket of a connection that was refused, or whose peer died
unclosed_by_pynetdicom = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def wait_for_death(daemon: RunningDaemon, role: Role, point: str) -> None:
    child = daemon.children[role]
    wait_until(lambda: child.poll() is not None, limit_s=LIMIT_S, what=f"death at {point}")
    assert child.returncode == -signal.SIGKILL, daemon.log_text(role)


@dataclass
class Stage:
    """The store, a PACS that reports on new associations, and the roles as processes."""

    store: Store
    pacs: CommittingPacs
    daemon: RunningDaemon

    def check_promises(self, made: Made) -> None:
        wait_until(self.confirmed, limit_s=LIMIT_S, what="all results confirmed")
        assert sorted(self.pacs.pacs.order) == sorted(made.uids)  # confirmed, and not sent again
        assert audit.verify(self.store).problems == ()

    def confirmed(self) -> bool:
        return {row.state for row in deliveries.deliveries(self.store)} == {DeliveryState.CONFIRMED}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with CommittingPacs(free_port(), way="new") as pacs:
        to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "confirm": "commitment"}
        daemon = RunningDaemon(
            tmp_path / "run",
            roles=(),
            daemon={"accept_from": ["SCANNER"], "destinations": [to], "confirmation": {"answer_within": 3}},
        )
        with daemon:
            pacs.gateway = daemon.port
            store = open_store(StorageSettings(root=daemon.store_root, disk_floor=0))
            yield Stage(store, pacs, daemon)
            store.close()


@pytest.mark.parametrize(
    "point", ["confirmation.before_ask_commit", "confirmation.mid_ask", "commitment.apply_before_commit"]
)
def test_the_dispatcher_killed_around_a_confirmation(point: str, stage: Stage) -> None:
    made = add_finished_job(stage.store, heatmaps=5)
    stage.daemon.start("gateway")
    stage.daemon.start("dispatcher", environment={"ANOMALYD_CRASH_AT": point})
    wait_for_death(stage.daemon, "dispatcher", point)
    assert not stage.confirmed()
    stage.daemon.start("dispatcher")
    stage.check_promises(made)


@unclosed_by_pynetdicom
def test_the_gateway_killed_before_a_report_is_kept(stage: Stage) -> None:
    made = add_finished_job(stage.store, heatmaps=5)
    stage.daemon.start("gateway", environment={"ANOMALYD_CRASH_AT": "commitment.report_before_commit"})
    stage.daemon.start("dispatcher")
    wait_for_death(stage.daemon, "gateway", "commitment.report_before_commit")
    wait_until(lambda: stage.pacs.reported, limit_s=LIMIT_S, what="the PACS sees that nobody answers")
    assert stage.pacs.reported[0] is None
    stage.daemon.start("gateway")
    stage.check_promises(made)


def test_a_report_that_came_while_no_dispatcher_ran_counts(stage: Stage) -> None:
    made = add_finished_job(stage.store, heatmaps=5)
    stage.pacs.way = "never"
    stage.daemon.start("gateway")
    stage.daemon.start("dispatcher")
    wait_until(lambda: stage.pacs.requests, limit_s=LIMIT_S, what="a question")
    stage.daemon.kill("dispatcher")
    assert stage.pacs.report(stage.pacs.requests[0]) == 0x0000
    assert not stage.confirmed()
    stage.daemon.start("dispatcher")
    stage.check_promises(made)


@unclosed_by_pynetdicom
def test_the_gateway_killed_before_a_request_is_kept(tmp_path: Path) -> None:
    """The scanner gets no answer, so it asks again: it is told once, and nothing of the first request is left over."""
    point, port, reports = "commitment.request_before_commit", free_port(), list[Dataset]()
    scanner = {"ae_title": "SCANNER", "report_to": {"host": "127.0.0.1", "port": port}}
    unknown = (str(MRImageStorage), "1.2.3.4.5")
    with RunningDaemon(tmp_path / "run", roles=(), daemon={"accept_from": [scanner]}) as daemon:
        store = open_store(StorageSettings(root=daemon.store_root, disk_floor=0))
        daemon.start("gateway", environment={"ANOMALYD_CRASH_AT": point})
        with asking(daemon.port) as association:
            assert asked(association, unknown) is None
        wait_for_death(daemon, "gateway", point)
        daemon.start("dispatcher")
        daemon.start("gateway")
        assert commitment_requests.due(store) == ()
        with listening(port, reports):
            with asking(daemon.port) as association:
                assert asked(association, unknown) == 0x0000
            wait_until(lambda: told(store), limit_s=LIMIT_S, what="the scanner is told")
        assert [report.FailedSOPSequence[0].ReferencedSOPInstanceUID for report in reports] == [unknown[1]]
        assert len(list(audit.query(store, AuditFilter(kind=AuditKind.COMMITMENT_REQUESTED)))) == 1
        assert audit.verify(store).problems == ()
        store.close()


def told(store: Store) -> bool:
    rows = audit.query(store, AuditFilter(kind=AuditKind.COMMITMENT_REPORTED))
    return any("error" not in row.detail for row in rows)
