"""How commands write: tables that fit a terminal and whole lines in a pipe; times of the place, ages in words."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 220
"""Columns where there is no terminal: nothing is cut that another program reads."""
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400
ENOUGH = 2
"""Ages are told in the next smaller unit until there are at least so many of it."""


def console() -> "Console":
    """Standard output."""
    from rich.console import Console

    # markup=False: reasons and texts may hold square brackets.
    found = Console(highlight=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, width=PIPE_WIDTH)


def table(title: str, *columns: str) -> "Table":
    """An empty table; a column that begins with # is right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        made.add_column(name.lstrip("#"), justify="right" if name.startswith("#") else "left", overflow="fold")
    return made


def local(at: datetime | None) -> str:
    """A moment in the time zone of the reader, to the second."""
    return "" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age(since: datetime | None, now: datetime | None = None) -> str:
    """How long ago: 40 s, 12 min, 3 h, 5 d."""
    return "" if since is None else span((now or datetime.now(UTC)) - since)


def span(length: timedelta) -> str:
    """A length of time in its natural unit."""
    seconds = max(0, round(length.total_seconds()))
    for unit, size in (("d", DAY_S), ("h", HOUR_S), ("min", MINUTE_S)):
        if seconds >= ENOUGH * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def size(count: float) -> str:
    """Bytes in the unit that a disk is sold in."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:  # noqa: PLR2004 - one unit is a thousand of the smaller
            return f"{count:.0f} {unit}" if unit in {"B", "kB"} else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def write_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, default=_plain, indent=1, ensure_ascii=False))


def _plain(value: Any) -> Any:
    converters: Mapping[type, Callable[[Any], Any]] = {
        datetime: lambda at: at.isoformat(),
        timedelta: lambda length: length.total_seconds(),
        set: sorted,
        frozenset: sorted,
    }
    convert = converters.get(type(value))
    if convert is not None:
        return convert(value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
