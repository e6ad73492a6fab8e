"""Intensities made comparable: bias field, percentiles inside the brain, histogram standardisation.

Landmarks after Nyul, Udupa, Zhang (IEEE TMI 19:143, 2000); METHOD section 9 measured them as the largest single gain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses
from numpy.typing import NDArray

from anomalyd.pipeline.volume import BoolMap, FloatMap

PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
CEILING = 1.25  # above the last percentile the curve's slope goes on up to here; METHOD clamps at 1
N4_ITERATIONS = (15, 15)
N4_SHRINK = 2


@dataclass(frozen=True, slots=True, eq=False)
class Normalised:
    """image: float32 in [0, CEILING], 0 outside the brain; bias: what was divided out; knots: the intensity curve."""

    image: FloatMap
    bias: FloatMap
    source_knots: NDArray[np.float64]
    standard_knots: NDArray[np.float64]

    def to_source(self, standard: FloatMap) -> FloatMap:
        """Intensities of the source for standard ones (the inverse of the curve, times the bias field)."""
        low, high = self.standard_knots, self.source_knots
        return np.asarray(piecewise(standard, low, high) * self.bias, dtype=np.float32)


def normalise(
    image: FloatMap,
    mask: BoolMap,
    standard_knots: NDArray[np.float64] | None,
    percentiles: Sequence[float] = PERCENTILES,
) -> Normalised:
    """The image with its percentiles inside the mask laid on the standard ones.

    standard_knots: a value for each of percentiles, rising; None: a straight line from the first to the last
    percentile onto 0 and 1, clamped there (METHOD section 1; the standard is learned from it too).
    """
    bias = bias_field(image, mask)
    flat = image / bias
    source = strictly_rising(np.percentile(flat[mask], percentiles))
    standard = (source - source[0]) / (source[-1] - source[0]) if standard_knots is None else standard_knots
    standard = strictly_rising(np.asarray(standard, dtype=np.float64))
    values = np.clip(piecewise(flat, source, standard), 0.0, 1.0 if standard_knots is None else CEILING)
    return Normalised(np.where(mask, values, 0.0).astype(np.float32), bias, source, standard)


def bias_field(image: FloatMap, mask: BoolMap) -> FloatMap:
    """Smooth multiplicative field, mean 1 inside the mask (N4: Tustison, IEEE TMI 29:1310, 2010)."""
    positive = np.where(mask, np.maximum(image, float(image[mask].max()) * 1e-3), 0.0).astype(np.float32)
    picture = sitk.GetImageFromArray(positive)
    small = sitk.Shrink(picture, [N4_SHRINK] * 3)
    small_mask = sitk.Shrink(sitk.GetImageFromArray(mask.astype(np.uint8)), [N4_SHRINK] * 3)
    n4: Any = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)  # sums in one order: the same bytes for the same input
    n4.SetMaximumNumberOfIterations(list(N4_ITERATIONS))
    n4.SetConvergenceThreshold(1e-3)
    n4.Execute(small, small_mask)
    field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(picture))).astype(np.float32)
    return np.asarray(field / field[mask].mean(), dtype=np.float32)


def strictly_rising(knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Knots at least a thousandth of their range apart: the curve can be inverted."""
    least = 1e-3 * max(float(knots[-1] - knots[0]), 1e-6)
    out = np.array(knots, dtype=np.float64)
    for k in range(1, len(out)):
        out[k] = max(out[k], out[k - 1] + least)
    return out


def piecewise(values: FloatMap, source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Piecewise linear through the knots; beyond both ends with the slope of the whole curve."""
    slope = (target[-1] - target[0]) / (source[-1] - source[0])
    inner = np.interp(values, source, target)
    below = np.minimum(values - source[0], 0.0) * slope
    above = np.maximum(values - source[-1], 0.0) * slope
    return np.asarray(inner + below + above)
