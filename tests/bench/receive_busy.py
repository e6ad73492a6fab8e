"""The rate of receiving while the worker computes: no association may fail or time out (each answer is looked at)."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from anomalyd.storage.jobs import jobs
from anomalyd.storage.tables import JobState
from bench.harness import Case, Figures, Measure, peak_mb
from bench.receive import ASSOCIATIONS, SIZES, Images, send
from bench.stock_scp import Receiver
from demo.head import CENTRE_LPS, SHAPE, SPACING_MM, make_head
from phantoms import PhantomWriter
from raw_scu import PDU_LIMIT
from running import RunningDaemon
from waiting import wait_until

ROUNDS = 3
LIMIT_S = 600.0
SIZE = "132KB"


@contextmanager
def _while_the_worker_computes() -> Iterator[Measure]:
    """Each turn a new head is sent first; the rates are taken while its job runs, the first turn's is not counted."""
    rows, columns, number = SIZES[SIZE]
    images, head, turns = Images(rows, columns), make_head(), count()
    with tempfile.TemporaryDirectory(prefix="anomalyd-bench-") as name:
        root = Path(name)
        with RunningDaemon(root / "daemon", storage={"disk_floor": "50 MB"}) as daemon:
            receiver = Receiver(daemon.port, daemon.children["gateway"].pid)
            store = daemon.open_store()

            def measure() -> Figures:
                turn = next(turns)
                writer = PhantomWriter(
                    plane="sagittal", spacing_mm=SPACING_MM, shape=SHAPE, centre_lps=CENTRE_LPS, seed=f"busy {turn}"
                )
                series = writer.write_voxels(head.volume.voxels, head.volume.grid, root / f"series-{turn}")
                daemon.send(series.files)
                wait_until(lambda: jobs(store, JobState.LEASED), limit_s=LIMIT_S, what="the worker computes")
                figures: dict[str, float] = {}
                for associations in ASSOCIATIONS:
                    rate, figures["cpu_ms"] = send(receiver, images.messages(number, PDU_LIMIT), associations)
                    figures[f"images_per_s_{associations}"] = rate
                figures["jobs_still_computing"] = len(jobs(store, JobState.LEASED))
                figures["peak_mb"] = peak_mb(receiver.pid)
                daemon.wait_until_ended(series.series_uid, limit_s=LIMIT_S)
                return figures

            measure()
            yield measure
            store.close()


CASES = (Case(f"{SIZE} anomalyd, durable, while the worker computes", _while_the_worker_computes),)
