"""The long run of `make faults`: roles killed at random moments, with a table; exit code 1 where anything was found."""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from conftest import CHECKOUT
from demo.head import make_head
from kills.campaign import VICTIMS, Analysed, Campaign, Trial, Victim
from kills.judge import Findings
from kills.scans import tiny_analysed
from kills.table import line, table
from phantoms import PhantomWriter, WrittenSeries

SHIPPED = CHECKOUT / "pipeline" / "bundles" / "t1w-compact"
SHARES: dict[Victim, float] = {"gateway": 0.3, "dispatcher": 0.3, "worker": 0.2, "all three": 0.2}
"""A worker takes four times as long to start as the others."""


def shipped_analysed() -> Analysed:
    """The demonstration's head in 44 sagittal slices, and the bundle that comes with the package."""
    head = make_head().volume

    def write(seed: str, folder: Path) -> WrittenSeries:
        writer = PhantomWriter(plane="sagittal", spacing_mm=(4.0, 2.0, 2.0), seed=seed)
        return writer.write_volume(head, folder)

    return Analysed(SHIPPED, write, analysis_s=20.0, limit_s=600.0)


def victims(trials: int, seed: int) -> Sequence[Victim]:
    """Of so many trials, shuffled."""
    wanted: list[Victim] = [victim for victim in VICTIMS for _ in range(round(SHARES[victim] * trials))]
    random.Random(seed).shuffle(wanted)
    return wanted


def run(analysed: Analysed, folder: Path, trials: int, seed: int, limit_s: float) -> tuple[list[Trial], Findings]:
    """All trials on one installation, or as many as were begun within limit_s."""
    done: list[Trial] = []
    ends = time.monotonic() + limit_s
    with Campaign(folder, analysed, seed=seed) as campaign:
        for victim in victims(trials, seed):
            if time.monotonic() > ends:
                break
            done.append(campaign.settle(campaign.strike(victim)))
            sys.stdout.write(line(done[-1]) + "\n")
            sys.stdout.flush()
        return done, campaign.judge_whole()


def main() -> int:
    """Parses, runs, prints."""
    parser = argparse.ArgumentParser(prog="python -m kills", description=__doc__)
    parser.add_argument("--trials", type=int, default=200, help="with a bundle that is made for it")
    parser.add_argument("--shipped", type=int, default=10, help="with the bundle that comes with the package")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after so many no other trial is begun")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of all that is drawn")
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}, {len(os.sched_getaffinity(0))} cores\n")
    bad = 0
    with tempfile.TemporaryDirectory(prefix="anomalyd-kills-") as name:
        for what, trials, make in _runs(Path(name), options.trials, options.shipped):
            done, whole = run(make, Path(name) / what, trials, options.seed, 60.0 * options.minutes)
            sys.stdout.write(f"\n{what} bundle\n{table(done, whole)}\n\n")
            found = [text for each in (*(trial.findings for trial in done), whole) for text in each.all]
            sys.stdout.write("".join(f"{text}\n" for text in found))
            bad += len(found)
    return int(bad > 0)


def _runs(folder: Path, trials: int, shipped: int) -> Iterator[tuple[str, int, Analysed]]:
    if trials:
        yield "tiny", trials, tiny_analysed(folder / "bundle")
    if shipped:
        yield "shipped", shipped, shipped_analysed()


if __name__ == "__main__":
    raise SystemExit(main())
