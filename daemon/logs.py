"""The log of every role: structlog events to standard error, and nothing of a patient in them.

An event's text is "noun.verb", its values are keys. What other libraries say is reduced to where they said it,
since their messages quote data elements; an unforeseen error is logged as its type and its place for the same reason.
"""

import contextlib
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from anomalyd.errors import AnomalydError

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]
QUIET_LIBRARIES = ("pynetdicom", "pydicom", "highdicom", "PIL", "matplotlib", "apscheduler", "sqlalchemy", "diffusers")
"""Loggers whose warnings count, but whose chatter does not."""


def configure_logging(role: str, level: Level = "info", form: Format = "auto", stream: TextIO | None = None) -> None:
    """Set up structlog, the standard library's logging and warnings for one process.

    role: goes into every event. form: auto is console on a terminal, else one JSON object a line.
    """
    target = stream if stream is not None else sys.stderr
    on_terminal = form == "console" or (form == "auto" and target.isatty())

    def add_role(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        del logger, method
        return {"role": role} | dict(event)

    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_role,
        _safe_exception,
        structlog.dev.ConsoleRenderer(colors=target.isatty()) if on_terminal else structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Tolerant(target))),
        cache_logger_on_first_use=False,
    )
    _route_libraries()
    threading.excepthook = _thread_died


class _Tolerant:
    """A stream whose failure (disk full, reader gone) loses lines of the log and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """As much as can be written."""
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """As much as can be flushed."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def error_facts(error: BaseException) -> dict[str, Any]:
    """Type, place and frames of an error; its message only where it is ours or the operating system's.

    Messages of foreign libraries quote what they could not read, and that may be a patient's name.
    """
    frames = traceback.extract_tb(error.__traceback__)
    facts: dict[str, Any] = {
        "error": type(error).__name__,
        "frames": [f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if isinstance(error, AnomalydError):
        facts["message"] = str(error)
    elif isinstance(error, OSError) and error.strerror:
        facts["message"] = error.strerror
    if error.__cause__ is not None:
        facts["cause"] = error_facts(error.__cause__)
    return facts


def _short(filename: str) -> str:
    """The path from the package on: anomalyd/daemon/logs.py."""
    parts = Path(filename).parts
    for anchor in ("site-packages", "lib"):
        if anchor in parts:
            return "/".join(parts[len(parts) - parts[::-1].index(anchor) :])
    return "/".join(parts[-3:])


def _safe_exception(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    del logger, method
    info = event.pop("exc_info", None)
    error = sys.exception() if info is True else info[1] if isinstance(info, tuple) else info
    return {**event, "exception": error_facts(error)} if isinstance(error, BaseException) else event


def _route_libraries() -> None:
    """Send warnings and errors of libraries into our log as a place; drop everything below."""
    root = logging.getLogger()
    root.handlers[:] = [_PlaceOnly(level=logging.WARNING)]
    root.setLevel(logging.WARNING)
    for name in QUIET_LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.setLevel(logging.WARNING)
        library.propagate = True
    warnings.showwarning = _warned


class _PlaceOnly(logging.Handler):
    """Turns a record of the standard library into an event that says where, not what."""

    def emit(self, record: logging.LogRecord) -> None:
        facts: Mapping[str, Any] = error_facts(record.exc_info[1]) if record.exc_info and record.exc_info[1] else {}
        structlog.get_logger().debug(
            "library.spoke",
            library=record.name,
            severity=record.levelname.lower(),
            place=f"{_short(record.pathname)}:{record.lineno}",
            **facts,
        )


def _warned(  # noqa: PLR0917 - the signature of warnings.showwarning
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del message, file, line
    structlog.get_logger().debug("library.warned", category=category.__name__, place=f"{_short(filename)}:{lineno}")


def _thread_died(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit or args.exc_value is None:
        return
    name = args.thread.name if args.thread is not None else None
    structlog.get_logger().error("thread.died", thread=name, exc_info=args.exc_value)


def quiet_console() -> None:
    """For commands a person runs: no log lines, no warnings between the lines of their output."""
    configure_logging("command", level="error", form="console")
