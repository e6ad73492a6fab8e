"""The worker's child as its parent sees it: started, fed, watched, killed, and its death given a name.

Pixels are decoded and analysed in the child alone, so that a bomb, a leak or a crash of native code costs one try of
one job. It lives long (models are loaded once) and is replaced only after it died or was killed.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from anomalyd.daemon.worker.messages import (
    Answer,
    CannotStart,
    Failed,
    FromChild,
    Ready,
    StageReached,
    Task,
    ToChild,
)
from anomalyd.errors import Broken, ConfigError

POLL_S = 0.25
"""How often the parent looks at time, memory and its own orders while the child computes."""
EXIT_OUT_OF_MEMORY = 137
"""Shells and container engines report a SIGKILL so."""
KILL_GRACE_S = 5.0
log = structlog.get_logger()

Entry = Callable[..., None]
"""Runs in the child: `entry(connection, *arguments)`; a module-level function, its arguments picklable."""


class ChildDied(Broken):
    """The child ended in the middle of something; the text says how."""


class Child:
    """One child process. All methods are for one thread, but `kill` for any."""

    def __init__(self, entry: Entry, arguments: tuple[Any, ...], *, start_limit_s: float) -> None:
        """Starts the process; `wait_ready` says when it is of use."""
        context = multiprocessing.get_context("spawn")  # never fork with threads and an open database (GATEWAY 8.5)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=entry, args=(theirs, *arguments), name="anomalyd-child", daemon=True)
        self._process.start()
        theirs.close()  # so that the child's end is the only one, and its death an end of file
        self._start_limit_s = start_limit_s
        self._killed_because = ""
        self.stage = ""

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid or 0

    @property
    def is_alive(self) -> bool:
        """False once it has ended or was killed."""
        return self._process.is_alive()

    def wait_ready(self, goes_on: Callable[[], bool]) -> Ready | None:
        """When it has loaded and warmed up; None as soon as goes_on, asked every POLL_S, is false.

        Raises ConfigError or Broken with the child's own word, or ChildDied.
        """
        deadline = time.monotonic() + self._start_limit_s
        while goes_on():
            message = self._receive()
            if isinstance(message, Ready):
                return message
            if isinstance(message, CannotStart):
                raise (ConfigError if message.is_configuration else Broken)(message.text)
            if time.monotonic() > deadline:
                self.kill(f"not ready within {self._start_limit_s:g} s")
        return None

    def run(self, task: Task, *, time_limit_s: float, memory_limit: int, tick: Callable[["Child"], None]) -> Answer:
        """The answer to one task, whatever happens to the child; a killed or dead child answers Failed.

        tick: called every POLL_S from this thread; may call `say` or `kill`.
        """
        deadline = time.monotonic() + time_limit_s
        self.stage = ""
        try:
            self.say(task)
            while True:
                tick(self)
                message = self._receive()
                if isinstance(message, StageReached):
                    self.stage = message.stage
                elif message is not None and not isinstance(message, Ready | CannotStart):
                    return message
                self._enforce(deadline, time_limit_s, memory_limit)
        except ChildDied as exc:
            return Failed(str(exc), is_retryable=True, leaves=True)

    def say(self, message: ToChild) -> None:
        """Send to the child; raises ChildDied."""
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise self._death() from exc

    def kill(self, why: str) -> None:
        """At once; whoever waits for an answer gets `why`."""
        self._killed_because = self._killed_because or why
        self._process.kill()

    def close(self) -> None:
        """End it in good order: it leaves its loop when the pipe closes, and is killed if it does not."""
        self._connection.close()
        self._process.join(KILL_GRACE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    def _receive(self) -> FromChild | None:
        """The next message, or None after POLL_S; raises ChildDied."""
        try:
            if not self._connection.poll(POLL_S):
                return None
            message: FromChild = self._connection.recv()
        except (EOFError, ConnectionResetError) as exc:
            raise self._death() from exc
        return message

    def _enforce(self, deadline: float, time_limit_s: float, memory_limit: int) -> None:
        if time.monotonic() > deadline:
            self.kill(f"killed: exceeded job_time_limit ({time_limit_s:g} s){self._where()}")
        elif resident_bytes(self.pid) > memory_limit:
            self.kill(f"killed: out of memory, exceeded {memory_limit / 1e9:g} GB{self._where()}")

    def _death(self) -> ChildDied:
        self._process.join(KILL_GRACE_S)
        return ChildDied(self._killed_because or f"{death_in_words(self._process.exitcode)}{self._where()}")

    def _where(self) -> str:
        return f" in stage {self.stage}" if self.stage else ""


def death_in_words(exit_code: int | None) -> str:
    """What an exit code says about how a process ended."""
    if exit_code is None:
        return "closed its pipe"
    if exit_code in (-signal.SIGKILL, EXIT_OUT_OF_MEMORY):
        return "killed by SIGKILL: most likely out of memory"
    if exit_code < 0:
        return f"died of {signal.Signals(-exit_code).name}"
    return f"ended with exit code {exit_code}"


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 where it is gone (proc(5), statm)."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
