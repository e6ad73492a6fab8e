"""What was acknowledged against what is kept, and the gateway's size at the begin against the end."""

import statistics
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from sqlalchemy import select

from anomalyd.storage import tables as t
from anomalyd.storage.verify import verify
from soak.senders import Fault, Senders
from soak.watching import Watching

GROWTH_LIMIT = 0.10
"""Of the gateway's resident size over the whole run."""
PARTS = 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """Counts of images, then of what is wrong."""

    sent_s: float
    acknowledged: int
    kept: int
    faults: Counter[Fault]
    refused: Counter[int]
    lost: int
    duplicated: int
    unexpected: int
    problems: tuple[str, ...]
    sizes_mb: tuple[float, ...]
    """Median resident size in each tenth of the run."""

    @property
    def is_bad(self) -> bool:
        """Whether anything is not as it was acknowledged."""
        return bool(self.lost or self.duplicated or self.unexpected or self.problems)

    @property
    def growth(self) -> float:
        """Of the last tenth over the second: the first fills caches."""
        return self.sizes_mb[-1] / self.sizes_mb[1] - 1.0


def compare(watching: Watching, senders: Senders) -> Outcome:
    """Ends the roles, after which all rows stand; then every byte is read and hashed."""
    watching.stop()
    took = watching.sizes[-1][0]
    wanted = set(senders.acknowledged)
    store = watching.daemon.open_store()
    try:
        with store.read() as connection:
            kept = [(u, s) for u, s in connection.execute(select(t.Instance.instance_uid, t.Instance.sha256))]
        verdict = verify(store)
    finally:
        store.close()
    return Outcome(
        sent_s=took,
        acknowledged=len(wanted),
        kept=len(kept),
        faults=senders.faults,
        refused=senders.refused,
        lost=len(wanted - set(kept)),
        duplicated=len(kept) - len(set(kept)),
        unexpected=len(set(kept) - wanted),
        problems=tuple(problem.text for problem in verdict.problems),
        sizes_mb=_by_parts([size for _, size in watching.sizes]),
    )


def _by_parts(sizes: list[float]) -> tuple[float, ...]:
    """Medians of PARTS stretches of the same length."""
    last = len(sizes) - 1
    edges = [round(part * len(sizes) / PARTS) for part in range(PARTS + 1)]
    return tuple(statistics.median(sizes[min(begin, last) : max(end, begin + 1)]) for begin, end in pairwise(edges))


def table(outcome: Outcome) -> str:
    """In Markdown."""
    faults = ", ".join(f"{fault} {times}" for fault, times in sorted(outcome.faults.items()))
    refused = ", ".join(f"0x{status:04X} {times}" for status, times in sorted(outcome.refused.items())) or "none"
    rows = {
        "images acknowledged, each its own content": outcome.acknowledged,
        "faults among them": f"{sum(outcome.faults.values())}: {faults}",
        "statuses that were no success": refused,
        "kept": outcome.kept,
        "lost / duplicated / never acknowledged": f"{outcome.lost} / {outcome.duplicated} / {outcome.unexpected}",
        "problems that `anomalyd verify` finds (every byte, every audit row)": len(outcome.problems),
        "seconds, images/s": f"{outcome.sent_s:.0f}, {outcome.acknowledged / outcome.sent_s:.0f}",
        "resident MB of the gateway by tenths of the run": ", ".join(f"{size:.1f}" for size in outcome.sizes_mb),
        "growth from the second tenth to the last": f"{100 * outcome.growth:.1f} %",
    }
    return "\n".join(["| soak | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
