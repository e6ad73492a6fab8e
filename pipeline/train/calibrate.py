"""Thresholds of a bundle, counted on healthy scans with the very analysis that patients get."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomalyd.errors import AnomalydError, ConfigError
from anomalyd.pipeline.analyse import Judged, Runtime, judge, onto_source, place, rescore
from anomalyd.pipeline.bundle import CALIBRATION, Bundle, Calibration, CrossValidation, load_bundle
from anomalyd.pipeline.stages.limits import limits_of
from anomalyd.pipeline.terms import ScoreMode
from anomalyd.pipeline.train.cohort import Scan, find_scans
from anomalyd.pipeline.train.counts import ALLOWED_FINDINGS, ScanCounts, calibrated, count_scan
from anomalyd.pipeline.train.leave_out import normative_without
from anomalyd.pipeline.train.new_bundle import changed_bundle, check_place
from anomalyd.pipeline.train.people import names_of
from anomalyd.pipeline.volume import Volume

MIN_SCANS = 5
ADVISED_SCANS = 20


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What a calibration stands on, at the default operating point of the bundle's own score.

    skipped: (file name, reason). cross_validation: None where all scans are of one group.
    """

    bundle: Path
    scans: int
    skipped: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    threshold: float
    findings_per_scan: float
    cross_validation: CrossValidation | None


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """One healthy scan, counted in every score mode.

    has_trained: its subject trained the bundle. facts: what the limits are set by.
    """

    scan: Scan
    has_trained: bool
    counts: dict[ScoreMode, ScanCounts]
    facts: dict[str, float]


def calibrate_bundle(
    bundle: Path,
    healthy: Path,
    *,
    device: str = "cpu",
    made: Sequence[Scan] = (),
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> CalibrationReport:
    """calibration.json (and the hashes) rewritten from the healthy scans of a folder; nothing else changes.

    Scans of people who trained the bundle are left out where MIN_SCANS others are there, else they are used, and the
    calibration says so. made: scans made from another contrast of people who did not train it, used beside too few real
    ones, which the calibration says too. Raises ConfigError with fewer than MIN_SCANS scans, or where the bundle cannot
    be written.
    """
    loaded = load_bundle(bundle)
    check_place(bundle)
    trained = names_of(loaded.description.training.sources)
    found = find_scans(healthy, loaded.model.contrast)
    if len(found.scans) + len(made) < MIN_SCANS:
        raise ConfigError(_too_few(len(found.scans), loaded, healthy, found.skipped))  # before any is computed
    unseen = (*found.scans, *made)
    unseen = tuple(scan for scan in unseen if scan.subject not in trained)
    counted, failed = _count_scans(loaded, unseen, trained, device, on_progress)
    skipped = [*found.skipped, *failed]
    others = tuple(scan for scan in found.scans if scan.subject in trained)
    if len(counted) >= MIN_SCANS:
        skipped += [(scan.name, "its subject trained the bundle") for scan in others]
    else:
        more, failed = _count_scans(loaded, others, trained, device, on_progress)
        counted, skipped = counted + more, skipped + failed
    if len(counted) < MIN_SCANS:
        raise ConfigError(_too_few(len(counted), loaded, healthy, skipped))
    calibration = _calibration(loaded, counted)
    with changed_bundle(bundle) as changed:
        (changed / CALIBRATION).write_text(calibration.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return _report(loaded, calibration, skipped, [one.scan for one in counted])


def _count_scans(
    bundle: Bundle,
    scans: Sequence[Scan],
    trained: frozenset[str],
    device: str,
    on_progress: Callable[[int, int], None],
) -> tuple[list[Counted], list[tuple[str, str]]]:
    """Each scan that can be judged, and (name, reason) of the others."""
    counted: list[Counted] = []
    failed: list[tuple[str, str]] = []
    runtime = Runtime("cuda" if device == "cuda" else "cpu")
    for number, scan in enumerate(scans):
        on_progress(number, len(scans))
        try:
            volume = scan.read()
            judged = judge(place(volume, bundle), bundle, runtime=runtime, seed_text=scan.name)
        except AnomalydError as exc:
            failed.append((scan.name, str(exc)))
            continue
        has_trained = scan.subject in trained
        counts = _count(volume, judged, bundle, has_trained=has_trained)
        counted.append(Counted(scan, has_trained, counts, judged.facts))
    on_progress(len(scans), len(scans))
    return counted, failed


def _count(volume: Volume, first: Judged, bundle: Bundle, *, has_trained: bool) -> dict[ScoreMode, ScanCounts]:
    """One scan in every mode; against statistics without it, where it had a part in them."""
    counts: dict[ScoreMode, ScanCounts] = {}
    box = first.placed.box
    for mode in bundle.modes:
        own = None
        if has_trained and mode == "normative":
            own = normative_without(bundle, first.placed.normalised.image, first.reconstruction, box.mask)
        judged = rescore(first, bundle, mode, own)
        counts[mode] = count_scan(onto_source(volume, judged, bundle), volume, judged.scan_score)
    return counts


def _calibration(bundle: Bundle, counted: Sequence[Counted]) -> Calibration:
    """All that was counted."""
    scans, evened = [one.scan for one in counted], _evened(counted)
    return Calibration(
        scans=len(counted),
        trained_scans=sum(one.has_trained for one in counted),
        subjects=tuple(sorted({scan.subject for scan in scans})),
        note=_note(counted),
        modes={
            mode: calibrated([one.scan for one in evened], [one.counts[mode] for one in evened])
            for mode in bundle.modes
        },
        limits=limits_of([one.facts for one in evened]),
    )


def _evened(counted: Sequence[Counted]) -> list[Counted]:
    """Real scans as many times over as they need to weigh what made ones weigh together: a few show what none of
    those does, and their site would be lost in the mean.
    """
    made = sum(one.scan.is_synthetic for one in counted)
    times = max(1, round(made / max(1, len(counted) - made)))
    return [one for one in counted for _ in range(1 if one.scan.is_synthetic else times)]


def _note(counted: Sequence[Counted]) -> str:
    """What the scans had to do with the bundle."""
    seen = sum(one.has_trained for one in counted)
    made = sum(one.scan.is_synthetic for one in counted)
    if made:
        return (
            f"{made} of {len(counted)} scans were made from T1w scans of people that did not train the network, for "
            "want of real ones, which count as much as all of those together. Real ones vary more: more is found in "
            "healthy people than stated"
        )
    if not seen:
        return "counted on healthy scans of people that did not train the network, with the analysis that patients get"
    return (
        f"{seen} of {len(counted)} scans trained the network, which reconstructs them better than others: thresholds "
        "are too low by as much, and more is found in healthy scans than stated. Each was compared with the healthy "
        "statistics of the others (left out one by one); template and histogram were made with all of them"
    )


def _report(
    bundle: Bundle, calibration: Calibration, skipped: Sequence[tuple[str, str]], scans: Sequence[Scan]
) -> CalibrationReport:
    """What is told about a calibration."""
    counted = calibration.of(bundle.modes[0])
    warnings = []
    if calibration.scans < ADVISED_SCANS:
        warnings.append(f"{calibration.scans} scans: thresholds from fewer than {ADVISED_SCANS} are rough")
    if calibration.trained_scans or any(scan.is_synthetic for scan in scans):
        warnings.append(calibration.note)
    point = next((p for p in counted.operating_points if p.findings_per_scan <= ALLOWED_FINDINGS), None)
    return CalibrationReport(
        bundle.path,
        calibration.scans,
        tuple(skipped),
        tuple(warnings),
        point.threshold if point else math.inf,
        point.findings_per_scan if point else 0.0,
        counted.cross_validation,
    )


def _too_few(count: int, bundle: Bundle, healthy: Path, skipped: Sequence[tuple[str, str]]) -> str:
    told = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
    usable = f"{count} {bundle.model.contrast} scans in {healthy}, at least {MIN_SCANS} are needed"
    return f"{usable}; not usable: {told}" if told else usable
