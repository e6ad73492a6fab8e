"""`audit`, `audit verify`, `audit accept-head`: asking and proving the audit log."""

import csv
import getpass
import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomalyd.daemon.commands.opened import opened
from anomalyd.daemon.commands.options import ConfigOption, JsonOption, moment, or_stdin
from anomalyd.daemon.commands.render import console, local, table

if TYPE_CHECKING:
    from anomalyd.storage.audit import AuditFilter, AuditRow
    from anomalyd.storage.engine import Store

EXIT_FAILED = 1
app = typer.Typer(invoke_without_command=True, help="What happened: by patient, study, series, order, event, time.")


@app.callback()
def audit(
    context: typer.Context,
    patient_id: Annotated[
        str | None,
        typer.Option(
            metavar="P", callback=or_stdin, help="PatientID, hashed before it is compared; - reads it from stdin."
        ),
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="UID")] = None,
    series: Annotated[str | None, typer.Option(metavar="UID")] = None,
    accession: Annotated[
        str | None,
        typer.Option(metavar="A", callback=or_stdin, help="AccessionNumber, hashed as well; - reads it from stdin."),
    ] = None,
    event: Annotated[str | None, typer.Option(metavar="E", help="One kind: received, refused, sent, ...")] = None,
    since: Annotated[str | None, typer.Option(metavar="T", help='2026-01-31, "2026-01-31 14:05", "2 h"')] = None,
    until: Annotated[str | None, typer.Option(metavar="T", help="Before this; same forms.")] = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated, with a header line.")] = False,
    config: ConfigOption = None,
) -> None:
    """Rows that match all that is asked, oldest first."""
    if context.invoked_subcommand is not None:
        context.obj = config
        return
    if as_json and as_csv:
        raise typer.BadParameter("--json or --csv, not both")
    from anomalyd.storage.audit import AuditFilter, AuditKind, query

    kinds = [kind.value for kind in AuditKind]
    if event is not None and event not in kinds:
        raise typer.BadParameter(f"--event {event!r}: one of {', '.join(kinds)}")
    wanted = AuditFilter(
        patient_id=patient_id, accession=accession, study_uid=study, series_uid=series,
        kind=AuditKind(event) if event else None, since=moment(since), until=moment(until),
    )  # fmt: skip
    with opened(config) as (_, store):
        write = _write_json if as_json else _write_csv if as_csv else _write_table
        count = write(query(store, wanted))
        _note_query(store, wanted, count)


def _note_query(store: "Store", wanted: "AuditFilter", count: int) -> None:
    """Reading the audit log is an event of its own (PS3.15 A.5.3.2): who, by which conditions, how much."""
    from anomalyd.storage.audit import AuditEvent, AuditKind, record

    asked = [field.name for field in fields(wanted) if getattr(wanted, field.name) is not None]
    detail = {"by": getpass.getuser(), "asked_by": asked, "rows": count}
    event = AuditEvent(
        kind=AuditKind.QUERIED, at=store.clock(), detail=detail, patient_hash=store.keyed_hash(wanted.patient_id),
        accession_hash=store.keyed_hash(wanted.accession), study_uid=wanted.study_uid, series_uid=wanted.series_uid,
    )  # fmt: skip
    record(store, event)


def _facts(row: "AuditRow") -> dict[str, Any]:
    """A row with the words that PS3.15 A.5 has for it."""
    from anomalyd.storage.audit import VOCABULARY, AuditKind
    from anomalyd.storage.audit_events import OUTCOME_INDICATOR, Outcome

    dicom = VOCABULARY[AuditKind(row.kind)]
    own = {field.name: getattr(row, field.name) for field in fields(row)}
    return own | {
        "at": row.at.isoformat(),
        "event_id": int(dicom.id),
        "event_type": int(dicom.type) if dicom.type else None,
        "event_action": dicom.action.value,
        "event_outcome": OUTCOME_INDICATOR[Outcome(row.outcome)],
    }


def _write_json(rows: "Iterator[AuditRow]") -> int:
    """One array, a row a line, written as it is read."""
    count = 0
    for count, row in enumerate(rows, start=1):
        typer.echo(("[" if count == 1 else ",") + json.dumps(_facts(row), default=str))
    typer.echo("]" if count else "[]")
    return count


def _write_csv(rows: "Iterator[AuditRow]") -> int:
    from anomalyd.storage.audit import AuditRow

    names = [field.name for field in fields(AuditRow)]
    names += ["event_id", "event_type", "event_action", "event_outcome"]
    writer = csv.DictWriter(sys.stdout, names)
    writer.writeheader()
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007 - the last value is the answer
        facts = _facts(row)
        writer.writerow(facts | {"detail": json.dumps(facts["detail"], default=str)})
    return count


def _write_table(rows: "Iterator[AuditRow]") -> int:
    from anomalyd.daemon.history import sentence

    shown = table("Audit log", "#row", "when", "event", "what", "series")
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007 - the last value is the answer
        shown.add_row(str(row.seq), local(row.at), row.kind, sentence(row), row.series_uid or row.study_uid or "")
    console().print(shown if count else "no rows match")
    return count


@app.command("verify")
def verify(config: ConfigOption = None) -> None:
    """Prove that no row was edited, removed, inserted, and that the end was not cut off; exit 1 if one was."""
    from anomalyd.storage.audit import AuditEvent, AuditKind, Outcome, record
    from anomalyd.storage.audit import verify as prove

    with opened(config) as (_, store):
        verdict = prove(store)
        detail = {"by": getpass.getuser(), "rows": verdict.rows, "problems": len(verdict.problems)}
        outcome = Outcome.SUCCESS if verdict.is_intact else Outcome.MAJOR
        record(store, AuditEvent(kind=AuditKind.VERIFIED, at=store.clock(), outcome=outcome, detail=detail))
    for problem in verdict.problems:
        typer.echo(problem)
    state = "intact" if verdict.is_intact else "NOT intact: keep the database as it is and call for help"
    typer.echo(f"{verdict.rows} rows, {state}; newest row {verdict.newest.seq}, hash {verdict.newest.hash}")
    if not verdict.is_intact:
        raise typer.Exit(EXIT_FAILED)


@app.command("accept-head")
def accept_head(
    why: Annotated[str, typer.Option(metavar="TEXT", help="Reason, kept in the log; no patient data.")],
    config: ConfigOption = None,
) -> None:
    """Take the present end of the log as right, after a backup was restored; stop the roles first."""
    from anomalyd.storage.audit import accept_head as accept

    with opened(config) as (_, store):
        link = accept(store, getpass.getuser(), why)
    typer.echo(f"the log ends at row {link.seq}, hash {link.hash}")


def register(top: typer.Typer) -> None:
    """Add the commands of this file."""
    top.add_typer(app, name="audit", rich_help_panel="Look")
