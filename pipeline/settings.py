"""The `pipeline:` section of config.yaml."""

import difflib
import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from anomalyd.ids import Digest, duration_s
from anomalyd.pipeline.terms import ScoreMode

Device = Literal["auto", "cpu", "cuda"]


def _keyword(text: str) -> str:
    # In the body: pydicom costs every command 0.2 s, and most configurations have no rule.
    from pydicom.datadict import keyword_dict  # noqa: PLC0415 - see above

    if text not in keyword_dict:
        near = difflib.get_close_matches(text, keyword_dict, n=1)
        raise ValueError("no keyword of PS3.6" + (f"; did you mean {near[0]}?" if near else ""))
    return text


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as exc:
        raise ValueError(f"a regular expression is needed, and this is none: {exc}") from exc
    return text


class AttributeRule(BaseModel):
    """A regular expression on one attribute of the series, by DICOM keyword, for all senders or one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attribute: Annotated[str, AfterValidator(_keyword)]
    """DICOM keyword, as in PS3.6 (SeriesDescription, StationName, ...)."""
    matches: Annotated[str, AfterValidator(_expression)]
    """Regular expression, searched in the value (several values are joined with a backslash)."""
    sender: str | None = None
    """Calling AE title that the rule is for; every sender when absent."""


class AnalysisSettings(BaseModel):
    """What changes a result; its digest is part of the job and of every result UID."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    voxel_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Cut at this calibrated healthy voxel rate (0.01, 0.05, 0.10) instead of the operating point."""
    false_findings_per_scan: Annotated[float, Field(gt=0)] = 1.0
    """Operating point: false findings per healthy scan that the calibration allows; unused with voxel_rate."""
    score: ScoreMode | None = None
    """The score that is cut; None: the one that the bundle's description names."""

    @property
    def digest(self) -> Digest:
        """SHA-256 of the values, as it stands in jobs and result UIDs (DESIGN 11)."""
        return Digest(hashlib.sha256(self.model_dump_json().encode()).hexdigest())


class PipelineSettings(BaseModel):
    """How series are chosen and analysed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundles: tuple[Path, ...] = ()
    """Bundle directories; empty: those that ship with the package."""
    device: Device = "auto"
    threads: Annotated[int, Field(ge=0)] = 0
    """Torch threads of the worker; 0: as many as the machine has cores."""
    max_missing_slices: Annotated[int, Field(ge=0)] = 2
    job_time_limit: Annotated[float, BeforeValidator(duration_s), Field(gt=0)] = 900.0
    max_attempts: Annotated[int, Field(ge=1)] = 3
    false_findings_per_scan: Annotated[float, Field(gt=0)] = 1.0
    voxel_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    score: ScoreMode | None = None
    device_serial: Annotated[str, Field(pattern=r"^[ -\[\]-~]{1,64}$")] = "anomalyd"
    """DeviceSerialNumber of results (VR LO): tells installations apart."""
    include: tuple[AttributeRule, ...] = ()
    exclude: tuple[AttributeRule, ...] = ()

    @property
    def analysis(self) -> AnalysisSettings:
        """The part that changes a result."""
        return AnalysisSettings(
            voxel_rate=self.voxel_rate, false_findings_per_scan=self.false_findings_per_scan, score=self.score
        )
