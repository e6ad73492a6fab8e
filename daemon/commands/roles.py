"""`serve`, `gateway`, `dispatcher`, `worker`: the processes that stay."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import structlog
import typer

from anomalyd.daemon.commands.options import ConfigOption
from anomalyd.daemon.logs import configure_logging
from anomalyd.daemon.notify import STORE_REFUSES, sd_notify
from anomalyd.daemon.settings import Settings, load_settings
from anomalyd.errors import AnomalydError

EXIT_INTERNAL = 70
PRIVATE_UMASK = 0o077
RunRole = Callable[[Settings, threading.Event], int]
log = structlog.get_logger()


def gateway(config: ConfigOption = None) -> None:
    """Receive: C-ECHO and C-STORE, durable before they are acknowledged."""
    from anomalyd.daemon.gateway.lean import keep_out_pixel_libraries

    keep_out_pixel_libraries()
    settings = _prepare("gateway", config)
    from anomalyd.daemon.gateway.run import run_gateway

    _run(run_gateway, settings)


def dispatcher(config: ConfigOption = None) -> None:
    """Decide: close series, choose, queue, deliver, clean up."""
    settings = _prepare("dispatcher", config)
    from anomalyd.daemon.dispatcher.run import run_dispatcher

    _run(run_dispatcher, settings)


def worker(config: ConfigOption = None) -> None:
    """Compute: take jobs from the queue, write results."""
    settings = _prepare("worker", config)
    from anomalyd.daemon.worker.run import run_worker

    _run(run_worker, settings)


def serve(config: ConfigOption = None) -> None:
    """All three roles as children of one process, restarted when they die: laptop and container."""
    from anomalyd.daemon.supervise import supervise

    settings = _prepare("serve", config)
    daemon = settings.daemon
    facts = {"ae_title": daemon.ae_title, "host": daemon.host, "port": daemon.port, "root": str(settings.storage.root)}
    raise typer.Exit(supervise(_children(config), _stop_on_signal(), daemon.gateway.drain, facts))


def _children(config: Path | None) -> dict[str, list[str]]:
    """The command of each role: this interpreter, this configuration."""
    options = [] if config is None else ["--config", str(config.absolute())]
    module = [sys.executable, "-m", "anomalyd.daemon.cli"]
    return {role: [*module, role, *options] for role in ("gateway", "dispatcher", "worker")}


def _prepare(role: str, config: Path | None) -> Settings:
    """Configuration and log, before anything of the role is imported."""
    settings = load_settings(config)
    configure_logging(role, settings.daemon.log.level, settings.daemon.log.format)
    os.umask(PRIVATE_UMASK)
    return settings


def _run(run: RunRole, settings: Settings) -> None:
    """One role until SIGTERM or SIGINT; an error it does not handle is logged with its place and ends it with 70."""
    try:
        code = run(settings, _stop_on_signal())
    except Exception as exc:
        from anomalyd.storage.trouble import StoreRefuses, trouble_of

        trouble = exc if isinstance(exc, AnomalydError) else trouble_of(exc)
        if trouble is None:
            log.exception("role.crashed")
            raise typer.Exit(EXIT_INTERNAL) from exc
        if isinstance(trouble, StoreRefuses):
            sd_notify(STORE_REFUSES)
            log.error("store.refuses", reason=str(trouble))  # noqa: TRY400 - foreseen, in words
        else:
            log.exception("role.ended", reason=str(trouble))
        raise trouble from exc
    raise typer.Exit(code)


def _stop_on_signal() -> threading.Event:
    """Set by SIGTERM and SIGINT."""
    stop = threading.Event()

    def set_stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, set_stop)
    return stop


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (serve, gateway, dispatcher, worker):
        app.command(rich_help_panel="Run")(command)
