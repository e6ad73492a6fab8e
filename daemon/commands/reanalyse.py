"""`reanalyse`: series that another bundle or other settings have answered, analysed again, on request."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomalyd.daemon.commands.opened import opened
from anomalyd.daemon.commands.options import ConfigOption, JsonOption, moment
from anomalyd.daemon.commands.render import console, local, table, write_json
from anomalyd.errors import BadIdentifier
from anomalyd.ids import SeriesUID, series_uid

if TYPE_CHECKING:
    from anomalyd.daemon.reanalysis import Outcome

EXIT_NOTHING = 1


def _uid(text: str) -> SeriesUID:
    try:
        return series_uid(text)
    except BadIdentifier as exc:
        raise typer.BadParameter(str(exc)) from None


def reanalyse(
    series: Annotated[list[str] | None, typer.Option(metavar="UID", help="This series; repeat it.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="T", help='All received since 2026-01-31, "2026-01-31 14:05", "2 d".')
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which, and how many.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Analyse again what another bundle, or other settings, have answered; new results take the place of the old."""
    if bool(series) == bool(since):
        raise typer.BadParameter("say which: --series UID, or --since T")
    uids = [_uid(text) for text in series or ()]
    start = moment(since)
    from anomalyd.daemon.reanalysis import Reanalysis

    with opened(config) as (settings, store):
        reanalysis = Reanalysis(store, settings)
        found = reanalysis.outdated(since=start, series=uids)
        done = [one if dry_run or one.left_alone else reanalysis.queue(one) for one in found]
    unknown = [uid for uid in uids if uid not in {one.answer.series_uid for one in done}]
    if as_json:
        write_json({"series": [_facts(one) for one in done], "not_analysed": unknown, "dry_run": dry_run})
    else:
        _show(done, unknown, is_dry=dry_run)
    if unknown:
        raise typer.Exit(EXIT_NOTHING)


def _show(done: "list[Outcome]", unknown: list[SeriesUID], *, is_dry: bool) -> None:
    shown = table("Series", "series", "received", "#job", "bundle", "new bundle", "#new job", "left as it is")
    for one in done:
        answer, new = one.answer, "" if one.job_id is None else str(one.job_id)
        shown.add_row(
            answer.series_uid, local(answer.received_at), str(answer.job_id), answer.bundle_id, one.bundle_id, new,
            one.left_alone,
        )  # fmt: skip
    if done:
        console().print(shown)
    for uid in unknown:
        typer.echo(f"{uid}: not known, or not chosen for analysis: `anomalyd explain` tells")
    again = sum(not one.left_alone for one in done)
    what = "would be analysed again" if is_dry else "queued to be analysed again"
    typer.echo(f"{again} series {what}, {len(done) - again} left as they are")


def _facts(one: "Outcome") -> dict[str, Any]:
    answer = one.answer
    return {
        "study_uid": answer.study_uid,
        "series_uid": answer.series_uid,
        "received_at": answer.received_at,
        "job": answer.job_id,
        "bundle_id": answer.bundle_id,
        "new_bundle_id": one.bundle_id,
        "new_job": one.job_id,
        "left_alone": one.left_alone,
    }


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel="Look")(reanalyse)
