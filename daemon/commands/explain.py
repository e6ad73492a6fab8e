"""`explain`: everything that happened to one study or series, in order, on one page, with why."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyd.daemon.commands.opened import opened
from anomalyd.daemon.commands.options import ConfigOption, JsonOption, or_stdin
from anomalyd.daemon.commands.render import console, local, write_json
from anomalyd.errors import AnomalydError
from anomalyd.ids import SeriesUID, StudyUID

if TYPE_CHECKING:
    from rich.console import Console

    from anomalyd.storage.audit import AuditRow
    from anomalyd.storage.engine import Store

OUTCOME_STYLES = {"minor failure": "yellow", "serious failure": "red", "major failure": "bold red"}


class NothingKnown(AnomalydError):
    """No row of the audit log is about this."""


def explain(
    name: Annotated[
        str,
        typer.Argument(
            metavar="UID-OR-ACCESSION",
            callback=or_stdin,
            help="As the viewer or the order shows it; - reads it from stdin.",
        ),
    ],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Everything that happened to one study or series, in order, with why."""
    from anomalyd.storage.audit import history_of

    with opened(config) as (_, store):
        rows = history_of(store, name)
        if not rows:
            raise NothingKnown(
                "nothing is known of it: no such UID or accession number came in; "
                "`anomalyd audit --event association_rejected` shows senders that were turned away"
            )
        if as_json:
            write_json([asdict(row) for row in rows])
            return
        out = console()
        for series_uid, part in _by_series(rows):
            _page(out, store, series_uid, part)


def _by_series(rows: "Sequence[AuditRow]") -> "Iterator[tuple[str | None, list[AuditRow]]]":
    """Rows of each series in order of its first; what is about the study alone comes first."""
    names = dict.fromkeys(row.series_uid for row in rows)
    for name in sorted(names, key=lambda name: name is not None):
        yield name, [row for row in rows if row.series_uid == name]


def _page(out: "Console", store: "Store", series_uid: str | None, rows: "Sequence[AuditRow]") -> None:
    from rich.text import Text

    from anomalyd.daemon.history import told

    study_uid = rows[0].study_uid
    out.print(Text(f"Series {series_uid}" if series_uid else "Study as a whole", "bold"))
    out.print(f"Study  {study_uid or 'unknown'}")
    if series_uid and study_uid:
        out.print(f"Now    {_state_now(store, StudyUID(study_uid), SeriesUID(series_uid))}")
    for line in told(rows):
        lasted = f" to {line.until.astimezone():%H:%M:%S}" if line.until != line.at else " " * 12
        out.print(Text.assemble(f"  {local(line.at)}{lasted}  ", (line.what, OUTCOME_STYLES.get(line.outcome, ""))))
    out.print()


def _state_now(store: "Store", study_uid: StudyUID, series_uid: SeriesUID) -> str:
    from anomalyd.storage.deliveries import deliveries
    from anomalyd.storage.jobs import jobs_of_series
    from anomalyd.storage.series import series_row
    from anomalyd.storage.tables import SeriesState

    series = series_row(store, study_uid, series_uid)
    if series is None:
        return "nothing of it is kept"
    # How far an analysis is, its jobs tell.
    state = "chosen for analysis" if series.state is SeriesState.QUEUED else series.state
    parts = [f"{state}, {series.arrivals} images"]
    if series.reason:
        parts.append(f"not analysed: {series.reason.get('text')}")
    for job in jobs_of_series(store, study_uid, series_uid):
        sent = deliveries(store, job_id=job.id)
        states = dict.fromkeys((row.destination, row.state.value) for row in sent)
        counts = {key: sum((row.destination, row.state.value) == key for row in sent) for key in states}
        where = "".join(f", {count} results {state} at {name}" for (name, state), count in counts.items())
        parts.append(f"job {job.id} {job.state}{f' ({job.reason})' if job.reason else ''}{where}")
    return "; ".join(parts)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel="Look")(explain)
