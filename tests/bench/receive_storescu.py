"""The rate of receiving where dcmtk's storescu sends, one and four of them at a time: each reads, renumbers and sends.

There storescu itself is a part of what is measured (GATEWAY 2): compare receivers, not with the other bench's rates.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from anomalyd.storage.part10 import file_prefix
from bench.harness import Case, Figures, Measure, peak_mb
from bench.receive import SIZES, Images, cpu_s, ours, peer
from bench.stock_scp import PEER_ENVIRONMENT, Receiver, orthanc, program, pynetdicom_scp, storescp
from ports import free_port

ROUNDS = 5
SENDERS = (1, 4)
SIZE = "132KB"
IMAGES = 200


def _sent(storescu: str, receiver: Receiver, folder: Path, senders: int) -> tuple[float, float]:
    """Images per second, CPU milliseconds per image; raises CalledProcessError where one was refused."""
    command = [storescu, "-aec", receiver.called, "+II", "+sd", "127.0.0.1", str(receiver.port), str(folder)]
    cpu_before, begun = cpu_s(receiver.pid), time.perf_counter()
    running = [subprocess.Popen(command, env=PEER_ENVIRONMENT, stderr=subprocess.DEVNULL) for _ in range(senders)]
    for one in running:
        if one.wait():
            raise subprocess.CalledProcessError(one.returncode, command)
    took, count = time.perf_counter() - begun, senders * IMAGES
    return count / took, 1000 * (cpu_s(receiver.pid) - cpu_before) / count


def _prefix(uid: str) -> bytes:
    return file_prefix(
        sop_class=MRImageStorage,
        instance_uid=uid,
        transfer_syntax=ExplicitVRLittleEndian,
        calling_ae="A",
        called_ae="B",
    )


@contextmanager
def _measured(storescu: str, open_receiver: Callable[[Path], AbstractContextManager[Receiver]]) -> Iterator[Measure]:
    rows, columns, _ = SIZES[SIZE]
    with tempfile.TemporaryDirectory(prefix="anomalyd-bench-") as name:
        files, store = Path(name) / "files", Path(name) / "store"
        files.mkdir()
        store.mkdir()
        for number, (uid, raw) in enumerate(Images(rows, columns).data_sets(IMAGES)):
            (files / f"{number}.dcm").write_bytes(_prefix(uid) + raw)
        os.sync()
        with open_receiver(store) as receiver:

            def measure() -> Figures:
                figures: dict[str, float] = {}
                for senders in SENDERS:
                    figures[f"images_per_s_{senders}"], figures["cpu_ms"] = _sent(storescu, receiver, files, senders)
                figures["peak_mb"] = peak_mb(receiver.pid)
                return figures

            measure()
            yield measure


def _cases() -> Iterator[Case]:
    storescu = program("storescu")
    if not storescu:
        return
    measured = partial(partial, _measured, storescu)
    yield Case("storescu to anomalyd, durable", measured(ours))
    yield Case("storescu to pynetdicom decode + save_as", measured(lambda f: pynetdicom_scp(free_port(), f, "decode")))
    if found := program("storescp"):
        yield Case("storescu to storescp --fork", measured(partial(peer, storescp, found)))
    if found := program("Orthanc"):
        yield Case("storescu to Orthanc", measured(partial(peer, orthanc, found)))


CASES = tuple(_cases())
