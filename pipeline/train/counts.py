"""What each possible cut marks in healthy scans, and the thresholds that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anomalyd.pipeline.bundle import CrossValidation, ModeCalibration, OperatingPoint, VoxelRate
from anomalyd.pipeline.stages.mapback import SourceMaps
from anomalyd.pipeline.stages.measure import large_regions, regions
from anomalyd.pipeline.train.cohort import Scan
from anomalyd.pipeline.volume import Volume

VOXEL_RATES = (0.01, 0.05, 0.10)
ALLOWED_FINDINGS = 1.0  # of a healthy scan: the default of pipeline.false_findings_per_scan
THRESHOLDS = np.geomspace(0.02, 60.0, 200)
"""Candidate cuts, 4 % apart: the score's scale is not known beforehand (paper: up to 2, normative: z-scores)."""
FLOODED_SHARE = 0.05  # of the brain: above this a map is not counted, it is flooded
FLOODED = 200.0
MOST_FINDINGS = 20.0  # more is no operating point
MIN_SITES = 3
FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class ScanCounts:
    """At each of THRESHOLDS: components in the scan, and the share of its brain voxels."""

    findings: NDArray[np.float64]
    share: NDArray[np.float64]
    scan_score: float


def count_scan(maps: SourceMaps, volume: Volume, scan_score: float) -> ScanCounts:
    """What each candidate cut would mark in one healthy scan."""
    values = np.sort(maps.score[maps.brain])
    share = 1.0 - np.searchsorted(values, THRESHOLDS, side="left") / max(1, len(values))
    findings = np.zeros(len(THRESHOLDS))
    for k, threshold in enumerate(THRESHOLDS):
        if share[k] > FLOODED_SHARE:
            findings[k] = FLOODED
        elif share[k] > 0:
            labels = regions(maps.score, float(threshold), maps.brain, volume.interpolated_slices)
            findings[k] = min(FLOODED, len(large_regions(labels, volume.grid)))
    return ScanCounts(findings, share, scan_score)


def calibrated(scans: Sequence[Scan], counts: Sequence[ScanCounts]) -> ModeCalibration:
    """What one mode's counts give: thresholds with 20 down to 0 findings per scan, voxel rates, scan scores."""
    findings = _mean_findings(counts)
    used = [k for k in range(len(THRESHOLDS)) if findings[k] <= MOST_FINDINGS]
    last = next((position for position, k in enumerate(used) if findings[k] == 0.0), len(used) - 1)
    return ModeCalibration(
        operating_points=tuple(
            OperatingPoint(threshold=_short(THRESHOLDS[k]), findings_per_scan=_short(findings[k]))
            for k in used[: last + 1]
        ),
        voxel_rates=tuple(VoxelRate(rate=rate, threshold=_short(_at_share(counts, rate))) for rate in VOXEL_RATES),
        scan_scores=tuple(sorted(_short(c.scan_score) for c in counts)),
        cross_validation=_cross_validated(scans, counts),
    )


def operating_index(counts: Sequence[ScanCounts], allowed: float) -> int:
    """Which of THRESHOLDS is the lowest with at most the allowed findings per scan; the last where none is."""
    enough = np.flatnonzero(_mean_findings(counts) <= allowed)
    return int(enough[0]) if len(enough) else len(THRESHOLDS) - 1


def groups_of(scans: Sequence[Scan]) -> tuple[Literal["site", "subject"], tuple[str, ...]]:
    """What is left out together, and the group of each scan: its site, or one of FOLDS lots of subjects."""
    sites = tuple(scan.site for scan in scans)
    if len(set(sites)) >= MIN_SITES:
        return "site", sites
    lots = {subject: k % FOLDS for k, subject in enumerate(sorted({scan.subject for scan in scans}))}
    return "subject", tuple(str(lots[scan.subject]) for scan in scans)


def _cross_validated(scans: Sequence[Scan], counts: Sequence[ScanCounts]) -> CrossValidation | None:
    """What cuts chosen on the other groups let through in each; None where there is one group only."""
    by, groups = groups_of(scans)
    if len(set(groups)) < 2:  # noqa: PLR2004 - nobody else is left
        return None
    findings, shares = np.zeros(len(counts)), np.zeros((len(counts), len(VOXEL_RATES)))
    for group in set(groups):
        others = [found for found, where in zip(counts, groups, strict=True) if where != group]
        at = operating_index(others, ALLOWED_FINDINGS)
        cuts = [_at_share(others, rate) for rate in VOXEL_RATES]
        for k, found in enumerate(counts):
            if groups[k] == group:
                findings[k] = found.findings[at]
                shares[k] = np.interp(cuts, THRESHOLDS, found.share)
    means = [float(findings[np.array(groups) == group].mean()) for group in sorted(set(groups))]
    return CrossValidation(
        by=by,
        groups=len(means),
        allowed_findings=ALLOWED_FINDINGS,
        findings_per_scan=_short(findings.mean()),
        worst_group=_short(max(means)),
        voxel_shares={rate: _short(share) for rate, share in zip(VOXEL_RATES, shares.mean(axis=0), strict=True)},
    )


def _mean_findings(counts: Sequence[ScanCounts]) -> NDArray[np.float64]:
    """Findings per scan at each of THRESHOLDS, never rising."""
    findings = np.mean([c.findings for c in counts], axis=0)
    # Counts may rise before they fall (a flood breaks into islands): from the highest cut down, never fewer again.
    return np.asarray(np.maximum.accumulate(findings[::-1])[::-1])


def _at_share(counts: Sequence[ScanCounts], rate: float) -> float:
    """The threshold that this share of brain voxels reaches; linear between candidates."""
    share = np.mean([c.share for c in counts], axis=0)
    return float(np.interp(-rate, -share, THRESHOLDS))


def _short(value: float | np.float64) -> float:
    """Six significant digits: enough to cut at, short enough to read."""
    return float(f"{float(value):.6g}")
