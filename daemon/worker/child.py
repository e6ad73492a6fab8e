"""The worker's child: loads the bundles once, warms up, then takes jobs from its pipe until the pipe is closed.

It may be killed at any moment; what it leaves are result files that nobody refers to.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import structlog

from anomalyd.daemon.logs import configure_logging
from anomalyd.daemon.settings import Settings
from anomalyd.daemon.worker.messages import (
    Analysed,
    Answer,
    Cancel,
    Cancelled,
    CannotStart,
    Failed,
    NotEligible,
    StageReached,
    Task,
    WithheldScan,
)
from anomalyd.errors import AnomalydError, ConfigError, Ineligible, Transient
from anomalyd.pipeline.finding import Reason, Stage
from anomalyd.storage.crash import crash_point
from anomalyd.storage.jobs import Job
from anomalyd.storage.trouble import StoreRefuses, trouble_of

OOM_SCORE = "500"
"""When memory runs out, the kernel takes the child, not the gateway (proc(5), oom_score_adj)."""
NICENESS = 5
"""The door is opened first: an analysis must not make a scanner wait (GATEWAY 8.4)."""
MID_ANALYSIS = Stage.RECONSTRUCT
_PR_SET_PDEATHSIG = 1
log = structlog.get_logger()
Analyse = Callable[[Job, Callable[[Stage], None]], Analysed | WithheldScan]


def serve_jobs(connection: Connection, settings: Settings) -> None:
    """Entry of the process."""
    configure_logging("worker", settings.daemon.log.level, settings.daemon.log.format)
    _bind_to_parent()
    # Not at the top: the parent imports this module for its entry, and must not load torch.
    from anomalyd.daemon.worker.analysis import Analyst  # noqa: PLC0415 - see above

    try:
        analyst = Analyst(settings)
    except AnomalydError as exc:
        connection.send(CannotStart(str(exc), isinstance(exc, ConfigError)))
        return
    connection.send(analyst.warm_up())
    serve(connection, analyst.analyse)
    sys.stderr.flush()
    os._exit(0)  # taking torch and its threads down in order takes seconds and gives nothing


def serve(connection: Connection, analyse: Analyse) -> None:
    """Answers tasks until the pipe is closed, or until the answer was that this process must go."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent closed the pipe, or died
        while True:
            message = connection.recv()
            if not isinstance(message, Task):
                continue  # an order to cancel what has just been finished
            answer = _answer(connection, analyse, message.job)
            connection.send(answer)
            if isinstance(answer, Failed) and answer.leaves:
                return


def _answer(connection: Connection, analyse: Analyse, job: Job) -> Answer:
    stages = _Stages(connection)
    try:
        return analyse(job, stages)
    except _Stopped:
        return Cancelled()
    except Ineligible as exc:
        return NotEligible(Reason(exc.criterion, exc.value, exc.limit, exc.text))
    except AnomalydError as exc:
        return Failed(str(exc), is_retryable=isinstance(exc, Transient), is_of_store=isinstance(exc, StoreRefuses))
    except Exception as exc:
        if isinstance(trouble := trouble_of(exc), StoreRefuses):
            return Failed(f"{trouble} (in stage {stages.current})", is_retryable=True, is_of_store=True)
        log.exception("job.crashed", job_id=job.id, series_uid=job.series_uid, stage=stages.current)
        return Failed(f"{_in_words(exc)} in stage {stages.current}", is_retryable=True, leaves=True)


def _in_words(error: Exception) -> str:
    """Type, and message only where it is the operating system's: others may quote what they could not read."""
    said = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in said or "allocate memory" in said:
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__} ({error.strerror})"
    if type(error).__name__ == "AcceleratorError" or said.startswith("cuda error"):  # of torch, by what is underneath
        return f"the GPU failed ({type(error).__name__})"
    return f"an error of the program ({type(error).__name__})"


class _Stopped(Exception):
    """The parent has taken the job back."""


class _Stages:
    """Tells the parent each stage, and hears there whether to go on."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.current = "start"

    def __call__(self, stage: Stage) -> None:
        self.current = stage.value
        self._connection.send(StageReached(stage.value))
        if stage is MID_ANALYSIS:
            crash_point("worker.mid_analysis")
        while self._connection.poll():
            if isinstance(self._connection.recv(), Cancel):
                raise _Stopped


def _bind_to_parent() -> None:
    """Die with the parent, before the others when memory runs out, and not of the terminal's Ctrl-C; yield to them."""
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # systemd sends it to the whole group; the parent ends us
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with suppress(PermissionError):  # a sandbox may forbid it; then the kernel chooses by itself
            Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
