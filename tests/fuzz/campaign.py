"""Many cases, each known by `kind:number`: what they were answered with, and which of them found something.

Campaign(folder).run(seeds("pdu", range(1000)))
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.parsing import judge_file, judge_peek, judge_series
from fuzz.visits import RunningGateway, visit

KEPT = Path(__file__).parent / "kept_seeds.txt"
IN_PROCESS: dict[str, Callable[[str], str]] = {"file": judge_file, "peek": judge_peek, "series": judge_series}
AT_THE_DOOR = ("dataset", "pdu")
KINDS = (*IN_PROCESS, *AT_THE_DOOR)
BATCH = 500
"""Visits between two looks at the gateway."""
REPEAT = "repeat it with: PYTHONPATH=tests .venv/bin/python -m fuzz --seed"


@dataclass
class Tally:
    """Answers by kind."""

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)

    def table(self) -> str:
        """A line for each kind: cases, then each answer with its count; the last line sums up."""
        lines = []
        for kind in KINDS:
            answers = {answer: n for (one, answer), n in sorted(self.answers.items()) if one == kind}
            told = ", ".join(f"{answer} {n}" for answer, n in answers.items())
            lines.append(f"{kind:8} {sum(answers.values()):7}  {told}")
        total = sum(self.answers.values())
        return "\n".join([*lines, f"{'all':8} {total:7}  crashes, hangs, leaks: {len(self.found)}"])


def kept_seeds() -> tuple[str, ...]:
    """Seeds that have found something once."""
    lines = (line.split("#")[0].strip() for line in KEPT.read_text().splitlines())
    return tuple(line for line in lines if line)


def seeds(kind: str, numbers: Iterable[int]) -> list[str]:
    """Of one kind."""
    return [f"{kind}:{number}" for number in numbers]


def try_files(all_seeds: Iterable[str], tally: Tally) -> None:
    """Cases that need no gateway; what is found goes into the tally."""
    for seed in all_seeds:
        kind = seed.split(":")[0]
        try:
            tally.answers[kind, IN_PROCESS[kind](seed)] += 1
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is the finding
            tally.found.append(f"{REPEAT} {seed}   # {type(exc).__name__}: {str(exc)[:200]}")
            tally.answers[kind, "FOUND"] += 1


def try_visits(all_seeds: Iterable[str], gateway: RunningGateway, tally: Tally) -> None:
    """Cases at the door, with a look after each batch: a batch with a finding names its first and last seed."""
    batch: list[str] = []
    for seed in all_seeds:
        batch.append(seed)
        kind = seed.split(":")[0]
        try:
            tally.answers[kind, visit(gateway.port, seed)] += 1
        except (OSError, AssertionError) as exc:  # TimeoutError: the gateway hangs
            tally.found.append(f"{REPEAT} {seed}   # {type(exc).__name__}: {exc}")
            tally.answers[kind, "FOUND"] += 1
        if len(batch) >= BATCH:
            look(gateway, batch, tally)
            batch = []
    look(gateway, batch, tally)


def look(gateway: RunningGateway, batch: list[str], tally: Tally) -> None:
    """What the gateway's log, files and memory say after these cases."""
    try:
        gateway.look()
    except AssertionError as exc:
        tally.found.append(f"between {batch[:1]} and {batch[-1:]}: {str(exc)[:500]} {gateway.traces()[:2]}")
