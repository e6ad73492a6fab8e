"""What the demo prints: a live table while it runs, then where everything lies and whether the lesion was found."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from anomalyd.ids import SeriesUID
from demo.follow import Outcome, SentSeries, View
from demo.head import LESION_RADIUS_MM, MadeHead
from demo.readback import ReadResults

COLOURS = {
    Outcome.RETURNED: "green",
    Outcome.REFUSED: "yellow",
    Outcome.WITHHELD: "yellow",
    Outcome.NOT_STORED: "yellow",
    Outcome.FAILED: "red",
}
MARKED_MM = 1.0  # from the lesion's middle to a marked voxel's centre: a voxel of 1 mm


@dataclass(frozen=True, slots=True)
class SeriesReport:
    """What is known about one series at the end."""

    sent: SentSeries
    view: View
    results: ReadResults | None
    """As read back from the PACS; None: nothing came."""
    sheet: Path | None
    trail: Path

    @property
    def is_complete(self) -> bool:
        """Results were read back where there must be some, and a reason was given where there are none."""
        if self.view.outcome is Outcome.RETURNED:
            back = self.results
            return back is not None and bool(back.heatmaps and back.summary and back.report) and self.sheet is not None
        return self.view.outcome is not Outcome.FAILED and bool(self.view.why)


class LiveView:
    """The table that moves: each series and the step it is at. Without a terminal: a line for each new step."""

    def __init__(self, console: Console, series: Sequence[SentSeries]) -> None:
        self._console, self._series = console, series
        self.views: dict[SeriesUID, View] = {}
        self.changed_at = self._begun_at = time.monotonic()
        self._sent_at: float | None = None
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._table, transient=True)

    def __enter__(self) -> Self:
        """Begins to show."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the last state on the screen."""
        self._live.stop()
        if self._console.is_terminal:
            self._console.print(self._table())
        if self._sent_at is not None and error is None:
            waited = time.monotonic() - self._sent_at
            self._console.print(
                f"[bold]time[/]      {waited:.1f} s from the last image sent to the last result in the PACS"
            )

    def all_sent(self) -> None:
        """The clock of the way back starts."""
        self._sent_at = time.monotonic()

    def update(self, views: Mapping[SeriesUID, View]) -> bool:
        """Shows where the series stand; True when all have ended."""
        for sent in self._series:
            view = views[sent.uid]
            if view == self.views.get(sent.uid):
                continue
            self.changed_at = time.monotonic()
            known = self.views.get(sent.uid)
            self.views[sent.uid] = view
            if not self._console.is_terminal and (known is None or _kind(known) != _kind(view)):
                self._console.print(f"{self.changed_at - self._begun_at:7.1f} s  {sent.name}: {_state(view)}")
        return all(view.outcome is not None for view in views.values())

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2))
        for column in ("series", "images", "where it is"):
            table.add_column(column)
        for sent in self._series:
            view = self.views.get(sent.uid, View("waits to be sent"))
            colour = COLOURS[view.outcome] if view.outcome else "cyan"
            table.add_row(sent.name, str(len(sent.files)), f"[{colour}]{_state(view)}")
        table.caption = f"{time.monotonic() - self._begun_at:.0f} s"
        return table


def _kind(view: View) -> tuple[Outcome | None, str]:
    """A step without its counts."""
    return view.outcome, view.step.rstrip("0123456789 of")


def _state(view: View) -> str:
    if view.outcome is None:
        return view.step
    return f"{view.outcome.value}: {view.why}" if view.why else view.outcome.value


def show_series(console: Console, reports: Sequence[SeriesReport], config: Path) -> None:
    """Where the results, the contact sheet and the audit trail of each series are."""
    for report in reports:
        console.print()
        console.rule(f"{report.sent.name}  ({len(report.sent.files)} images)", align="left")
        console.print(f"outcome        {_state(report.view)}")
        if report.results is not None and report.results.seg is not None:
            console.print(f"SEG            {report.results.seg}", soft_wrap=True)
            for segment in report.results.segments:
                x, y, z = segment.centroid_lps
                console.print(
                    f"               {segment.label}: {segment.volume_ml:.2f} ml at LPS ({x:.1f}, {y:.1f}, {z:.1f}) mm"
                )
        elif report.results is not None:
            console.print("SEG            none: no candidate region was found")
        if report.results is not None and report.results.heatmaps:
            first = report.results.heatmaps[0]
            console.print(f"heatmaps       {len(report.results.heatmaps)} images, the first is {first}", soft_wrap=True)
        for what, path in (
            ("summary", report.results and report.results.summary),
            ("report", report.results and report.results.report),
        ):
            if path is not None:
                console.print(f"{what:<14} {path}", soft_wrap=True)
        if report.sheet is not None:
            console.print(f"contact sheet  {report.sheet}", soft_wrap=True)
        console.print(f"audit trail    {report.trail}", soft_wrap=True)
        console.print(
            f"               again: .venv/bin/anomalyd explain {report.sent.uid} --config {config}", soft_wrap=True
        )
    console.print()


def show_lesion(console: Console, made: MadeHead, results: ReadResults | None) -> None:
    """Says whether what was put in was found, how far off, and what else was marked."""
    segments = results.segments if results is not None else ()
    at = tuple(round(c, 1) for c in made.lesion_lps)
    console.print(f"[bold]put in[/]    {made.lesion_ml:.1f} ml at LPS {at} mm")
    if not segments:
        console.print("[bold yellow]found[/]     no: nothing was marked")
        return
    off = [segment.distance_mm(made.lesion_lps) for segment in segments]
    segment, others = segments[int(np.argmin(off))], len(segments) - 1
    centre_off = float(np.linalg.norm(np.subtract(segment.centroid_lps, made.lesion_lps)))
    what = f"{segment.label} ({segment.volume_ml:.1f} ml)"
    if min(off) > MARKED_MM:
        console.print(
            f"[bold yellow]found[/]     no: the nearest marked region, {what}, begins {min(off):.1f} mm from its middle"
        )
        others += 1
    elif centre_off <= LESION_RADIUS_MM:
        console.print(f"[bold green]found[/]     yes: {what}, {centre_off:.1f} mm from the place it was put in")
    else:
        console.print(f"[bold green]found[/]     yes, as a part of {what}: more is marked around it than was put in")
    if others:
        console.print(
            f"          other marked regions, which are false findings: {others} (a made head is no person's)"
        )
