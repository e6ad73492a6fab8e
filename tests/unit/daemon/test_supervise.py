"""`serve`: children are started, heard, restarted and stopped."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalyd.daemon.notify import STORE_REFUSES
from anomalyd.daemon.supervise import FOLDER_PREFIX, supervise
from waiting import wait_until

READY = """
import os, socket, signal, sys, pathlib
def stop(*_): sys.exit(0)
signal.signal(signal.SIGTERM, stop)
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
with open(sys.argv[1], "a") as f: f.write(f"{os.getpid()}\\n")
signal.pause()
"""


class Served:
    """`supervise` in a thread of its own, with children that write their pid."""

    def __init__(self, folder: Path, programs: dict[str, str], drain_s: float = 1.0) -> None:
        self.folder, self.stop, self.code = folder, threading.Event(), -1
        commands = {role: [sys.executable, "-c", program, str(folder / role)] for role, program in programs.items()}
        self.thread = threading.Thread(target=self._run, args=(commands, drain_s))
        self.thread.start()

    def _run(self, commands: dict[str, list[str]], drain_s: float) -> None:
        self.code = supervise(commands, self.stop, drain_s)

    def pids(self, role: str) -> list[int]:
        path = self.folder / role
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def wait_for_starts(self, role: str, count: int) -> None:
        wait_until(lambda: len(self.pids(role)) >= count, limit_s=30, what=f"{count} starts of {role}")

    def end(self) -> int:
        self.stop.set()
        self.thread.join(30)
        return self.code


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path, {"gateway": READY, "worker": READY})
    yield served
    served.end()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_child_is_started_again_and_the_other_is_left_alone(running: Served) -> None:
    running.wait_for_starts("gateway", 1)
    running.wait_for_starts("worker", 1)
    os.kill(running.pids("worker")[0], signal.SIGKILL)
    running.wait_for_starts("worker", 2)
    assert len(running.pids("gateway")) == 1


def test_stopping_stops_every_child_and_gives_0(running: Served) -> None:
    running.wait_for_starts("gateway", 1)
    running.wait_for_starts("worker", 1)
    assert running.end() == 0
    assert not any(is_alive(pid) for role in ("gateway", "worker") for pid in running.pids(role))


def test_a_configuration_error_of_a_child_ends_all_with_78(tmp_path: Path) -> None:
    served = Served(tmp_path, {"gateway": READY, "dispatcher": "raise SystemExit(78)"})
    served.thread.join(30)
    assert served.code == 78
    assert not any(is_alive(pid) for pid in served.pids("gateway"))


def test_a_child_that_will_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomalyd.daemon.supervise.GRACE_S", 0.2)
    stubborn = READY.replace("def stop(*_): sys.exit(0)", "def stop(*_): pass").replace(
        "signal.pause()", "\nwhile True: signal.pause()"
    )
    served = Served(tmp_path, {"worker": stubborn}, drain_s=0.0)
    served.wait_for_starts("worker", 1)
    assert served.end() == 0
    assert not is_alive(served.pids("worker")[0])


def test_a_child_that_promised_signs_of_life_and_gives_none_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomalyd.daemon.supervise.WATCHDOG_S", 0.3)
    served = Served(tmp_path, {"worker": READY.replace("READY=1", "READY=1\\nWATCHDOG=1")})
    served.wait_for_starts("worker", 2)
    assert served.end() == 0


def supervisor(out: Path, temporary: Path) -> "subprocess.Popen[bytes]":
    """In a process of its own, once its child runs and has written its pid to `out`."""
    program = (
        "import sys, threading; from anomalyd.daemon.supervise import supervise; "
        "supervise({'worker': [sys.executable, '-c', sys.argv[1], sys.argv[2]]}, threading.Event(), 1.0)"
    )
    environment = {**os.environ, "TMPDIR": str(temporary)}
    parent = subprocess.Popen([sys.executable, "-c", program, READY, str(out)], env=environment)
    wait_until(lambda: out.exists() and out.read_text().endswith("\n"), limit_s=30, what="the child runs")
    return parent


def kill(parent: "subprocess.Popen[bytes]") -> None:
    parent.kill()
    parent.wait()


def test_a_start_removes_the_folder_that_a_killed_supervisor_left_and_no_other(tmp_path: Path) -> None:
    temporary, elsewhere = tmp_path / "tmp", tmp_path / "elsewhere"
    temporary.mkdir()
    elsewhere.mkdir()
    (elsewhere / "file").write_text("of somebody")
    (temporary / f"{FOLDER_PREFIX}link").symlink_to(elsewhere)
    kill(supervisor(tmp_path / "first", temporary))
    (left,) = (path for path in temporary.iterdir() if not path.is_symlink())
    second = supervisor(tmp_path / "second", temporary)
    assert not left.exists()
    (in_use,) = (path for path in temporary.iterdir() if not path.is_symlink())
    third = supervisor(tmp_path / "third", temporary)
    assert in_use.exists()
    assert (elsewhere / "file").exists()
    kill(second)
    kill(third)


def test_a_child_that_a_full_disk_refused_is_started_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomalyd.daemon.supervise.BACK_OFF_FIRST_S", 600.0)
    monkeypatch.setattr("anomalyd.daemon.supervise.REFUSED_CAP_S", 0.01)
    refused = READY.replace("READY=1", STORE_REFUSES).replace("signal.pause()", "sys.exit(1)")
    served = Served(tmp_path, {"gateway": refused, "worker": refused.replace(STORE_REFUSES, "STATUS=failed")})
    served.wait_for_starts("gateway", 4)
    assert len(served.pids("worker")) == 1, "another reason waits as before"
    assert served.end() == 0


def test_no_child_outlives_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    out = tmp_path / "worker"
    kill(supervisor(out, tmp_path))
    wait_until(lambda: not is_alive(int(out.read_text())), limit_s=10, what="the child is gone")
