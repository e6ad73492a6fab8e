"""The command `anomalyd`. A command parses, calls one function, renders; here errors become words and exit codes.

Exit codes: 0 done, 1 failed, 2 usage, 70 internal, 78 configuration (sysexits.h).
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from anomalyd import __version__
from anomalyd.daemon.commands import (
    audit,
    check,
    explain,
    offline,
    queue,
    reanalyse,
    received,
    roles,
    sending,
    status,
    training,
    watch,
)
from anomalyd.daemon.commands.options import ConfigOption
from anomalyd.errors import AnomalydError, Broken, ConfigError

EXIT_FAILED = 1
EXIT_INTERNAL = 70
EXIT_CONFIG = 78
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="anomalyd",
    help="Brain MR series in over DICOM, anomaly SEG and heatmaps out. Research use only, not for diagnosis.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"anomalyd {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    context: typer.Context,
    config: ConfigOption = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Version, then exit.")
    ] = False,
) -> None:
    del version
    context.obj = config


for commands in (roles, offline, sending, check, status, watch, explain, queue, reanalyse, audit, received, training):
    commands.register(app)


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command line; whatever goes wrong is one sentence on standard error, never a traceback."""
    try:
        app(list(arguments), prog_name="anomalyd")
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else EXIT_FAILED if exc.code else 0
    except AnomalydError as exc:
        return _fail(str(exc), _exit_code(exc))
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except Exception as exc:  # noqa: BLE001 - the last wall before the user: one line, the trace goes to a file
        from anomalyd.daemon.crash_report import write_report
        from anomalyd.storage.trouble import trouble_of

        if (trouble := trouble_of(exc)) is not None:
            return _fail(str(trouble), _exit_code(trouble))
        return _fail(f"internal error ({type(exc).__name__}); its trace is in {write_report(exc)}", EXIT_INTERNAL)
    return 0


def _exit_code(error: AnomalydError) -> int:
    if isinstance(error, ConfigError):
        return EXIT_CONFIG
    return EXIT_INTERNAL if isinstance(error, Broken) else EXIT_FAILED


def _fail(text: str, code: int) -> int:
    for line in text.splitlines() or [""]:
        typer.echo(f"anomalyd: {line}", err=True)
    return code


def main() -> None:
    """Entry point."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
