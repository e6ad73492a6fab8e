"""`send`: a folder of DICOM files to any receiver."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyd.daemon.commands.options import ConfigOption
from anomalyd.ids import AETitle, ae_title

if TYPE_CHECKING:
    from anomalyd.daemon.send import Answer
    from anomalyd.daemon.tls_settings import PeerTls

EXIT_FAILED = 1
LEAST_PORT, GREATEST_PORT = 1, 65535
SHOWN = 5
"""So many failed or left-out files are named; the rest is counted."""


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not LEAST_PORT <= int(port) <= GREATEST_PORT:
        raise typer.BadParameter(f"{text!r}: HOST:PORT is expected, for instance 127.0.0.1:11112")
    return host.strip("[]"), int(port)


def send(
    folder: Annotated[Path, typer.Argument(metavar="DIR", exists=True, help="Folder of DICOM files, or one file.")],
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to.")],
    called_aet: Annotated[str, typer.Option(metavar="AET", help="AE title of the receiver.")],
    calling_aet: Annotated[str, typer.Option(metavar="AET", help="AE title that we call as.")] = "ANOMALYD_SCU",
    associations: Annotated[
        int | None, typer.Option(min=1, max=64, help="So many at once; else one for each series, one by one.")
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="DICOM TLS, with the files of daemon.tls.")] = False,
    certificate_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name in the receiver's certificate; else HOST.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Send a folder as a scanner would; exit 1 if any file was not stored."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from anomalyd.daemon.logs import quiet_console
    from anomalyd.daemon.send import Receiver, find_files, send_files

    quiet_console()
    console = Console(stderr=True)
    host, port = _address(to)
    secured = _tls(config, certificate_name) if tls else None
    receiver = Receiver(host, port, _title(called_aet), _title(calling_aet), secured)
    files, left_out = find_files(folder)
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("send", total=len(files))
        answers = send_files(files, receiver, associations=associations, on_answer=lambda _: progress.advance(task))
    for path, reason in left_out[:SHOWN]:
        typer.echo(f"left out: {path}: {reason}", err=True)
    if len(left_out) > SHOWN:
        typer.echo(f"left out: {len(left_out) - SHOWN} more", err=True)
    _summary(answers)
    if not files or not all(answer.is_stored for answer in answers):
        raise typer.Exit(EXIT_FAILED)


def _tls(config: Path | None, certificate_name: str | None) -> "PeerTls":
    """What the configuration has for connections that we open."""
    from pydantic import ValidationError

    from anomalyd.daemon.settings import load_settings
    from anomalyd.daemon.tls_settings import PeerTls
    from anomalyd.errors import ConfigError

    own = load_settings(config).daemon.tls
    if own is None:
        raise ConfigError("--tls: the configuration has no daemon.tls, whose certificate, key and ca it needs")
    try:
        return PeerTls(certificate=own.certificate, key=own.key, ca=own.ca, certificate_name=certificate_name)
    except ValidationError:
        raise typer.BadParameter(f"{certificate_name!r}: a host name or an address is expected") from None


def _title(text: str) -> AETitle:
    try:
        return ae_title(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from None


def _summary(answers: "tuple[Answer, ...]") -> None:
    """One line for each kind of answer, with its count."""
    if not answers:
        typer.echo("no DICOM file found")
    counts = Counter((answer.status, answer.text) for answer in answers)
    for (status, text), count in counts.most_common():
        code = "  ----" if status is None else f"0x{status:04X}"
        typer.echo(f"{count:6d}  {code}  {text}")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel="Use")(send)
