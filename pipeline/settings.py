"""The `pipeline:` section of config.yaml."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Device = Literal["auto", "cpu", "cuda"]


class AttributeRule(BaseModel):
    """A regular expression on one attribute of the series, by DICOM keyword, for all senders or one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attribute: str
    """DICOM keyword, as in PS3.6 (SeriesDescription, StationName, ...)."""
    matches: str
    """Regular expression, searched in the value (several values are joined with a backslash)."""
    sender: str | None = None
    """Calling AE title that the rule is for; every sender when absent."""


class AnalysisSettings(BaseModel):
    """What changes a result; its digest is part of the job and of every result UID."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    voxel_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Cut at this calibrated healthy voxel rate (0.01, 0.05, 0.10) instead of the operating point."""


class PipelineSettings(BaseModel):
    """How series are chosen and analysed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundles: tuple[Path, ...] = ()
    """Bundle directories; empty: those that ship with the package."""
    device: Device = "auto"
    threads: Annotated[int, Field(ge=0)] = 0
    """Torch threads of the worker; 0: as many as the machine has cores."""
    max_missing_slices: Annotated[int, Field(ge=0)] = 2
    job_time_limit: Annotated[float, Field(gt=0)] = 900.0
    max_attempts: Annotated[int, Field(ge=1)] = 3
    false_findings_per_scan: Annotated[float, Field(gt=0)] = 1.0
    voxel_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    include: tuple[AttributeRule, ...] = ()
    exclude: tuple[AttributeRule, ...] = ()

    @property
    def analysis(self) -> AnalysisSettings:
        """The part that changes a result."""
        return AnalysisSettings(voxel_rate=self.voxel_rate)
