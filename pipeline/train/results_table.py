"""results.csv and results.md of an evaluation: every figure with its spread, and what it was made with."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomalyd.pipeline.bundle import Bundle
from anomalyd.pipeline.results.version import package_versions
from anomalyd.pipeline.stages.threshold import Cut
from anomalyd.pipeline.train.agreement import LesionCounts, Ranking
from anomalyd.pipeline.train.baselines import SHIPPED_NAME, MapName

BOOTSTRAPS = 2000
NO_VALUE = "-"


@dataclass(frozen=True, slots=True)
class ScanResult:
    """One scan; without an expert mask it is healthy. dice, counts, false_ml and marked_share: at the bundle's cut.

    false_ml: marked volume outside the expert's mask. marked_share: share of the brain's voxels at or above the cut.
    shares: the same for the cut of each calibrated voxel rate, by rate. rankings: of each map; empty if healthy.
    """

    name: str
    lesion_ml: float
    dice: float
    counts: LesionCounts
    false_ml: float
    marked_share: float
    shares: dict[float, float]
    rankings: dict[MapName, Ranking]

    @property
    def is_healthy(self) -> bool:
        """Nothing was drawn."""
        return self.counts.lesions == 0


@dataclass(frozen=True, slots=True)
class Run:
    """What was evaluated, at which cut, and the command line that did it."""

    bundle: Bundle
    cut: Cut
    command: str


def overlay_title(result: ScanResult) -> str:
    """One scan in one line."""
    c = result.counts
    found = f"{c.findings} findings, {c.false} false"
    if result.is_healthy:
        return f"{result.name}: healthy; {found}"
    auprc = result.rankings[SHIPPED_NAME].auprc
    lesions = f"{c.found} of {c.lesions} lesions found ({result.lesion_ml:.1f} ml)"
    return f"{result.name}: {lesions}; {found}; Dice {result.dice:.2f}, AUPRC {auprc:.2f}"


def write_csv(path: Path, results: Sequence[ScanResult]) -> None:
    """One row per scan and map; what is known at the bundle's cut alone stands in the rows of its own score."""
    rates = sorted({rate for result in results for rate in result.shares})
    head = ["scan", "map", "processing", "lesion_ml", "auprc", "best_dice", "best_cut", "dice"]
    head += ["lesions", "lesions_found", "findings", "false_findings", "false_ml", "marked_share"]
    head += [f"share_at_rate_{rate:g}" for rate in rates]
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(head)
        for result in results:
            for name in result.rankings or (SHIPPED_NAME,):
                at_cut = _at_cut(result, rates) if name == SHIPPED_NAME else [""] * (len(head) - 7)
                writer.writerow([result.name, name.map, name.processing, f"{result.lesion_ml:.3f}",
                                 *_ranked(result.rankings.get(name)), *at_cut])  # fmt: skip


def _ranked(ranking: Ranking | None) -> list[str]:
    if ranking is None:
        return ["", "", ""]
    return [f"{ranking.auprc:.4f}", f"{ranking.best_dice:.4f}", f"{ranking.best_cut:.5g}"]


def _at_cut(result: ScanResult, rates: Sequence[float]) -> list[str]:
    c = result.counts
    counts = [str(n) for n in (c.lesions, c.found, c.findings, c.false)]
    shares = [f"{share:.5f}" for share in (result.marked_share, *(result.shares[rate] for rate in rates))]
    return ["" if result.is_healthy else f"{result.dice:.4f}", *counts, f"{result.false_ml:.3f}", *shares]


def write_markdown(path: Path, run: Run, results: Sequence[ScanResult], skipped: Sequence[tuple[str, str]]) -> None:
    """The tables for people: means over scans, standard deviation, and the middle 95 % of bootstrapped means."""
    model, mode = run.bundle.model, run.cut.mode
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    made_with = f"Bundle digest `{model.digest}`; score: {mode}; cut at {run.cut.threshold:.4g}: {run.cut.text}."
    how = f"Mean ± standard deviation over scans [95 % bootstrap interval of the mean, {BOOTSTRAPS} draws of scans]."
    lines = [f"# {model.bundle_id} ({model.contrast})", ""]
    lines += [f"    {run.command}", ""] if run.command else []
    lines += [made_with, f"Computed with {versions}.", "", how]
    sick = [result for result in results if not result.is_healthy]
    healthy = [result for result in results if result.is_healthy]
    lines += _sick_lines(sick) if sick else []
    lines += _healthy_lines(healthy) if healthy else []
    lines += ["", "Left out:", "", *(f"* {name}: {reason}" for name, reason in skipped)] if skipped else []
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _sick_lines(sick: Sequence[ScanResult]) -> list[str]:
    volumes = f"{min(r.lesion_ml for r in sick):.1f} to {max(r.lesion_ml for r in sick):.1f} ml"
    lines = ["", f"## {len(sick)} scans with lesions ({volumes} per scan)", ""]
    lines += ["| at the bundle's cut | |", "|---|---|"]
    lines += [f"| {what} | {summary(values)} |" for what, values in _cut_rows(sick)]
    lines += [
        "",
        "| map | processing | AUPRC | best Dice | AUPRC of the bundle's score minus this |",
        "|---|---|---|---|---|",
    ]
    shipped = [r.rankings[SHIPPED_NAME].auprc for r in sick]
    for name in sick[0].rankings:
        ranked = [r.rankings[name] for r in sick]
        ahead = [a - b.auprc for a, b in zip(shipped, ranked, strict=True)]
        cells = [summary([r.auprc for r in ranked]), summary([r.best_dice for r in ranked])]
        cells.append(NO_VALUE if name == SHIPPED_NAME else summary(ahead))
        lines.append(f"| {name.map} | {name.processing} | {' | '.join(cells)} |")
    return lines


def _cut_rows(sick: Sequence[ScanResult]) -> list[tuple[str, list[float]]]:
    return [
        ("Dice", [r.dice for r in sick]),
        ("lesion-wise recall", [r.counts.recall for r in sick]),
        ("lesion-wise precision (scans with a finding)", [r.counts.precision for r in sick]),
        ("findings per scan", [float(r.counts.findings) for r in sick]),
        ("false findings per scan", [float(r.counts.false) for r in sick]),
        ("false-positive volume, ml", [r.false_ml for r in sick]),
    ]


def _healthy_lines(healthy: Sequence[ScanResult]) -> list[str]:
    rows = [
        ("findings per scan at the bundle's cut", [float(r.counts.findings) for r in healthy]),
        ("marked volume at the bundle's cut, ml", [r.false_ml for r in healthy]),
        ("share of the brain at or above the bundle's cut, %", [100.0 * r.marked_share for r in healthy]),
    ]
    rows += [
        (f"the same at voxel rate {rate:.0%}, %", [100.0 * r.shares[rate] for r in healthy])
        for rate in healthy[0].shares
    ]
    lines = ["", f"## {len(healthy)} healthy scans", "", "| | |", "|---|---|"]
    return [*lines, *(f"| {what} | {summary(values)} |" for what, values in rows)]


def summary(values: Iterable[float]) -> str:
    """`mean ± sd [low, high]` of the values that are numbers, one value as it is; the bootstrap's seed is fixed."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not known.size:
        return NO_VALUE
    if known.size == 1:
        return f"{known[0]:.3f}"
    drawn = np.random.default_rng(0).choice(known, (BOOTSTRAPS, known.size)).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{known.mean():.3f} ± {known.std(ddof=1):.3f} [{low:.3f}, {high:.3f}]"
