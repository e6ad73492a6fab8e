"""Last image received to last result in the PACS: the made head of the demo (176 slices, 1 mm), a warm worker.

The settle time is taken off. Memory: the largest that each role has had up to then, the worker with its child.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from anomalyd.daemon.send import Receiver, find_files, send_files
from anomalyd.ids import AETitle
from bench.harness import Case, Figures, Measure, peak_mb
from demo.head import CENTRE_LPS, SHAPE, SPACING_MM, make_head
from phantoms import PhantomWriter
from running import ReceivingPacs, Role, RunningDaemon

ROUNDS = 3
SETTLE_S = 1.0
LIMIT_S = 600.0


@contextmanager
def daemon_with_pacs() -> Iterator[Measure]:
    """The three roles and a PACS; the first series, which loads the model, is not counted."""
    head, numbers = make_head(), count()
    with tempfile.TemporaryDirectory(prefix="anomalyd-bench-") as name:
        root = Path(name)
        pacs = ReceivingPacs(root / "pacs")
        with pacs, RunningDaemon(root / "daemon", destinations=[pacs], daemon={"settle_period": SETTLE_S}) as daemon:

            def measure() -> Figures:
                number = next(numbers)
                writer = PhantomWriter(
                    plane="sagittal", spacing_mm=SPACING_MM, shape=SHAPE, centre_lps=CENTRE_LPS, seed=f"bench {number}"
                )
                series = writer.write_voxels(head.volume.voxels, head.volume.grid, root / f"series-{number}")
                files, _ = find_files(series.folder)
                begun = time.monotonic()
                send_files(files, Receiver("127.0.0.1", daemon.port, AETitle("ANOMALYD"), AETitle("SCANNER")))
                sent = time.monotonic()
                daemon.wait_until_ended(series.series_uid, limit_s=LIMIT_S)
                returned = time.monotonic()
                return {
                    "last_image_to_last_result_s": returned - sent - SETTLE_S,
                    "receive_s": sent - begun,
                    "gateway_peak_mb": _peak(daemon, "gateway"),
                    "dispatcher_peak_mb": _peak(daemon, "dispatcher"),
                    "worker_peak_mb": _peak(daemon, "worker"),
                }

            measure()
            yield measure


def _peak(daemon: RunningDaemon, role: Role) -> float:
    return sum(peak_mb(pid) for pid in daemon.processes(role))


CASES = (Case("T1w head, 176 slices of 1 mm", daemon_with_pacs),)
