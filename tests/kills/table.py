"""What a campaign has to say: one line for each kind of victim, and each failure in words."""

from collections import Counter
from collections.abc import Iterable

from kills.campaign import Trial, Victim
from kills.judge import Findings

_HEAD = "| killed | trials | kills | while | images acknowledged | lost | duplicated | stuck | s |"


def line(trial: Trial) -> str:
    """While it runs."""
    sets = f"{trial.acknowledged} acknowledged over {sum(s.associations for s in trial.senders)} associations"
    verdict = "; ".join(trial.findings.all) or "all there, once"
    return f"{trial.number:3} {trial.victim}, {trial.moment}: {sets}, {trial.took_s:.1f} s: {verdict}"


def table(trials: Iterable[Trial], whole: Findings) -> str:
    """A table in Markdown; whole: of the store and the PACS at the end."""
    rows = [_HEAD, "|" + "---|" * (_HEAD.count("|") - 1)]
    by_victim: dict[Victim, list[Trial]] = {}
    for trial in trials:
        by_victim.setdefault(trial.victim, []).append(trial)
    rows += [_row(victim, its) for victim, its in by_victim.items()]
    counts = " | ".join(str(len(found)) for found in (whole.lost, whole.duplicated, whole.stuck))
    rows.append(f"| store, audit log and PACS in the end | | | | | {counts} | |")
    return "\n".join(rows)


def _row(victim: Victim, trials: list[Trial]) -> str:
    found = Findings()
    for trial in trials:
        found.add(trial.findings)
    moments = Counter(trial.moment for trial in trials)
    cells = (
        victim,
        len(trials),
        sum(trial.kills for trial in trials),
        ", ".join(f"{moment} {times}" for moment, times in sorted(moments.items())),
        sum(trial.acknowledged for trial in trials),
        len(found.lost),
        len(found.duplicated),
        len(found.stuck),
        f"{sum(trial.took_s for trial in trials):.0f}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"
