"""Entries of worker children that behave in one known way; run in real child processes."""

import ctypes
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from anomalyd.daemon.worker.child import serve
from anomalyd.daemon.worker.messages import Analysed, CannotStart, Ready, WithheldScan
from anomalyd.errors import Broken, Ineligible
from anomalyd.ids import InstanceUID, SeriesUID
from anomalyd.pipeline.finding import Stage
from anomalyd.storage import objects
from anomalyd.storage.engine import open_store
from anomalyd.storage.jobs import Job, JobKind
from anomalyd.storage.publication import NewResult
from anomalyd.storage.settings import StorageSettings
from anomalyd.storage.withdrawing import withdrawal_of
from part10_objects import part10_object

OnStage = Callable[[Stage], None]
READY = Ready(("bundle",), "cpu", 0.0, 0.0)


def scripted(connection: Connection, root: Path, script: str) -> None:
    """What to do is written in the file `script`, read anew for each job: `name` or `name seconds`.

    `once name`: only at the first attempt, the others are done. `poison name`: only for the first series.
    """
    connection.send(READY)

    def analyse(job: Job, on_stage: OnStage) -> Analysed | WithheldScan:
        on_stage(Stage.READ)
        words = Path(script).read_text(encoding="ascii").split()
        if words[0] in WHEN:
            words = words[1:] if WHEN[words[0]](job) else ["done"]
        name, seconds = (*words, "0")[:2]
        return BEHAVIOURS[name](job, root, on_stage, float(seconds))

    serve(connection, analyse)


def cannot_start(connection: Connection) -> None:
    """Ends with its word."""
    connection.send(CannotStart("weights are not what was recorded", is_configuration=False))


def dies_at_start(_connection: Connection) -> None:
    """Ends without a word."""
    os._exit(3)


def _done(job: Job, root: Path, on_stage: OnStage, _seconds: float) -> Analysed:
    on_stage(Stage.RESULTS)
    store = open_store(StorageSettings(root=root, disk_floor=0))
    uid = InstanceUID(f"2.25.{job.id}1")
    (file,) = objects.write_results(store, [part10_object(uid)])
    if job.kind is JobKind.REJECTION_NOTE:
        why = withdrawal_of(store, job)
        store.close()
        note = NewResult("rejection_note", "1.2.840.10008.5.1.4.1.1.7", uid, SeriesUID(f"2.25.{job.id}"), file)
        return Analysed((note,), {"withdraws": why.detail}, destination=why.destination)
    store.close()
    result = NewResult("heatmap", "1.2.840.10008.5.1.4.1.1.7", uid, SeriesUID(f"2.25.{job.id}"), file)
    return Analysed((result,), {"lesions": [], "pid": os.getpid()})


def _withheld(_job: Job, _root: Path, _on_stage: OnStage, _seconds: float) -> WithheldScan:
    return WithheldScan("registration similarity 0.2, at least 0.7 is needed", {"status": "withheld"})


def _ineligible(_job: Job, _root: Path, _on_stage: OnStage, _seconds: float) -> Analysed:
    raise Ineligible("pixels", "JPEG 2000", "decodable", "the pixel data of an image cannot be decoded")


def _broken(_job: Job, _root: Path, _on_stage: OnStage, _seconds: float) -> Analysed:
    raise Broken("segment 1 at 64: damaged")


def _bug(_job: Job, _root: Path, on_stage: OnStage, _seconds: float) -> Analysed:
    on_stage(Stage.SCORE)
    raise ValueError("Doe^Jane is not a number")


def _segfault(_job: Job, _root: Path, on_stage: OnStage, _seconds: float) -> Analysed:
    on_stage(Stage.RECONSTRUCT)
    raise AssertionError(ctypes.string_at(0))


def _killed(_job: Job, _root: Path, on_stage: OnStage, _seconds: float) -> Analysed:
    on_stage(Stage.RECONSTRUCT)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _memory_error(_job: Job, _root: Path, on_stage: OnStage, _seconds: float) -> Analysed:
    on_stage(Stage.RECONSTRUCT)
    raise MemoryError


def _hungry(_job: Job, _root: Path, on_stage: OnStage, _seconds: float) -> Analysed:
    on_stage(Stage.RECONSTRUCT)
    eaten = np.ones(400_000_000, dtype=np.uint8)
    threading.Event().wait(30)
    raise AssertionError(eaten.size)


def _slow(job: Job, root: Path, on_stage: OnStage, seconds: float) -> Analysed:
    """Hears of a cancelled lease between its steps."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        threading.Event().wait(0.05)
        on_stage(Stage.RECONSTRUCT)
    return _done(job, root, on_stage, 0)


def _hangs(_job: Job, _root: Path, on_stage: OnStage, seconds: float) -> Analysed:
    """Hears nothing."""
    on_stage(Stage.REGISTER)
    threading.Event().wait(seconds)
    raise AssertionError


def _starved(_job: Job, _root: Path, on_stage: OnStage, _seconds: float) -> Analysed:
    """As in a container that gives no more memory."""
    on_stage(Stage.RECONSTRUCT)
    resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, resource.RLIM_INFINITY))
    raise AssertionError(np.ones(4_000_000_000, dtype=np.uint8).size)


def _gpu_memory(_job: Job, _root: Path, on_stage: OnStage, _seconds: float) -> Analysed:
    import torch  # noqa: PLC0415 - seconds to load

    on_stage(Stage.RECONSTRUCT)
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 1.00 MiB free.")


def _gpu_error(_job: Job, _root: Path, on_stage: OnStage, _seconds: float) -> Analysed:
    import torch  # noqa: PLC0415 - seconds to load

    on_stage(Stage.RECONSTRUCT)
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


WHEN: dict[str, Callable[[Job], bool]] = {
    "once": lambda job: job.attempts == 1,
    "poison": lambda job: job.series_uid.endswith(".1"),
}
BEHAVIOURS: dict[str, Callable[[Job, Path, OnStage, float], Analysed | WithheldScan]] = {
    "done": _done, "withheld": _withheld, "ineligible": _ineligible, "broken": _broken, "bug": _bug,
    "segfault": _segfault, "killed": _killed, "memory_error": _memory_error, "hungry": _hungry, "slow": _slow,
    "hangs": _hangs, "starved": _starved, "gpu_memory": _gpu_memory, "gpu_error": _gpu_error,
}  # fmt: skip
