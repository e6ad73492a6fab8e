"""The bar of long commands: what is done, how fast, how long it still takes."""

import time
from typing import TYPE_CHECKING, Self

import typer

if TYPE_CHECKING:
    from anomalyd.pipeline.train.fit import Progress

MOST_SILENCE_S = 600.0
SPEED_OVER_S = 300.0


class Bar:
    """Progress on a terminal; in a pipe a line for each tenth of a phase, and at least every ten minutes."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True, highlight=False)
        self._is_live = console.is_terminal
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(),
        )  # fmt: skip
        self._progress = Progress(
            *columns, console=console, disable=not self._is_live, speed_estimate_period=SPEED_OVER_S
        )
        self._task = self._progress.add_task("starting", total=None)
        self._phase, self._tenth, self._spoke = "", -1, 0.0

    def __enter__(self) -> Self:
        """Begins to show."""
        self._progress.start()
        return self

    def __exit__(self, *ended: object) -> None:
        """Leaves the last state on the terminal."""
        self._progress.stop()

    def show(self, phase: str, done: int, of: int, detail: str = "") -> None:
        """Where it stands; detail: what changes while the phase lasts."""
        text = f"{phase}, {detail}" if detail else phase
        if phase != self._phase:  # a task of its own: one that goes on in the middle was not that fast before
            self._progress.remove_task(self._task)
            self._task = self._progress.add_task(text, total=of, completed=done)
            self._phase, self._tenth = phase, -1
        self._progress.update(self._task, description=text, completed=done, total=of)
        tenth = 10 * done // max(1, of)
        is_due = tenth != self._tenth or time.monotonic() - self._spoke > MOST_SILENCE_S
        if not self._is_live and is_due:
            self._tenth, self._spoke = tenth, time.monotonic()
            typer.echo(f"{text}: {done} of {of}", err=True)

    def show_training(self, now: "Progress") -> None:
        """Where a training stands: loss, rate, and in a pipe the time that is left (a terminal's bar has it)."""
        parts = []
        if now.loss is not None:
            parts.append(f"loss {now.loss:.4f}")
        if now.rate is not None:
            parts.append(f"{now.rate:.2f} steps/s")
        if now.seconds_left is not None and not self._is_live:
            hours, minutes = divmod(round(now.seconds_left / 60), 60)
            parts.append(f"{hours}:{minutes:02} h left")
        self.show(now.what, now.done, now.of, ", ".join(parts))
