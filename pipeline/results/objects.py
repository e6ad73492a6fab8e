"""What goes in and out of the making of results; loads no highdicom."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    KeyObjectSelectionDocumentStorage,
    MRImageStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from anomalyd.ids import Digest, InstanceUID, SeriesUID
from anomalyd.pipeline.finding import Finding, Model
from anomalyd.pipeline.terms import ResultKind
from anomalyd.pipeline.volume import Volume

__all__ = [
    "SOP_CLASSES", "Earlier", "Made", "NoticeContext", "Rejected", "RejectionContext", "ResultContext", "ResultKind",
    "ResultObject",
]  # fmt: skip

SOP_CLASSES: Final = {
    ResultKind.SEG: SegmentationStorage,
    ResultKind.HEATMAP: SecondaryCaptureImageStorage,
    ResultKind.SR: Comprehensive3DSRStorage,
    ResultKind.SCORE_MAP: MRImageStorage,
    ResultKind.SUMMARY: SecondaryCaptureImageStorage,
    ResultKind.PARAMETRIC_MAP: ParametricMapStorage,
    ResultKind.LABELMAP: UID("1.2.840.10008.5.1.4.1.1.66.7"),  # of 2024; pydicom 3.0 has no name for it
    ResultKind.NOT_ANALYSED: SecondaryCaptureImageStorage,
    ResultKind.INELIGIBLE: SecondaryCaptureImageStorage,
    ResultKind.REJECTION_NOTE: KeyObjectSelectionDocumentStorage,
}
"""What each kind is as a DICOM object (PS3.4 B.5)."""


@dataclass(frozen=True, slots=True)
class ResultObject:
    """One DICOM object to deliver: a whole Part 10 file in Explicit VR Little Endian."""

    kind: ResultKind
    sop_class_uid: str
    sop_instance_uid: InstanceUID
    series_uid: SeriesUID
    instance_number: int
    data: bytes = field(repr=False)


class Made(Protocol):
    """What every result says about how it came to be."""

    @property
    def model(self) -> Model | None:
        """The bundle that was asked; None where none was."""

    @property
    def job_time(self) -> datetime:
        """When the result was made, with time zone; every date and time in the objects comes from it."""

    @property
    def instance_set(self) -> Digest:
        """Digest of the images of the volume."""

    @property
    def settings(self) -> Digest:
        """Digest of the settings that change a result."""

    @property
    def device_serial(self) -> str:
        """Device Serial Number of this installation."""


@dataclass(frozen=True, slots=True, eq=False)
class NoticeContext:
    """All that the notice of a series without a finding is made of (`Made`).

    headers: the received data sets that it refers to, at least one, in any order, pixels not needed.
    model: the bundle that could not judge the scan; None for a series that was not chosen for analysis.
    reason: why, in words, nothing of the patient.
    """

    headers: Sequence[Dataset]
    model: Model | None
    reason: str
    job_time: datetime
    instance_set: Digest
    settings: Digest
    device_serial: str = "anomalyd"


@dataclass(frozen=True, slots=True)
class Rejected:
    """One result object that was sent, and is withdrawn."""

    sop_class_uid: str
    instance_uid: InstanceUID
    series_uid: SeriesUID


@dataclass(frozen=True, slots=True, eq=False)
class RejectionContext:
    """All that a rejection note is made of (`Made`).

    header: of any received object of the series. rejected: every object that the note withdraws, at least one.
    model, settings: those of the withdrawn results. instance_set: digest of what is listed.
    """

    header: Dataset
    rejected: Sequence[Rejected]
    model: Model | None
    job_time: datetime
    instance_set: Digest
    settings: Digest
    device_serial: str = "anomalyd"


@dataclass(frozen=True, slots=True)
class Earlier:
    """A structured report of the same series, sent before: what the new one takes the place of."""

    series_uid: SeriesUID
    instance_uid: InstanceUID


@dataclass(frozen=True, slots=True, eq=False)
class ResultContext:
    """All that the result objects of one analysis are made of (`Made`).

    headers: the received data sets of the analysed volume, in any order, pixels not needed.
    volume: as analysed, with its sources; finding: on the same grid.
    warnings: of selection and reading (the finding has its own).
    predecessor: the report that the new one names as its predecessor, of the same study.
    """

    headers: Sequence[Dataset]
    volume: Volume
    finding: Finding
    job_time: datetime
    instance_set: Digest
    settings: Digest
    warnings: tuple[str, ...] = ()
    device_serial: str = "anomalyd"
    predecessor: Earlier | None = None

    @property
    def model(self) -> Model:
        """The bundle that was asked."""
        return self.finding.model

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """Each once, in the order of the steps that gave them."""
        return tuple(dict.fromkeys((*self.warnings, *self.volume.warnings, *self.finding.warnings)))
