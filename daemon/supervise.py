"""`anomalyd serve`: the three roles as children of one process, restarted when they die.

The supervisor speaks systemd's side of sd_notify(3) to each child: it learns when a role is ready, and kills one that
promised signs of life and gives none. Under systemd it passes READY and STOPPING on as its own.
"""

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from anomalyd.daemon.notify import STORE_REFUSES, sd_notify

EXIT_CONFIG = 78
BACK_OFF_FIRST_S = 1.0
BACK_OFF_CAP_S = 60.0
REFUSED_CAP_S = 5.0
"""The same where disk or database refused the start: nothing is wrong with the child, and room may come at any time."""
STEADY_S = 60.0
"""A child that lived so long starts again at once when it dies."""
WATCHDOG_S = 60.0
GRACE_S = 10.0
"""Beyond the gateway's drain time, before SIGKILL."""
FOLDER_PREFIX = "anomalyd-serve-"
"""Of the folder of the sockets that children speak to; below the place for temporary files."""
_PR_SET_PDEATHSIG = 1
log = structlog.get_logger()


@dataclass(slots=True)
class _Child:
    role: str
    command: Sequence[str]
    inbox: socket.socket
    address: str
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    last_sign: float | None = None
    """Monotonic time of the latest WATCHDOG=1; None: this child has promised none."""
    is_ready: bool = False
    is_refused: bool = False
    """It says that disk or database refuse."""
    failures: int = 0
    start_at: float = field(default=0.0)


def supervise(
    commands: Mapping[str, Sequence[str]],
    stop: threading.Event,
    drain_s: float,
    facts: Mapping[str, object] | None = None,
) -> int:
    """Run the children until `stop` is set; gives the exit code.

    commands: role -> argument vector. A role that ends with 78 (configuration) ends all: a restart would not mend it.
    facts: go into the line that says that all are ready.
    """
    with ExitStack() as stack:
        _remove_left_behind(Path(tempfile.gettempdir()))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX)))
        children = [_with_inbox(role, command, folder, stack) for role, command in commands.items()]
        selector = stack.enter_context(selectors.DefaultSelector())
        for child in children:
            selector.register(child.inbox, selectors.EVENT_READ, child)
        try:
            code = _watch(children, selector, stop, facts or {})
        finally:
            sd_notify("STOPPING=1")
            _stop_all(children, drain_s + GRACE_S)
    log.info("serve.stopped", code=code)
    return code


def _remove_left_behind(temporary: Path) -> None:
    """Folders of supervisors that were killed: they hold sockets alone, and nobody listens there any more."""
    for folder in temporary.glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():  # others write into /tmp, too
                continue
            sockets = [path for path in folder.iterdir() if path.is_socket()]
            if sockets and not any(_is_listened_to(path) for path in sockets):
                for path in sockets:
                    path.unlink()
                folder.rmdir()


def _is_listened_to(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True


def _with_inbox(role: str, command: Sequence[str], folder: Path, stack: ExitStack) -> _Child:
    address = str(folder / f"{role}.notify")
    inbox = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
    inbox.bind(address)
    inbox.settimeout(0)
    return _Child(role, command, inbox, address)


def _watch(
    children: Sequence[_Child],
    selector: selectors.BaseSelector,
    stop: threading.Event,
    facts: Mapping[str, object],
) -> int:
    """Start, listen, restart, until told to stop or a child says that the configuration is wrong."""
    announced = False
    while not stop.is_set():
        now = time.monotonic()
        for child in children:
            if child.process is None and now >= child.start_at:
                _start(child)
            elif child.process is not None and child.process.poll() is not None:
                if child.process.returncode == EXIT_CONFIG:
                    return EXIT_CONFIG
                _bury(child)
            elif child.process is not None and child.last_sign is not None and now - child.last_sign > WATCHDOG_S:
                log.error("child.hangs", child=child.role, silent_s=round(now - child.last_sign))
                child.process.kill()
        if not announced and all(child.is_ready for child in children):
            announced = True
            log.info("serve.ready", roles=[child.role for child in children], **facts)
            sd_notify("READY=1")
        for key, _ in selector.select(timeout=0.25):
            _hear(key.data)
    return 0


def _start(child: _Child) -> None:
    environment = {
        **os.environ,
        "NOTIFY_SOCKET": child.address,
        "WATCHDOG_USEC": str(int(WATCHDOG_S * 1_000_000)),
    }
    environment.pop("WATCHDOG_PID", None)
    # start_new_session: Ctrl-C on the terminal reaches the supervisor alone, which passes it on once.
    child.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        list(child.command),
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
    )
    child.started, child.last_sign, child.is_ready, child.is_refused = time.monotonic(), None, False, False
    log.info("child.started", child=child.role, pid=child.process.pid)


def _die_with_parent() -> None:
    """In the child, before exec: SIGTERM when the supervisor is killed, so that no role stays behind (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _bury(child: _Child) -> None:
    assert child.process is not None  # noqa: S101 - the caller saw it end
    _hear(child)  # its last words
    lived = time.monotonic() - child.started
    child.failures = 0 if lived > STEADY_S else child.failures + 1
    cap = REFUSED_CAP_S if child.is_refused else BACK_OFF_CAP_S
    wait = 0.0 if child.failures == 0 else min(cap, BACK_OFF_FIRST_S * 2.0 ** (child.failures - 1))
    log.error("child.died", child=child.role, code=child.process.returncode, lived_s=round(lived), restart_in_s=wait)
    child.process, child.is_ready, child.start_at = None, False, time.monotonic() + wait


def _hear(child: _Child) -> None:
    while True:
        try:
            lines = child.inbox.recv(4096).decode(errors="replace").splitlines()
        except BlockingIOError:
            return
        child.is_ready |= "READY=1" in lines
        child.is_refused |= STORE_REFUSES in lines
        if "WATCHDOG=1" in lines:
            child.last_sign = time.monotonic()


def _stop_all(children: Sequence[_Child], limit_s: float) -> None:
    """SIGTERM to all at once, SIGKILL to whoever is left at the limit."""
    running = [child.process for child in children if child.process is not None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + limit_s
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("child.killed", pid=process.pid, waited_s=limit_s)  # noqa: TRY400 - the limit is the whole story
            process.kill()
            process.wait()
