"""`analyse`: files in, files out, without store and network."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from anomalyd.daemon.commands.options import ConfigOption, JsonOption
from anomalyd.daemon.commands.render import write_json
from anomalyd.daemon.logs import quiet_console
from anomalyd.daemon.settings import load_settings
from anomalyd.pipeline.terms import Contrast, ResultKind, Stage

if TYPE_CHECKING:
    from rich.console import Console

    from anomalyd.pipeline.offline import Offline, OnStage, Outcome
    from anomalyd.pipeline.settings import PipelineSettings

NIFTI_SUFFIXES = (".nii", ".nii.gz")
STYLES = {"analysed": "green", "ineligible": "yellow", "withheld": "yellow", "failed": "red"}


def analyse(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", exists=True, help="Folder of DICOM files, or one NIfTI file.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Where results go; made if not there.")],
    contrast: Annotated[Contrast | None, typer.Option(help="Of a NIfTI file, which does not state it.")] = None,
    bundle: Annotated[Path | None, typer.Option(metavar="PATH", exists=True, help="Instead of those in force.")] = None,
    voxel_rate: Annotated[
        float | None, typer.Option(metavar="R", min=0.0, max=1.0, help="Cut at this calibrated voxel rate.")
    ] = None,
    also: Annotated[
        list[ResultKind] | None, typer.Option(metavar="KIND", help="score_map, parametric_map, labelmap; repeat it.")
    ] = None,
    nifti: Annotated[bool, typer.Option("--nifti", help="Maps and masks as NIfTI too.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Analyse files; exit 0 whenever each report.json was written, also for ineligible and withheld series."""
    quiet_console()
    _refuse_what_cannot_be(source, contrast)
    settings = _settings(load_settings(config).pipeline, bundle, voxel_rate)
    from anomalyd.pipeline.analyse import Runtime
    from anomalyd.pipeline.offline import Request, analyse_path

    runtime = Runtime(settings.device, settings.threads)
    request = Request(settings, datetime.now(UTC), contrast=contrast, runtime=runtime, writes_nifti=nifti)
    kinds = request.kinds.union(also or ())
    with _Stages() as stages:
        done = analyse_path(source, out, replace(request, kinds=kinds, on_stage=stages.show))
    if as_json:
        _print_reports(done)
    else:
        _print_outcomes(stages.console, done)
    raise typer.Exit(done.exit_code)


def _refuse_what_cannot_be(source: Path, contrast: Contrast | None) -> None:
    """Usage errors that need no bundle to be seen."""
    if source.is_dir():
        return
    if not source.name.lower().endswith(NIFTI_SUFFIXES):
        raise typer.BadParameter(f"{source.name}: a folder of DICOM files or one file *.nii, *.nii.gz is expected")
    if contrast is None:
        raise typer.BadParameter(f"a NIfTI file states no contrast: --contrast {' | '.join(Contrast)}")


def _settings(settings: "PipelineSettings", bundle: Path | None, voxel_rate: float | None) -> "PipelineSettings":
    """The configured ones, with what the command line says in their place."""
    changes: dict[str, Any] = {}
    if bundle is not None:
        changes["bundles"] = (bundle.absolute(),)
    if voxel_rate is not None:
        changes["voxel_rate"] = voxel_rate
    return settings.model_copy(update=changes)


class _Stages:
    """One line on a terminal that says what is done; nothing in a pipe."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.console = Console(stderr=True, highlight=False)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self._task = self._progress.add_task("reading files", total=len(Stage))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._progress.stop()

    @property
    def show(self) -> "OnStage":
        """To be called as each stage begins."""
        order = list(Stage)

        def on_stage(name: str, stage: Stage) -> None:
            self._progress.update(self._task, completed=order.index(stage), description=f"{stage}  {name}")

        return on_stage


def _print_reports(done: "Offline") -> None:
    """The one report, or all of them; a series that failed has none."""
    reports = [outcome.report for outcome in done.outcomes if outcome.report is not None]
    write_json(reports[0] if len(done.outcomes) == 1 and reports else reports)


def _print_outcomes(errors: "Console", done: "Offline") -> None:
    from anomalyd.daemon.commands.render import console

    out = console()
    for path, reason in done.unreadable:
        errors.print(f"left out: {path}: {reason}", markup=False)
    if not done.outcomes:
        errors.print("anomalyd: no readable DICOM image was found in what was given")
    for outcome in done.outcomes:
        _print_outcome(out, outcome)


def _print_outcome(out: "Console", outcome: "Outcome") -> None:
    from rich.text import Text

    out.print(Text.assemble((outcome.status, STYLES[outcome.status]), f"  {outcome.series_uid or ''}  {outcome.text}"))
    report = outcome.report
    if report is None:
        return
    if report["status"] == "analysed":
        out.print(f"  score {report['score']:.3g}, higher than {report['score_percentile']:.0f} % of healthy scans")
    for number, lesion in enumerate(report["lesions"], start=1):
        x, y, z = lesion["centroid_lps_mm"]
        where = f"at LPS ({x:.1f}, {y:.1f}, {z:.1f}) mm"
        out.print(
            f"  {number}: {lesion['volume_mm3'] / 1000:.2f} ml {where}, {lesion['sign']}, max {lesion['max_score']:.3g}"
        )
    for warning in report["warnings"]:
        out.print(f"  warning: {warning}")
    out.print(f"  {outcome.folder}")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel="Use")(analyse)
