"""How well marked voxels agree with an expert's: the measures of `anomalyd evaluate`, on plain arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from anomalyd.pipeline.volume import BoolMap

TOUCHING = np.ones((3, 3, 3), dtype=np.bool_)  # 26 neighbours
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """How a map ranks voxels: average precision, the best Dice over all cuts, and where that cut lies.

    precisions: (101,) the best precision that is to be had at or above each of RECALLS.
    """

    auprc: float
    best_dice: float
    best_cut: float
    precisions: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LesionCounts:
    """Lesions and findings are 26-connected; a lesion is found, a finding is true, when it shares one voxel."""

    lesions: int
    found: int
    findings: int
    false: int

    @property
    def recall(self) -> float:
        """Share of lesions that were found; nan without lesions."""
        return self.found / self.lesions if self.lesions else float("nan")

    @property
    def precision(self) -> float:
        """Share of findings that touch a lesion; nan without findings."""
        return 1.0 - self.false / self.findings if self.findings else float("nan")


def dice(first: BoolMap, second: BoolMap) -> float:
    """2 |A and B| / (|A| + |B|); 1 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2.0 * int((first & second).sum()) / total if total else 1.0


def rank(values: NDArray[np.float32], truth: NDArray[np.bool_]) -> Ranking:
    """How (n,) values rank (n,) true voxels, at least one of which is true; equal values are one cut.

    Recall changes, and Dice peaks, only where a cut takes in another true voxel: those cuts are all that is looked at.
    """
    true = np.sort(values[truth])
    false = np.sort(values[~truth])
    cuts = np.unique(true)[::-1]
    hits = len(true) - np.searchsorted(true, cuts, side="left")
    count = hits + len(false) - np.searchsorted(false, cuts, side="left")
    precision, recall = hits / count, hits / len(true)
    dices = 2.0 * hits / (count + len(true))
    best = int(np.argmax(dices))
    above = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")
    return Ranking(
        float((precision * np.diff(recall, prepend=0.0)).sum()), float(dices[best]), float(cuts[best]), above[at]
    )


def lesion_counts(findings: NDArray[np.uint16], lesion: BoolMap) -> LesionCounts:
    """Counts of numbered findings (0: none) against an expert's mask, on one grid."""
    lesions, lesion_count = ndimage.label(lesion, structure=TOUCHING)
    both = lesion & (findings > 0)
    numbers = np.unique(findings[findings > 0])
    return LesionCounts(
        int(lesion_count), len(np.unique(lesions[both])), len(numbers), len(numbers) - len(np.unique(findings[both]))
    )
