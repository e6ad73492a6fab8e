"""T2w and FLAIR images made from T1w ones: healthy people were scanned with T1w first of all (index.csv of a folder).

After SynthSeg's idea of random contrasts (Billot et al., Medical Image Analysis 86:102789, 2023), with a curve from T1w
intensity to the other contrast's in place of labels. Curves were measured on healthy people scanned with both, as
medians of the other contrast (over its 99th percentile) in bins of standardised T1w intensity: T2w on kirby21-113,
fnndsc-adi and ds000011, FLAIR on kirby21-113 and a template of one person. What a curve cannot know: T1w shows bone,
air and fluid alike as dark, so the outermost voxels, where the brain mask lets some skull in, get a curve of their own.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from anomalyd.pipeline.stages.score import erode
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.volume import BoolMap, FloatMap

SYNTHETIC = (Contrast.T2W, Contrast.FLAIR)
VERSION = 1  # of what is made; prepared files of another one are made anew

T1W = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.25)
T2W = (1.0, 0.9, 0.78, 0.65, 0.55, 0.48, 0.44, 0.41, 0.36, 0.31, 0.27, 0.22)
T2W_GREY = 0.4  # about which the contrast of a scanner varies
T1W_OF_FLAIR = (0.0, 0.09, 0.16, 0.24, 0.31, 0.39, 0.46, 0.54, 0.61, 0.69, 0.76, 0.84, 0.91, 1.25)
FLAIR = (
    (0.0, 0.127, 0.258, 0.445, 0.672, 0.834, 0.902, 0.89, 0.858, 0.806, 0.76, 0.748, 0.758, 0.717),
    (0.0, 0.1, 0.2, 0.3, 0.45, 0.62, 0.75, 0.83, 0.82, 0.79, 0.765, 0.745, 0.72, 0.66),
)  # grey matter far brighter than white, and hardly so
RIM_T1W = (0.0, 0.1, 0.2, 0.35, 1.25)
RIM_T2W_MOST = (0.12, 0.35, 0.5, 0.6, 0.6)
RIM_MM = 4.0

CURVE_NOISE = {Contrast.T2W: 0.02, Contrast.FLAIR: 0.015}
CONTRAST_NOISE = 0.15
TEXTURE, TEXTURE_MM = 0.03, 1.6
FIELD, FIELD_KNOTS = 0.04, (5, 6, 5)
THICK_SHARE, THICK_MM = 0.5, (4, 7)  # of images with thick slices; from, and one past the last


def synthesise(
    image: FloatMap, mask: BoolMap, contrast: Contrast, rng: np.random.Generator, spacing_mm: float = 2.0
) -> FloatMap:
    """An image of the contrast of the same brain, as another scanner would have taken it each time; 0 outside the mask.

    image: standardised T1w intensities, upright, in [0, CEILING]. Random are the curve, a fine texture, a smooth field
    and whether slices are thick (as most T2w ones are). The scale is arbitrary, about 1 for the brightest tissue.
    """
    curve = _random_curve(contrast, rng)
    plain = _along(image, mask, contrast, curve, spacing_mm)
    texture = ndimage.gaussian_filter(rng.normal(0.0, 1.0, image.shape), TEXTURE_MM / spacing_mm)
    texture /= texture.std()
    knots = rng.normal(0.0, 1.0, FIELD_KNOTS)
    field = ndimage.zoom(knots, [n / k for n, k in zip(image.shape, FIELD_KNOTS, strict=True)], order=3)
    made = plain * (1.0 + TEXTURE * texture + FIELD * field)
    if rng.random() < THICK_SHARE:
        thick_mm = float(rng.integers(*THICK_MM))
        made = ndimage.uniform_filter1d(made, max(1, round(thick_mm / spacing_mm)), axis=0)
    return np.where(mask, np.maximum(made, 0.0), 0.0).astype(np.float32)


def typical(image: FloatMap, mask: BoolMap, contrast: Contrast, spacing_mm: float = 2.0) -> FloatMap:
    """The same with the mean curve and nothing random: for templates."""
    curve = np.array(T2W) if contrast is Contrast.T2W else np.mean(FLAIR, axis=0)
    return _along(image, mask, contrast, curve, spacing_mm)


def _random_curve(contrast: Contrast, rng: np.random.Generator) -> NDArray[np.float64]:
    """The other contrast's values at the knots."""
    if contrast is Contrast.T2W:
        mean = np.array(T2W)
        stretch = (mean - T2W_GREY) * rng.normal(0.0, CONTRAST_NOISE)
    else:
        share = rng.uniform(0.0, 1.0)
        mean = share * np.array(FLAIR[0]) + (1.0 - share) * np.array(FLAIR[1])
        stretch = np.zeros_like(mean)
    return mean + stretch + rng.normal(0.0, CURVE_NOISE[contrast], len(mean))


def _along(
    image: FloatMap, mask: BoolMap, contrast: Contrast, curve: NDArray[np.float64], spacing_mm: float
) -> FloatMap:
    if contrast is not Contrast.T2W:
        return np.where(mask, np.interp(image, T1W_OF_FLAIR, curve), 0.0).astype(np.float32)
    made = np.interp(image, T1W, curve)
    rim = mask & ~erode(mask, round(RIM_MM / spacing_mm))
    made = np.where(rim, np.minimum(made, np.interp(image, RIM_T1W, RIM_T2W_MOST)), made)
    return np.where(mask, made, 0.0).astype(np.float32)
