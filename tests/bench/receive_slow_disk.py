"""Receiving on a disk that needs 5 ms more for each flush: what group commit is for. Beside Orthanc, which flushes too.

The library that waits is compiled here (slow_flush.c) and preloaded; nothing of either receiver is changed.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.harness import Case, Measure
from bench.receive import measured, ours
from bench.stock_scp import Receiver, orthanc, program
from ports import free_port

ROUNDS = 3
SIZE = "132KB"
SOURCE = Path(__file__).with_name("slow_flush.c")


@contextmanager
def _slowly(name: str, receiver: str) -> Iterator[Measure]:
    with tempfile.TemporaryDirectory(prefix="anomalyd-bench-") as folder:
        library = Path(folder) / "slow_flush.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        environment = {"LD_PRELOAD": str(library)}

        @contextmanager
        def opened(root: Path) -> Iterator[Receiver]:
            start = ours(root, environment) if name == "ours" else orthanc(receiver, free_port(), root, environment)
            with start as one:
                yield one

        with measured(opened, SIZE) as measure:
            yield measure


def _cases() -> Iterator[Case]:
    yield Case(f"{SIZE} anomalyd, 5 ms a flush", partial(_slowly, "ours", ""))
    if found := program("Orthanc"):
        yield Case(f"{SIZE} Orthanc, 5 ms a flush", partial(_slowly, "orthanc", found))


CASES = tuple(_cases())
