"""Fixtures for all tests: data beside the checkout, free ports, waiting on conditions, programs from outside."""

import logging
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

import ports
import waiting
from anomalyd.storage.engine import Store, open_store
from anomalyd.storage.settings import StorageSettings
from moving_clock import MovingClock

CHECKOUT = Path(__file__).resolve().parents[1]

WaitUntil = Callable[..., None]
FreePort = Callable[[], int]


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A command that was run in this process has set up the log: the next test finds it as it was."""
    root, hook, shown = logging.getLogger(), threading.excepthook, warnings.showwarning
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], threading.excepthook, warnings.showwarning = handlers, hook, shown
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder `shared/data` beside the checkout; skips where it is absent."""
    path = CHECKOUT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("no data: the folder shared/data beside the checkout is absent")
    return path


@pytest.fixture
def free_port() -> int:
    """A TCP port of loopback that nobody listens on just now."""
    return ports.free_port()


@pytest.fixture
def free_ports() -> FreePort:
    """The same for tests that need several: each call gives another port."""
    return ports.free_port


@pytest.fixture
def wait_until() -> WaitUntil:
    """Waits on a condition: `wait_until(lambda: queue.depth() == 0, limit_s=5)`; fails the test at the limit."""

    def wait(condition: Callable[[], object], limit_s: float = 10.0, what: str = "the awaited condition") -> None:
        waiting.wait_until(condition, limit_s=limit_s, what=what, step_s=0.01)

    return wait


APT_PACKAGES = {
    "storescu": "dcmtk",
    "storescp": "dcmtk",
    "echoscu": "dcmtk",
    "dcmdump": "dcmtk",
    "dcmconv": "dcmtk",
    "dcmcjpeg": "dcmtk",
    "Orthanc": "orthanc",
    "chromium": "chromium",
    "npm": "npm",
    "dciodvfy": "dicom3tools",
    "dcentvfy": "dicom3tools",
    "spin": "spin",
    "strace": "strace",
    "gcc": "gcc",
    "systemd-analyze": "systemd",
}
RequirePeer = Callable[[str], str]


@pytest.fixture(scope="session")
def requires_peer() -> RequirePeer:
    """`requires_peer("storescu")`: the program's path; skips with the install line where it is absent."""

    def require(program: str) -> str:
        found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")
        if found is None:
            pytest.skip(f"{program} is not installed: apt-get install {APT_PACKAGES[program]}")
        return found

    return require


@pytest.fixture
def clock() -> MovingClock:
    """Of `store`: the test moves it."""
    return MovingClock()


@pytest.fixture
def store(tmp_path: Path, clock: MovingClock) -> Iterator[Store]:
    """A fresh store below tmp_path, SQLite and all; on the wall clock until the test moves it."""
    opened = open_store(StorageSettings(root=tmp_path / "store", disk_floor=0), clock=clock)
    yield opened
    opened.close()
