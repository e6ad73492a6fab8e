"""What an analysis found, on the source's own grid."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalyd.pipeline.terms import Contrast, ScoreMode, Stage
from anomalyd.pipeline.volume import BoolMap, FloatMap, Grid

__all__ = ["Contrast", "Finding", "Laterality", "Lesion", "Model", "PointLPS", "Reason", "Sign", "Stage"]

PointLPS = tuple[float, float, float]


class Sign(StrEnum):
    """Darker (hypo) or brighter (hyper) than the healthy reconstruction."""

    HYPO = "hypo"
    HYPER = "hyper"


class Laterality(StrEnum):
    """The patient's side, by the template's midsagittal plane."""

    LEFT = "left"
    RIGHT = "right"
    BOTH = "both"
    """It crosses the midline, or touches it."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a series was not analysed: the criterion that failed, with its value and limit."""

    criterion: str
    value: Any
    limit: Any
    text: str


@dataclass(frozen=True, slots=True)
class Lesion:
    """One connected candidate region; number k is label k of the finding and segment k of the SEG."""

    number: int
    volume_mm3: float
    centroid_lps_mm: PointLPS
    bounding_box_lps_mm: tuple[PointLPS, PointLPS]
    """Least and greatest x, y, z over the region's voxel edges (not centres)."""
    sign: Sign
    mean_score: float
    max_score: float
    laterality: Laterality | None = None
    """None where no registration told it."""


@dataclass(frozen=True, slots=True)
class Model:
    """The one source of what is written about the model into every result."""

    bundle_id: str
    digest: str
    contrast: Contrast


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """The answer of `analyse` for one volume, all maps on the source's own grid [slice, row, column].

    score_map: float32, >= 0, higher is more anomalous, 0 outside the brain: exactly what was thresholded.
    sign_map: int8, -1 darker, 1 brighter than the reconstruction, 0 where neither or outside the brain.
    labels: uint16, 0 background, k for lesion k (greatest max_score first); 0 on interpolated slices.
    brain_mask: bool.
    reconstruction: float32, the healthy counterpart in the source's intensities, 0 outside the brain.
    score: scan-level score; score_percentile: 0..100 among the healthy reference scans of the bundle.
    threshold: what score_map was cut at; threshold_text: what false-positive rate that stands for, in words.
    score_mode: which score was cut.
    reference_ages: least and greatest age in years of the healthy people who trained the bundle; None: not stated.
    """

    grid: Grid
    model: Model
    score_map: FloatMap
    sign_map: NDArray[np.int8]
    labels: NDArray[np.uint16]
    brain_mask: BoolMap
    reconstruction: FloatMap
    lesions: tuple[Lesion, ...]
    score: float
    score_percentile: float
    threshold: float
    threshold_text: str
    score_mode: ScoreMode
    reference_ages: tuple[float, float] | None
    warnings: tuple[str, ...]
    device: str
    seeds: tuple[int, ...]
    noise_levels: tuple[int, ...]
    """Index 0..999 of the schedule, for each field that a seed gave."""
    facts: dict[str, float] = field(default_factory=dict)
    """Numbers that the gates judged (registration similarity, brain volume in ml, ...), for the audit."""

    @property
    def mask(self) -> BoolMap:
        """Voxels of any lesion."""
        return np.asarray(self.labels > 0)
