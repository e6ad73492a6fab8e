"""`export`, `purge`, `verify`: what was received, taken out, forgotten, proven."""

import getpass
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyd.daemon.commands.opened import opened
from anomalyd.daemon.commands.options import ConfigOption
from anomalyd.errors import AnomalydError, BadIdentifier
from anomalyd.ids import SeriesUID, StudyUID, series_uid, study_uid

if TYPE_CHECKING:
    from anomalyd.storage.engine import Store

EXIT_FAILED = 1
ERASE_WAIT_S = 30.0
_LOOK_AGAIN_S = 0.05


class NoSuchSeries(AnomalydError):
    """Nothing of this series is kept."""


def _series(text: str) -> SeriesUID:
    try:
        return series_uid(text)
    except BadIdentifier as exc:
        raise typer.BadParameter(str(exc)) from None


def _study(text: str) -> StudyUID:
    try:
        return study_uid(text)
    except BadIdentifier as exc:
        raise typer.BadParameter(str(exc)) from None


def export(
    series: Annotated[str, typer.Argument(metavar="SERIES", callback=_series, help="SeriesInstanceUID.")],
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Made if it is not there.")],
    config: ConfigOption = None,
) -> None:
    """Write the received files of a series, byte for byte; names are a running number and part of the digest."""
    from anomalyd.storage.audit import AuditEvent, AuditKind, record
    from anomalyd.storage.series import instances_of, read_instance, series_named

    with opened(config) as (_, store):
        count = 0
        for found in series_named(store, SeriesUID(series)):
            out.mkdir(parents=True, exist_ok=True, mode=0o700)
            images = instances_of(store, found.study_uid, found.series_uid)
            for image in images:
                count += 1
                _write_private(out / f"{count:05d}-{image.sha256[:16]}.dcm", read_instance(store, image))
            detail = {"by": getpass.getuser(), "images": len(images)}
            event = AuditEvent(
                kind=AuditKind.EXPORTED, at=store.clock(), study_uid=found.study_uid, series_uid=found.series_uid,
                detail=detail,
            )  # fmt: skip
            record(store, event)
    if not count:
        raise NoSuchSeries(f"no image of series {series} is kept: `anomalyd explain {series}` tells what is known")
    typer.echo(f"{count} files in {out}")


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def purge(
    study: Annotated[str, typer.Option(metavar="UID", callback=_study, help="StudyInstanceUID.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask on a terminal.")] = False,
    config: ConfigOption = None,
) -> None:
    """Forget one study: images, results (sent or not), names. It cannot be undone; audit rows (hashes) stay.

    The gateway erases the images' bytes; while it is down the request is pending.
    """
    from anomalyd.storage.retention import purge_study

    with opened(config) as (_, store):
        if not yes and sys.stdin.isatty():
            typer.confirm(f"forget study {study} for ever?", abort=True)
        purged = purge_study(store, StudyUID(study), getpass.getuser())
        pending = _erased_by_gateway(store, StudyUID(study))
    rest = "" if purged.is_complete else "; the dispatcher erases the last traces"
    if purged.undelivered:
        typer.echo(f"{purged.undelivered} deliveries of results were not confirmed yet: they are given up", err=True)
    typer.echo(
        f"{purged.images} images, {purged.results} results forgotten, {purged.jobs_cancelled} jobs cancelled{rest}"
    )
    if pending:
        typer.echo(
            f"pending: the bytes of {pending} images are overwritten by the gateway when it runs; nobody gets them "
            "meanwhile, and `anomalyd status` shows how many are left",
            err=True,
        )


def _erased_by_gateway(store: "Store", study: StudyUID) -> int:
    """Wakes the gateway and waits for it, ERASE_WAIT_S at most and not at all where none runs; what is pending."""
    from anomalyd.daemon.wake import Role, notify
    from anomalyd.storage.erasing import pending_images

    is_running = notify(store.root, Role.GATEWAY) > 0
    deadline = time.monotonic() + ERASE_WAIT_S
    while (pending := pending_images(store, study)) and is_running and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN_S)
    return pending


def verify(config: ConfigOption = None) -> None:
    """Prove the received images: every record of the log against its checksum and against the index."""
    from anomalyd.storage.verify import verify as prove

    with opened(config) as (_, store):
        verdict = prove(store)
    for problem in verdict.problems:
        typer.echo(problem)
    typer.echo(verdict.text)
    if verdict.problems:
        raise typer.Exit(EXIT_FAILED)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (export, purge, verify):
        app.command(rich_help_panel="Keep")(command)
