"""`jobs`, `retry`, `cancel`, `acknowledge`: the queue as a person sees and moves it."""

import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomalyd.daemon.commands.opened import opened
from anomalyd.daemon.commands.options import ConfigOption, JsonOption
from anomalyd.daemon.commands.render import age, console, local, table, write_json

if TYPE_CHECKING:
    from anomalyd.daemon.settings import DaemonSettings
    from anomalyd.storage.engine import Store
    from anomalyd.storage.jobs import Job

JobArgument = Annotated[int, typer.Argument(metavar="JOB", help="Number as `anomalyd jobs` shows it.")]
JOB_STATES = ("queued", "leased", "done", "withheld", "failed", "superseded", "cancelled")


def _state(text: str | None) -> str | None:
    if text is not None and text not in JOB_STATES:
        raise typer.BadParameter(f"{text!r}: one of {', '.join(JOB_STATES)}")
    return text


def jobs(
    state: Annotated[str | None, typer.Option(callback=_state, metavar="S", help=" | ".join(JOB_STATES))] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Jobs, newest first."""
    from anomalyd.storage.jobs import jobs as all_jobs
    from anomalyd.storage.tables import JobState

    with opened(config) as (_, store):
        found = all_jobs(store, JobState(state) if state else None)
    if as_json:
        write_json([_facts(job) for job in found])
        return
    shown = table(
        "Jobs", "#job", "kind", "state", "stage", "contrast", "bundle", "#tries", "made", "took", "series", "why"
    )
    for job in found:
        took = age(job.started_at, job.finished_at) if job.started_at and job.finished_at else ""
        stage = job.stage or "" if job.state is JobState.LEASED else ""
        shown.add_row(
            str(job.id), job.kind, job.state, stage, job.contrast, job.bundle_id, str(job.attempts),
            local(job.created_at), took, job.series_uid, job.reason or "",
        )  # fmt: skip
    console().print(shown if found else "no jobs")


def _facts(job: "Job") -> dict[str, Any]:
    names = (
        "id", "state", "stage", "kind", "contrast", "bundle_id", "bundle", "study_uid", "series_uid", "instance_set",
        "attempts", "worker", "created_at", "started_at", "finished_at", "reason", "warnings", "superseded_by",
    )  # fmt: skip
    return {name: getattr(job, name) for name in names}


def retry(job: JobArgument, config: ConfigOption = None) -> None:
    """Try again: a failed, withheld or cancelled analysis, its deliveries that were refused or given up, or that it
    never had."""
    from anomalyd.daemon.wake import Role, notify
    from anomalyd.storage.deliveries import retry_deliveries
    from anomalyd.storage.jobs import job as find_job
    from anomalyd.storage.queue import JobState, retry_job

    with opened(config) as (settings, store):
        found = find_job(store, job)
        revived = retry_deliveries(store, job)
        if not revived and found.state is JobState.DONE:
            revived = _deliver(store, found, settings.daemon)
        if revived:
            notify(store.root, Role.DISPATCHER)
            typer.echo(f"job {job}: {revived} deliveries are due again")
            return
        queued = retry_job(store, job)
        notify(store.root, Role.WORKER)
        typer.echo(f"job {queued.id}: queued again")


def _deliver(store: "Store", job: "Job", daemon: "DaemonSettings") -> int:
    """Deliveries for a finished job that has none, by the configuration as it is now."""
    from anomalyd.daemon.routing import destinations_for
    from anomalyd.storage.jobs import JobKind
    from anomalyd.storage.publication import deliver_kept
    from anomalyd.storage.series import series_row
    from anomalyd.storage.withdrawing import withdrawal_of

    series = series_row(store, job.study_uid, job.series_uid)
    found = destinations_for(daemon, series.calling_ae if series else None)
    if job.kind is JobKind.REJECTION_NOTE:  # it lists what lies at one of them
        found = tuple(to for to in daemon.destinations if to.name == withdrawal_of(store, job).destination)
    kinds = {to.name: to.send for to in found}
    return deliver_kept(store, job.id, tuple(kinds), wants=lambda name, kind: kind in kinds[name])


def cancel(job: JobArgument, config: ConfigOption = None) -> None:
    """Take a job out of the queue, close a failed one, or close what was not delivered of a finished one."""
    from anomalyd.storage.deliveries import close_of_job
    from anomalyd.storage.jobs import job as find_job
    from anomalyd.storage.queue import JobState, cancel_job

    with opened(config) as (_, store):
        if find_job(store, job).state in {JobState.DONE, JobState.WITHHELD}:
            closed = close_of_job(store, job, f"closed by hand ({getpass.getuser()})")
            typer.echo(f"job {job}: {closed} deliveries closed")
            return
        cancelled = cancel_job(store, job)
    typer.echo(f"job {cancelled.id}: cancelled")


def acknowledge(
    alarm: Annotated[int, typer.Argument(metavar="ALARM", help="Number as `anomalyd status` shows it.")],
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who has looked; else the user name.")] = None,
    config: ConfigOption = None,
) -> None:
    """Close an alarm: somebody has looked."""
    from anomalyd.storage.alarms import acknowledge as close

    with opened(config) as (_, store):
        close(store, alarm, by or getpass.getuser())
    typer.echo(f"alarm {alarm}: acknowledged")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (jobs, retry, cancel, acknowledge):
        app.command(rich_help_panel="Look")(command)
