"""The wall clock of running roles is set by an hour: no series closes early, nothing is lost, held up or done twice."""

import mmap
import struct
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from anomalyd.storage import audit, deliveries, queue
from anomalyd.storage.audit import AuditFilter, AuditKind
from anomalyd.storage.tables import DeliveryState, JobState
from conftest import RequirePeer
from phantoms import PhantomWriter
from running import ReceivingPacs, RunningDaemon
from tiny_bundle import tiny_bundle
from waiting import wait_until

pytestmark = pytest.mark.faults
LIMIT_S = 60.0
HOUR_S = 3600
LEASE_S = 6.0
SOURCE = Path(__file__).parent / "clock_layer.c"


class SetClock:
    """The wall clock of all processes that were started with `environment`."""

    def __init__(self, folder: Path) -> None:
        library, ahead = folder / "clock_layer.so", folder / "ahead"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, SOURCE], check=True)
        ahead.write_bytes(bytes(8))
        with ahead.open("r+b") as file:
            self._ahead = mmap.mmap(file.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_LAYER_FILE": str(ahead)}

    def step(self, seconds: int) -> None:
        """Set forward, or back (negative)."""
        self._ahead[:] = struct.pack("=q", struct.unpack("=q", self._ahead[:])[0] + seconds)


@pytest.mark.parametrize(
    "step_s",
    [pytest.param(HOUR_S, id="forward"), pytest.param(-HOUR_S, id="back", marks=pytest.mark.long)],
)
def test_an_hour_while_a_series_comes_is_analysed_and_waits_to_be_sent(
    tmp_path: Path, requires_peer: RequirePeer, step_s: int
) -> None:
    requires_peer("gcc")
    clock = SetClock(tmp_path)
    tiny_bundle(tmp_path / "bundle")
    script = tmp_path / "script"
    script.write_text("slow 10", encoding="ascii")  # longer than a lease
    series = PhantomWriter(spacing_mm=(8.0, 2.5, 2.5), expected_count="absent").write(tmp_path / "in")
    half = len(series.files) // 2
    with (
        ReceivingPacs(tmp_path / "pacs") as pacs,
        RunningDaemon(
            tmp_path / "run",
            destinations=[pacs],
            roles=("gateway", "dispatcher"),
            environment=clock.environment,
            daemon={
                "settle_period": 1, "series_quiet_period": 5, "worker": {"lease": LEASE_S},
                "delivery": {"back_off_first": 4, "back_off_cap": 4},
            },
            pipeline={"bundles": [str(tmp_path / "bundle")]},
        ) as daemon,
        daemon.scripted_worker(script),
        daemon.scripted_worker(script),  # idle: it must not think that the other has died
    ):  # fmt: skip
        store = daemon.open_store()
        daemon.send(series.files[:half])
        clock.step(step_s)
        daemon.send(series.files[half:])
        wait_until(lambda: states(queue.jobs(store)) == [JobState.LEASED], limit_s=LIMIT_S, what="the analysis runs")

        clock.step(step_s)
        pacs.stop()
        wait_until(lambda: states(queue.jobs(store)) == [JobState.DONE], limit_s=LIMIT_S, what="it ends")
        wait_until(lambda: any(row.attempts for row in deliveries.deliveries(store)), limit_s=LIMIT_S, what="no PACS")

        clock.step(-step_s)
        pacs.start()
        sent = [DeliveryState.CONFIRMED]
        wait_until(lambda: states(deliveries.deliveries(store)) == sent, limit_s=20, what="it is sent")
        (job,) = queue.jobs(store)
        kinds = Counter(row.kind for row in audit.query(store, AuditFilter(series_uid=series.series_uid)))
        assert audit.verify(store).is_intact
        store.close()
    assert len(job.instances) == len(series.files)
    assert job.attempts == 1
    once = (AuditKind.CLOSED, AuditKind.SELECTED, AuditKind.QUEUED, AuditKind.STARTED, AuditKind.FINISHED)
    assert {kind: kinds[kind] for kind in once} == dict.fromkeys(once, 1)
    assert len(pacs.stores) == 1


def states(rows: "tuple[queue.Job, ...] | tuple[deliveries.DeliveryRow, ...]") -> list[JobState | DeliveryState]:
    return [row.state for row in rows]
