"""Thresholds of a bundle, counted on healthy scans with the very analysis that patients get."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomalyd.errors import AnomalydError, ConfigError
from anomalyd.pipeline.analyse import Runtime, judge, onto_source, place, rescore
from anomalyd.pipeline.bundle import (
    CALIBRATION,
    Bundle,
    Calibration,
    ModeCalibration,
    OperatingPoint,
    VoxelRate,
    load_bundle,
    seal,
)
from anomalyd.pipeline.nifti import read_nifti
from anomalyd.pipeline.stages.mapback import SourceMaps
from anomalyd.pipeline.stages.measure import large_regions, regions
from anomalyd.pipeline.terms import ScoreMode
from anomalyd.pipeline.train.cohort import Scan, list_scans
from anomalyd.pipeline.volume import Grid

MIN_SCANS = 5
ADVISED_SCANS = 20
VOXEL_RATES = (0.01, 0.05, 0.10)
THRESHOLDS = np.geomspace(0.02, 60.0, 200)
"""Candidate cuts, 4 % apart: the score's scale is not known beforehand (paper: up to 2, normative: z-scores)."""
FLOODED_SHARE = 0.05  # of the brain: above this a map is not counted, it is flooded
FLOODED = 200.0


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What a calibration stands on. skipped: (file name, reason)."""

    bundle: Path
    scans: int
    skipped: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    threshold: float
    findings_per_scan: float


@dataclass(frozen=True, slots=True, eq=False)
class ScanCounts:
    """At each of THRESHOLDS: components in the scan, and the share of its brain voxels."""

    findings: NDArray[np.float64]
    share: NDArray[np.float64]
    scan_score: float


def calibrate_bundle(
    bundle: Path,
    healthy: Path,
    *,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> CalibrationReport:
    """calibration.json (and the hashes) rewritten from the healthy scans of a folder; nothing else changes.

    Scans of people who trained the bundle are left out. Raises ConfigError with fewer than MIN_SCANS scans.
    """
    loaded = load_bundle(bundle)
    trained = {name for source in loaded.description.training.sources for name in source.subjects}
    scans = list_scans(healthy, loaded.model.contrast)
    unseen = tuple(scan for scan in scans if scan.subject not in trained)
    skipped = [(scan.path.name, "its subject trained the bundle") for scan in scans if scan.subject in trained]
    counts, failed = count_scans(loaded, unseen, device, on_progress)
    skipped += failed
    if len(counts) < MIN_SCANS:
        raise ConfigError(
            f"{len(counts)} usable {loaded.model.contrast} scans of people that did not train the bundle, at least "
            f"{MIN_SCANS} are needed"
        )
    names = {name for name, _ in skipped}
    subjects = tuple(sorted({scan.subject for scan in unseen if scan.path.name not in names}))
    calibration = Calibration(
        scans=len(counts),
        subjects=subjects,
        note="counted on healthy scans of people that did not train the network, with the analysis that patients get",
        modes={mode: calibrated([found[mode] for _, found in counts]) for mode in loaded.modes},
    )
    (bundle / CALIBRATION).write_text(calibration.model_dump_json(indent=1) + "\n", encoding="utf-8")
    seal(bundle)
    few = f"{len(counts)} scans: thresholds from fewer than {ADVISED_SCANS} are rough"
    points = calibration.modes[loaded.modes[0]].operating_points
    point = next((p for p in points if p.findings_per_scan <= 1.0), None)
    return CalibrationReport(
        bundle,
        len(counts),
        tuple(skipped),
        (few,) if len(counts) < ADVISED_SCANS else (),
        point.threshold if point else math.inf,
        point.findings_per_scan if point else 0.0,
    )


def count_scans(
    bundle: Bundle, scans: tuple[Scan, ...], device: str, on_progress: Callable[[int, int], None]
) -> tuple[list[tuple[Scan, dict[ScoreMode, ScanCounts]]], list[tuple[str, str]]]:
    """Counts of each scan that can be judged, by score mode, and (file name, reason) of the others."""
    counts: list[tuple[Scan, dict[ScoreMode, ScanCounts]]] = []
    failed: list[tuple[str, str]] = []
    runtime = Runtime("cuda" if device == "cuda" else "cpu")
    for number, scan in enumerate(scans):
        on_progress(number, len(scans))
        try:
            volume = read_nifti(scan.path)
            first = judge(place(volume, bundle), bundle, runtime=runtime, seed_text=scan.path.name)
        except AnomalydError as exc:
            failed.append((scan.path.name, str(exc)))
            continue
        by_mode = {}
        for mode in bundle.modes:
            judged = rescore(first, bundle, mode)
            by_mode[mode] = count_scan(onto_source(volume, judged, bundle), volume.grid, judged.scan_score)
        counts.append((scan, by_mode))
    on_progress(len(scans), len(scans))
    return counts, failed


def count_scan(maps: SourceMaps, grid: Grid, scan_score: float) -> ScanCounts:
    """What each candidate cut would mark in one healthy scan."""
    values = np.sort(maps.score[maps.brain])
    share = 1.0 - np.searchsorted(values, THRESHOLDS, side="left") / max(1, len(values))
    findings = np.zeros(len(THRESHOLDS))
    for k, threshold in enumerate(THRESHOLDS):
        if share[k] > FLOODED_SHARE:
            findings[k] = FLOODED
        elif share[k] > 0:
            labels = regions(maps.score, float(threshold), maps.brain, ())
            findings[k] = min(FLOODED, len(large_regions(labels, grid)))
    return ScanCounts(findings, share, scan_score)


def calibrated(counts: list[ScanCounts]) -> ModeCalibration:
    """What one mode's counts give: thresholds with 20 down to 0 findings per scan, and three voxel rates."""
    findings = np.mean([c.findings for c in counts], axis=0)
    # Counts may rise before they fall (a flood breaks into islands): from the highest cut down, never fewer again.
    findings = np.maximum.accumulate(findings[::-1])[::-1]
    share = np.mean([c.share for c in counts], axis=0)
    used = [k for k in range(len(THRESHOLDS)) if findings[k] <= 20.0]  # noqa: PLR2004 - more is no operating point
    last = next((position for position, k in enumerate(used) if findings[k] == 0.0), len(used) - 1)
    return ModeCalibration(
        operating_points=tuple(
            OperatingPoint(threshold=_short(THRESHOLDS[k]), findings_per_scan=_short(findings[k]))
            for k in used[: last + 1]
        ),
        voxel_rates=tuple(VoxelRate(rate=rate, threshold=_at_share(share, rate)) for rate in VOXEL_RATES),
        scan_scores=tuple(sorted(_short(c.scan_score) for c in counts)),
    )


def _at_share(share: NDArray[np.float64], rate: float) -> float:
    """The threshold that this share of brain voxels reaches; linear between candidates."""
    return _short(np.interp(-rate, -share, THRESHOLDS))


def _short(value: float | np.float64) -> float:
    """Six significant digits: enough to cut at, short enough to read."""
    return float(f"{float(value):.6g}")
