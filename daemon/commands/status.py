"""`status`: what is wrong first, since when, and what to do; then what moves."""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomalyd.daemon.commands.opened import opened
from anomalyd.daemon.commands.options import ConfigOption, JsonOption
from anomalyd.daemon.commands.render import age, console, local, size, write_json
from anomalyd.daemon.settings import DaemonSettings, Settings

if TYPE_CHECKING:
    from rich.console import Console

    from anomalyd.daemon.overview import DeliveryGroup, Overview

EXIT_FAILED = 1
CONNECT_S = 2.0
NEARLY_FULL = 32_000_000
"""What a few images at once may need, and the database for its rows: with less there is trouble whatever the floor."""
_SERIES_WORDS = {"closed": "to be judged", "ineligible": "not chosen", "queued": "chosen for analysis"}
"""States of a series as it stands when its jobs are done, too."""
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - what listens there answers on loopback


def status(
    as_json: JsonOption = False,
    health: Annotated[
        bool, typer.Option("--health", help="One line; exit 1 if a role does not answer (for a container).")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Failures and alarms first: what, since when, next step."""
    from anomalyd.daemon.overview import overview

    with opened(config) as (settings, store):
        seen = overview(store)
    roles = {**seen.roles, "gateway": _answers(settings.daemon)}
    if health:
        silent = [role for role, answers in roles.items() if not answers]
        typer.echo(f"not answering: {', '.join(silent)}" if silent else "all three roles answer")
        raise typer.Exit(EXIT_FAILED if silent else 0)
    if as_json:
        write_json(_facts(seen, roles, settings))
        return
    out = console()
    _show(out, list(_wrong(seen, roles, settings)))
    _moving(out, seen, settings)


def _answers(daemon: DaemonSettings) -> bool:
    """Whether the gateway takes a connection."""
    host = WILDCARDS.get(daemon.host, daemon.host)
    try:
        with socket.create_connection((host, daemon.port), timeout=CONNECT_S):
            return True
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class _Trouble:
    """One thing that is wrong: what, since when, what to do."""

    label: str
    style: str
    what: str
    since: str
    next_step: str


def _wrong(seen: "Overview", roles: dict[str, bool], settings: Settings) -> Iterator[_Trouble]:
    """Whatever a person must look at, worst first."""
    for role in (role for role, answers in roles.items() if not answers):
        start = f"start it (systemctl start anomalyd-{role}, or anomalyd serve) and read its log"
        yield _Trouble("DOWN", "bold red", f"{role} does not answer", "", start)
    yield from _disk(seen, settings)
    yield from _alarms(seen)
    yield from _failures(seen)
    for job in (job for job in seen.queued if job.reason):
        what = f"job {job.id} is back in the queue: {job.reason}"
        yield _Trouble("RETRY", "yellow", what, "", f"tried again at {local(job.not_before)}")
    for group in seen.retrying:
        since = f"{local(group.since)}, {group.attempts} tries"
        yield _Trouble("RETRY", "yellow", _results(group), since, f"tried again at {local(group.next_at)}")


def _disk(seen: "Overview", settings: Settings) -> Iterator[_Trouble]:
    root, free, floor = settings.storage.root, seen.free_bytes, settings.storage.disk_floor
    waiting = f"; {size(seen.bytes_without_rows)} of the log wait for their rows" if seen.bytes_without_rows else ""
    if free < floor:
        what = f"{size(free)} free under {root}, less than {size(floor)}: new associations are rejected{waiting}"
        yield _Trouble("DISK", "bold red", what, "", "make room, or lower storage.disk_floor")
    elif free < NEARLY_FULL:
        what = f"{size(free)} free under {root}, less than {size(NEARLY_FULL)}: what finds no room is refused{waiting}"
        yield _Trouble("DISK", "bold red", what, "", "make room; senders send again, and all goes on by itself")


def _alarms(seen: "Overview") -> Iterator[_Trouble]:
    for alarm in seen.alarms:
        times = f", {alarm.times} times" if alarm.times > 1 else ""
        since = f"{local(alarm.raised_at)} ({age(alarm.raised_at, seen.at)}{times})"
        close = f"{alarm.next_step}; then `anomalyd acknowledge {alarm.id}`"
        yield _Trouble(f"ALARM {alarm.id}", "bold red", alarm.text, since, close)


def _failures(seen: "Overview") -> Iterator[_Trouble]:
    """Failed jobs and deliveries that no open alarm tells already."""
    told = {(alarm.job_id, alarm.destination) for alarm in seen.alarms}
    for job in (job for job in seen.failed if (job.id, None) not in told):
        what = f"job {job.id}: {job.reason}"
        step = f"`anomalyd explain {job.series_uid}`, then `anomalyd retry {job.id}` or `anomalyd cancel {job.id}`"
        yield _Trouble("FAILED", "red", what, local(job.finished_at), step)
    for group in (group for group in seen.stuck if (group.job_id, group.destination) not in told):
        step = f"mend the destination (`anomalyd check`), then `anomalyd retry {group.job_id}`"
        yield _Trouble(group.state.upper(), "red", _results(group), local(group.since), step)


def _results(group: "DeliveryGroup") -> str:
    return f"{group.objects} results of job {group.job_id} to {group.destination}: {group.error}"


def _show(out: "Console", troubles: Sequence[_Trouble]) -> None:
    from rich.text import Text

    if not troubles:
        out.print(Text("Nothing is wrong.", "green"))
    for trouble in troubles:
        out.print(Text.assemble((trouble.label, trouble.style), "  ", trouble.what))
        if trouble.since:
            out.print(f"      since {trouble.since}")
        out.print(f"      next: {trouble.next_step}")


def _moving(out: "Console", seen: "Overview", settings: Settings) -> None:
    oldest = f", oldest {age(seen.queued[0].created_at, seen.at)}" if seen.queued else ""
    running = ", ".join(f"job {job.id} ({job.stage or 'starting'})" for job in seen.running) or "none"
    waiting = sum(group.objects for group in seen.moving)
    out.print()
    series = {_SERIES_WORDS.get(state, state): count for state, count in seen.series_counts.items()}
    out.print(f"Receiving  {len(seen.receiving)} series" + _counts(series))
    out.print(f"Queued     {len(seen.queued)} jobs{oldest}; running: {running}")
    out.print(f"Leaving    {waiting} results" + _counts(seen.delivery_counts))
    for group in (group for group in seen.moving if group.state == "sent"):
        why = f": {group.error}" if group.error else ""
        since = f"since {local(group.since)}, asked again {local(group.next_at)}"
        what = f"{group.objects} results of job {group.job_id} at {group.destination}"
        out.print(f"To confirm {what}, {since}{why}")
    if seen.pending_erasure:
        out.print(f"To erase   {seen.pending_erasure} images of purged studies, by the gateway")
    for source in seen.sources:
        ago = age(source.last_at, seen.at)
        out.print(
            f"Source     {source.calling_ae or '?'} at {source.address or '?'}: {source.images} images, last {ago} ago"
        )
    if away := seen.turned_away:
        who = f"{away.calling_ae or 'a connection'} from {away.address or 'several addresses'}"
        out.print(f"Refused    {away.times} connections in the last hour, newest {local(away.at)}, {who}")
        out.print(f"           because: {away.reason}")
    if seen.bytes_without_rows:
        out.print(f"Log        {size(seen.bytes_without_rows)} wait for their rows in the database")
    out.print(f"Disk       {size(seen.free_bytes)} free under {settings.storage.root}")


def _counts(counts: Any) -> str:
    return f" ({', '.join(f'{count} {state}' for state, count in sorted(counts.items()))})" if counts else ""


def _facts(seen: "Overview", roles: dict[str, bool], settings: Settings) -> dict[str, Any]:
    def job(row: Any) -> dict[str, Any]:
        names = ("id", "state", "stage", "series_uid", "contrast", "attempts", "reason", "created_at", "finished_at")
        return {name: getattr(row, name) for name in names}

    return {
        "at": seen.at,
        "roles": roles,
        "alarms": seen.alarms,
        "failed_jobs": [job(row) for row in seen.failed],
        "stuck_deliveries": seen.stuck,
        "retrying_deliveries": seen.retrying,
        "running": [job(row) for row in seen.running],
        "queued": [job(row) for row in seen.queued],
        "series": seen.series_counts,
        "jobs": seen.job_counts,
        "deliveries": seen.delivery_counts,
        "sources": seen.sources,
        "turned_away": seen.turned_away,
        "pending_erasure": seen.pending_erasure,
        "free_bytes": seen.free_bytes,
        "bytes_without_rows": seen.bytes_without_rows,
        "disk_floor": settings.storage.disk_floor,
    }


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel="Look")(status)
