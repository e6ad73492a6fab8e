"""Measuring: cases of one bench in turns, so that what the machine does meanwhile falls on all of them alike.

A bench is a module of this folder with `CASES` (and `ROUNDS`, if 5 are too many). `make bench` runs them all,
`PYTHONPATH=tests python -m bench receive` one of them. Figures are medians, in one line of docs/bench/NAME.jsonl a run.
"""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

CHECKOUT = Path(__file__).resolve().parents[2]
ROUNDS = 5
Figures = Mapping[str, float]
Measure = Callable[[], Figures]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure beside the others of its bench.

    opened: sets up (a daemon, a warm worker) and gives the function that measures once; its figures have the unit in
    their name ("images_per_s", "peak_mb").
    """

    name: str
    opened: Callable[[], AbstractContextManager[Measure]]


def run_bench(name: str, cases: Sequence[Case], *, rounds: int, console: Console, records: Path) -> dict[str, Figures]:
    """Medians by case; the same go as one line of JSON into records/NAME.jsonl."""
    measured: dict[str, list[Figures]] = {case.name: [] for case in cases}
    with ExitStack() as stack:
        measures = [(case.name, stack.enter_context(case.opened())) for case in cases]
        for turn in range(rounds):
            for case, measure in measures if turn % 2 == 0 else reversed(measures):
                measured[case].append(measure())
                console.print(f"  {name} {turn + 1}/{rounds} {case}: {_in_words(measured[case][-1])}", highlight=False)
    medians = {case: _medians(figures) for case, figures in measured.items()}
    console.print(_table(name, medians, rounds))
    records.mkdir(parents=True, exist_ok=True)
    line = {"bench": name, **where_and_what(), "rounds": rounds, "median": medians}
    with (records / f"{name}.jsonl").open("a") as out:
        out.write(json.dumps(line) + "\n")
    return medians


def where_and_what() -> dict[str, object]:
    """Machine, commit and time, without the machine's name."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    memory_kb = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short=12", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else ""),
        "cpu": cpu or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory_kb / 1e6, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def peak_mb(pid: int) -> float:
    """Largest resident size that a process has had, in MB (10^6 bytes)."""
    return next(int(line.split()[1]) for line in _lines(f"/proc/{pid}/status") if line.startswith("VmHWM")) * 1024 / 1e6


def _medians(figures: Sequence[Figures]) -> Figures:
    return {key: round(statistics.median(one[key] for one in figures), 3) for key in figures[0]}


def _in_words(figures: Figures) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in figures.items())


def _table(name: str, medians: Mapping[str, Figures], rounds: int) -> Table:
    table = Table(title=f"{name}: median of {rounds}", title_justify="left")
    columns = dict.fromkeys(key for figures in medians.values() for key in figures)
    table.add_column("case")
    for key in columns:
        table.add_column(key, justify="right")
    for case, figures in medians.items():
        table.add_row(case, *(f"{figures[key]:.4g}" if key in figures else "" for key in columns))
    return table


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return run.stdout.strip()
