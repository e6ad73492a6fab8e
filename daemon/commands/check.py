"""`check`: what is in force, and whether it works."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomalyd.daemon import config_file
from anomalyd.daemon.commands.options import ConfigOption, JsonOption
from anomalyd.daemon.commands.render import console, write_json
from anomalyd.daemon.logs import quiet_console
from anomalyd.daemon.settings import Settings, load_settings

if TYPE_CHECKING:
    from rich.console import Console

    from anomalyd.daemon.checked import Checked

EXIT_FAILED = 1
STYLES = {"ok": "green", "note": "yellow", "WRONG": "bold red"}


def check(
    show: Annotated[
        bool, typer.Option("--show", help="Every key, not only those that differ from the default.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Configuration in force, bundles, disk, database, C-ECHO to every destination; exit 1 names what is wrong."""
    from anomalyd.daemon.checked import Grade
    from anomalyd.daemon.checks import check_all

    quiet_console()
    settings = load_settings(config)
    path = (config or config_file.default_path()).absolute()
    out = console()
    if not as_json:
        _show_configuration(out, settings, path, everything=show)
    results = []
    for result in check_all(settings):
        results.append(result)
        if not as_json:
            _show_result(out, result)
    wrong = sum(result.grade is Grade.WRONG for result in results)
    if as_json:
        write_json({"file": str(path), "configuration": _hidden(settings.model_dump(mode="json")), "checks": results})
    else:
        out.print(f"{wrong} wrong" if wrong else "All is well.")
    if wrong:
        raise typer.Exit(EXIT_FAILED)


def _hidden(values: Mapping[str, Any]) -> dict[str, Any]:
    """A database address may hold a password."""
    storage = dict(values["storage"])
    storage["url"] = None if storage["url"] is None else "(set)"
    return {**values, "storage": storage}


def _show_configuration(out: "Console", settings: Settings, path: Path, *, everything: bool) -> None:
    out.print(f"Configuration  {path}")
    defaults = dict(_leaves(_hidden(Settings.model_construct().model_dump(mode="json"))))
    for key, value in _leaves(_hidden(settings.model_dump(mode="json"))):
        if everything or value != defaults.get(key):
            out.print(f"  {key}: {value}")


def _leaves(values: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{at}.{name}".lstrip(".")
        if isinstance(value, Mapping):
            yield from _leaves(value, key)
        else:
            yield key, value


def _show_result(out: "Console", result: "Checked") -> None:
    from rich.text import Text

    out.print(Text.assemble((f"{result.grade:5}", STYLES[result.grade]), f"  {result.subject}: {result.text}"))
    if result.mend:
        out.print(f"       mend: {result.mend}")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel="Look")(check)
