"""Options that several commands share."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from anomalyd.ids import duration_s


def _from_anywhere(context: typer.Context, value: Path | None) -> Path | None:
    """`anomalyd --config F status` and `anomalyd status --config F` mean the same."""
    return value if value is not None else context.find_object(Path)


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar="ANOMALYD_CONFIG",
        callback=_from_anywhere,
        help="Configuration; else ./config.yaml, /etc/anomalyd/config.yaml, the packaged one.",
    ),
]


def or_stdin(value: str | None) -> str | None:
    """The value itself; for `-` a line of standard input, since arguments are shown to everybody by `ps`."""
    if value != "-":
        return value
    line = sys.stdin.readline().strip()
    if not line:
        raise typer.BadParameter("-: one line is expected on standard input, and it is empty")
    return line


def moment(text: str | None) -> datetime | None:
    """A date, a date with time (local unless it says otherwise), or an age as "2 h"; raises BadParameter."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) - timedelta(seconds=duration_s(text))
        except ValueError:
            raise typer.BadParameter(f'{text!r}: 2026-01-31, "2026-01-31 14:05" or an age as "2 h"') from None
    return found.astimezone(UTC)


JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
