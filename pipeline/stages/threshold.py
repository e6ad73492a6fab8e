"""Where the score map is cut: from the bundle's calibration on healthy scans, and what that cut stands for in words."""

from dataclasses import dataclass

from anomalyd.errors import ConfigError
from anomalyd.pipeline.bundle import Calibration
from anomalyd.pipeline.settings import AnalysisSettings

RATE_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Cut:
    """Voxels with at least this score are marked; text: the false-positive rate behind it."""

    threshold: float
    text: str


def choose_cut(calibration: Calibration, settings: AnalysisSettings) -> Cut:
    """The calibrated voxel rate that is asked for, else the operating point.

    Raises ConfigError where the calibration lacks the rate.
    """
    if settings.voxel_rate is not None:
        return _at_voxel_rate(calibration, settings.voxel_rate)
    return _operating_point(calibration, settings.false_findings_per_scan)


def _at_voxel_rate(calibration: Calibration, rate: float) -> Cut:
    for entry in calibration.voxel_rates:
        if abs(entry.rate - rate) < RATE_TOLERANCE:
            return Cut(entry.threshold, f"{rate:.0%} of brain voxels of {calibration.scans} healthy scans reach it")
    known = ", ".join(f"{entry.rate:g}" for entry in calibration.voxel_rates)
    raise ConfigError(f"pipeline.voxel_rate {rate:g} is not in the bundle's calibration: {known}")


def _operating_point(calibration: Calibration, allowed: float) -> Cut:
    """The lowest threshold with at most the allowed findings in a healthy scan, else the highest known one."""
    points = sorted(calibration.operating_points, key=lambda point: point.threshold)
    if not points:
        raise ConfigError("the bundle's calibration has no operating point: run `anomalyd calibrate` on healthy scans")
    chosen = next((point for point in points if point.findings_per_scan <= allowed), points[-1])
    return Cut(
        chosen.threshold,
        f"{chosen.findings_per_scan:.2f} findings expected in a healthy scan "
        f"(counted on {calibration.scans} healthy scans; at most {allowed:g} allowed)",
    )
