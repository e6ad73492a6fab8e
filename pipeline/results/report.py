"""report.json: the answer about one series for programs; the same keys for analysed, ineligible and withheld."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from anomalyd.ids import SeriesUID
from anomalyd.pipeline.finding import Contrast, Finding, Lesion, Model, Reason, Stage
from anomalyd.pipeline.results.version import package_versions, version_line

Status = Literal["analysed", "ineligible", "withheld"]


class ReasonReport(TypedDict):
    """Why there is no finding."""

    criterion: str
    value: Any
    limit: Any
    text: str


class BundleReport(TypedDict):
    """The model that answered; null where none was asked."""

    id: str | None
    digest: str | None


class LesionReport(TypedDict):
    """One candidate region; LPS mm, the box at voxel edges: [[min x, y, z], [max x, y, z]]."""

    volume_mm3: float
    centroid_lps_mm: list[float]
    bounding_box_lps_mm: list[list[float]]
    sign: str
    mean_score: float
    max_score: float
    laterality: str | None


class Provenance(TypedDict):
    """What the answer can be traced back and repeated with."""

    version_line: str | None
    versions: dict[str, str]
    device: str | None
    seeds: list[int]
    noise_levels: list[int]
    threshold_text: str | None
    score_mode: str | None
    reference_age_years: list[float] | None
    settings: dict[str, Any]
    input_digest: str | None
    facts: dict[str, float]


class Report(TypedDict):
    """report.json. Every key is always there; what does not apply is null or empty."""

    series_instance_uid: str | None
    status: Status
    reason: ReasonReport | None
    contrast: str | None
    bundle: BundleReport
    score: float | None
    score_percentile: float | None
    threshold: float | None
    lesions: list[LesionReport]
    warnings: list[str]
    timings_s: dict[str, float]
    provenance: Provenance


@dataclass(slots=True)
class StageTimes:
    """Seconds of each stage: called as a stage begins, which ends the one before."""

    clock: Callable[[], float] = time.perf_counter
    _seconds: dict[str, float] = field(default_factory=dict)
    _running: tuple[str, float] | None = None

    def __call__(self, stage: Stage) -> None:
        """`stage` begins now."""
        self.stop()
        self._running = (str(stage), self.clock())

    def stop(self) -> None:
        """Nothing runs from now on."""
        if self._running is not None:
            name, since = self._running
            self._seconds[name] = self._seconds.get(name, 0.0) + self.clock() - since
            self._running = None

    @property
    def seconds(self) -> dict[str, float]:
        """Of the stages that have ended, in their order, to the millisecond."""
        return {name: round(value, 3) for name, value in self._seconds.items()}


@dataclass(frozen=True, slots=True)
class Subject:
    """What a report is about. series_uid: None for NIfTI; input_digest: of the instance set, or of the file."""

    series_uid: SeriesUID | None
    input_digest: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)


def analysed(
    subject: Subject, finding: Finding, *, warnings: Sequence[str] = (), timings_s: Mapping[str, float] | None = None
) -> Report:
    """The report of a finding. warnings: those of selection and reading too."""
    report = _blank(
        subject,
        "analysed",
        contrast=finding.model.contrast,
        model=finding.model,
        warnings=(*warnings, *finding.warnings),
        timings_s=timings_s,
    )
    report["score"] = _number(finding.score)
    report["score_percentile"] = _number(finding.score_percentile)
    report["threshold"] = _number(finding.threshold)
    report["lesions"] = [_lesion(lesion) for lesion in finding.lesions]
    report["provenance"]["device"] = finding.device
    report["provenance"]["seeds"] = list(finding.seeds)
    report["provenance"]["noise_levels"] = list(finding.noise_levels)
    report["provenance"]["threshold_text"] = finding.threshold_text
    report["provenance"]["score_mode"] = finding.score_mode
    report["provenance"]["reference_age_years"] = list(finding.reference_ages) if finding.reference_ages else None
    report["provenance"]["facts"] = {name: float(value) for name, value in finding.facts.items()}
    return report


def not_analysed(
    subject: Subject,
    status: Literal["ineligible", "withheld"],
    reason: Reason,
    *,
    contrast: Contrast | None = None,
    model: Model | None = None,
    warnings: Sequence[str] = (),
    timings_s: Mapping[str, float] | None = None,
) -> Report:
    """The report of a series that is no case for the bundle (ineligible), or that it cannot judge (withheld)."""
    report = _blank(subject, status, contrast=contrast, model=model, warnings=warnings, timings_s=timings_s)
    report["reason"] = {
        "criterion": reason.criterion,
        "value": plain(reason.value),
        "limit": plain(reason.limit),
        "text": reason.text,
    }
    return report


def plain(value: Any) -> Any:
    """The value as JSON has it: numbers, text, lists; null for what is not finite; text for anything else."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(one) for one in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    return plain(value.item()) if hasattr(value, "item") else str(value)


def _blank(
    subject: Subject,
    status: Status,
    *,
    contrast: Contrast | None,
    model: Model | None,
    warnings: Sequence[str],
    timings_s: Mapping[str, float] | None,
) -> Report:
    return {
        "series_instance_uid": subject.series_uid,
        "status": status,
        "reason": None,
        "contrast": None if contrast is None else str(contrast),
        "bundle": {"id": model.bundle_id if model else None, "digest": model.digest if model else None},
        "score": None,
        "score_percentile": None,
        "threshold": None,
        "lesions": [],
        "warnings": list(dict.fromkeys(warnings)),
        "timings_s": dict(timings_s or {}),
        "provenance": {
            "version_line": version_line(model) if model else None,
            "versions": package_versions(),
            "device": None,
            "seeds": [],
            "noise_levels": [],
            "threshold_text": None,
            "score_mode": None,
            "reference_age_years": None,
            "settings": plain(dict(subject.settings)),
            "input_digest": subject.input_digest,
            "facts": {},
        },
    }


def _lesion(lesion: Lesion) -> LesionReport:
    return {
        "volume_mm3": float(lesion.volume_mm3),
        "centroid_lps_mm": [float(value) for value in lesion.centroid_lps_mm],
        "bounding_box_lps_mm": [[float(value) for value in corner] for corner in lesion.bounding_box_lps_mm],
        "sign": str(lesion.sign),
        "mean_score": float(lesion.mean_score),
        "max_score": float(lesion.max_score),
        "laterality": None if lesion.laterality is None else str(lesion.laterality),
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
