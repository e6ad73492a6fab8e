"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer


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
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
