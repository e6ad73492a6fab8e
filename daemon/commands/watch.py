"""`watch`: what arrives, runs and leaves, as it happens."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from anomalyd.daemon.commands.opened import opened
from anomalyd.daemon.commands.options import ConfigOption
from anomalyd.daemon.commands.render import age, console, table

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from anomalyd.daemon.overview import Overview
    from anomalyd.storage.jobs import Job

EVERY_S = 0.5
RECENT = 6
STAGES = (
    "read", "orient", "brain", "register", "normalise", "reconstruct", "score", "mapback", "threshold", "measure",
    "results",
)  # fmt: skip


def watch(
    once: Annotated[bool, typer.Option("--once", help="One picture, then exit.")] = False, config: ConfigOption = None
) -> None:
    """Live view of what arrives, runs and leaves; Ctrl-C ends it."""
    from rich.live import Live

    from anomalyd.daemon.overview import overview

    out = console()
    with opened(config) as (_, store):
        if once or not out.is_terminal:
            out.print(_picture(overview(store, recent=RECENT)))
            return
        with Live(console=out, auto_refresh=False, screen=True) as live:
            try:
                while True:
                    live.update(_picture(overview(store, recent=RECENT)), refresh=True)
                    time.sleep(EVERY_S)
            except KeyboardInterrupt:
                return


def _picture(seen: "Overview") -> "Group":
    from rich.console import Group
    from rich.text import Text

    arriving = table(f"Arriving: {len(seen.receiving)} series", "series", "#images", "from", "last image")
    for series in seen.receiving:
        sender = f"{series.calling_ae or '?'} at {series.address or '?'}"
        arriving.add_row(series.series_uid, str(series.arrivals), sender, f"{age(series.last_at, seen.at)} ago")
    counted = f"Analysis: {len(seen.running)} running, {len(seen.queued)} queued"
    analysis = table(counted, "#job", "state", "progress", "#tries", "series", "why")
    for job in (*seen.running, *seen.queued, *seen.recent):
        progress = _progress(job.stage) if job in seen.running else _took(job)
        analysis.add_row(str(job.id), job.state, progress, str(job.attempts), job.series_uid, job.reason or "")
    leaving = table(
        f"Leaving: {sum(group.objects for group in seen.moving)} results", "#job", "to", "state", "#objects", "why"
    )
    for group in (*seen.stuck, *seen.moving):
        leaving.add_row(str(group.job_id), group.destination, group.state, str(group.objects), group.error or "")
    alarms = Text("no alarm", "green")
    if seen.alarms:
        alarms = Text(f"{len(seen.alarms)} alarms: see `anomalyd status`", "bold red")
    return Group(arriving, analysis, _refused(seen), leaving, alarms)


def _refused(seen: "Overview") -> "Table":
    made = table("Not analysed, newest first", "series", "last image", "why")
    for series in seen.refused:
        made.add_row(
            series.series_uid, f"{age(series.last_at, seen.at)} ago", str((series.reason or {}).get("text", ""))
        )
    return made


def _progress(stage: str | None) -> "Text":
    """A bar over the stages, and the name of the one that runs."""
    from rich.text import Text

    if stage not in STAGES:
        return Text(stage or "starting")
    done = STAGES.index(stage) + 1
    return Text.assemble(("━" * done, "cyan"), ("─" * (len(STAGES) - done), "dim"), f" {stage}")


def _took(job: "Job") -> str:
    return age(job.started_at, job.finished_at) if job.started_at and job.finished_at else ""


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel="Look")(watch)
