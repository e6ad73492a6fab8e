"""Where the score map is cut: from the bundle's calibration on healthy scans, and what that cut stands for in words."""

from dataclasses import dataclass

from anomalyd.errors import ConfigError
from anomalyd.pipeline.bundle import Bundle, ModeCalibration
from anomalyd.pipeline.settings import AnalysisSettings
from anomalyd.pipeline.terms import ScoreMode


@dataclass(frozen=True, slots=True)
class Cut:
    """Voxels whose score of this mode is at least the threshold are marked; text: mode, and the false positives."""

    mode: ScoreMode
    threshold: float
    text: str


def choose_cut(bundle: Bundle, settings: AnalysisSettings) -> Cut:
    """The calibrated voxel rate that is asked for, else the operating point, of the score that is asked for.

    Raises ConfigError where the bundle is not calibrated for the score or the rate.
    """
    mode = settings.score or bundle.description.score.mode
    counted = bundle.calibration.of(mode)
    if settings.voxel_rate is not None:
        threshold, text = _at_voxel_rate(counted, settings.voxel_rate)
    else:
        threshold, text = _operating_point(counted, settings.false_findings_per_scan)
    calibration = bundle.calibration
    trained = f", {calibration.trained_scans} of which trained the model" if calibration.trained_scans else ""
    return Cut(mode, threshold, f"{mode} score: {text}, counted on {calibration.scans} healthy scans{trained}")


def _at_voxel_rate(counted: ModeCalibration, rate: float) -> tuple[float, str]:
    threshold = counted.threshold_at(rate)
    if threshold is not None:
        return threshold, f"{rate:.0%} of the voxels of a healthy brain reach it"
    known = ", ".join(f"{entry.rate:g}" for entry in counted.voxel_rates)
    raise ConfigError(f"pipeline.voxel_rate {rate:g} is not in the bundle's calibration: {known}")


def _operating_point(counted: ModeCalibration, allowed: float) -> tuple[float, str]:
    """The lowest threshold with at most the allowed findings in a healthy scan, else the highest known one."""
    points = sorted(counted.operating_points, key=lambda point: point.threshold)
    if not points:
        raise ConfigError("the bundle's calibration has no operating point: run `anomalyd calibrate` on healthy scans")
    chosen = next((point for point in points if point.findings_per_scan <= allowed), points[-1])
    text = f"{chosen.findings_per_scan:.2f} findings expected in a healthy scan (at most {allowed:g} allowed)"
    return chosen.threshold, text
