"""The maps that a bundle's score must beat, in the bundle's box: the published ones, and those without a network.

Every map says how abnormal a voxel is: float32 [slice, row, column], >= 0, 0 outside the brain. A signed map keeps the
side on which lesions of the contrast lie, and is 0 on the other. Sections are those of METHOD.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anomalyd.pipeline.analyse import score_box
from anomalyd.pipeline.bundle import Bundle, Normative
from anomalyd.pipeline.stages.normalise import CEILING
from anomalyd.pipeline.stages.normative import ASYMMETRY_SMOOTHING, asymmetry, smooth_inside
from anomalyd.pipeline.stages.score import EROSION_ROUNDS, SIGMAS, erode, median, ssim_ensemble, ssim_maps
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.volume import BoolMap, FloatMap

Processing = Literal["own", "published", "smoothed"]
"""own: as the bundle does it. published: eroded by 3, median 5x5x5 (section 3). smoothed: what the
bundle's normative score gives its parts and their sum: Gaussian means inside the mask, then erosion."""

SHIPPED, OTHER_MODE = "bundle's score", "normative score"
SSIM_ENS, RESIDUAL, RESIDUAL_SIGNED = "SSIM-ens", "l1 residual", "residual, signed"
INTENSITY, ASYMMETRY = "intensity", "left-right asymmetry, signed"
TEMPLATE_Z, TEMPLATE_Z_SIGNED = "template z-score", "template z-score, signed"


@dataclass(frozen=True, slots=True)
class MapName:
    """What a map is, and what was done to it."""

    map: str
    processing: Processing


SHIPPED_NAME = MapName(SHIPPED, "own")


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One scan in the box: standard intensities (0 outside the mask), healthy reconstruction, brain."""

    image: FloatMap
    healthy: FloatMap
    mask: BoolMap


def lesion_sign(contrast: Contrast) -> Literal[-1, 1]:
    """-1 where lesions are mostly darker than healthy tissue (T1w), else 1 (T2w, FLAIR)."""
    return -1 if contrast is Contrast.T1W else 1


def ssim_name(sigma: float) -> str:
    """The map of one scale (sigma in voxels)."""
    return f"SSIM sigma {sigma:g}"


def baseline_maps(scene: Scene, bundle: Bundle) -> dict[MapName, FloatMap]:
    """All maps that stand beside the bundle's score; no template z-score where it knows no healthy intensities."""
    settings, sign = bundle.description.score, lesion_sign(bundle.model.contrast)
    mask, smooth_voxels = scene.mask, settings.smooth_voxels
    raw = dict(_reconstruction_maps(scene, sign))
    single = {ssim_name(sigma) for sigma in SIGMAS}  # the seed's comparison: through the published processing alone
    smooth = {name: smooth_inside(values, mask, smooth_voxels) for name, values in raw.items() if name not in single}
    smooth[ASYMMETRY] = sign * asymmetry(scene.image, mask, ASYMMETRY_SMOOTHING * smooth_voxels)
    normative = bundle.normative
    if normative is not None and "intensity" in normative.mean:
        z = template_z(scene, normative, smooth_voxels)
        smooth |= {TEMPLATE_Z: np.abs(z), TEMPLATE_Z_SIGNED: sign * z}
        raw[TEMPLATE_Z_SIGNED] = smooth[TEMPLATE_Z_SIGNED]
    inside = erode(mask, settings.erode_voxels)
    made = {MapName(name, "published"): published(values, mask) for name, values in raw.items()}
    blurred = {name: smooth_inside(values, mask, settings.blur_voxels) for name, values in smooth.items()}
    made |= {MapName(name, "smoothed"): _positive(values, inside) for name, values in blurred.items()}
    if "normative" in bundle.modes and settings.mode != "normative":
        made[MapName(OTHER_MODE, "own")] = score_box(scene.image, scene.healthy, mask, bundle, "normative")
    return made


def _reconstruction_maps(scene: Scene, sign: Literal[-1, 1]) -> Iterator[tuple[str, FloatMap]]:
    """Maps of image and reconstruction, before any post-processing; signed ones with their sign."""
    residual = scene.image - scene.healthy
    yield SSIM_ENS, np.float32(1.0) - ssim_ensemble(scene.image, scene.healthy)
    for sigma, ssim in zip(SIGMAS, ssim_maps(scene.image, scene.healthy), strict=True):
        yield ssim_name(sigma), (1.0 - ssim).numpy()
    yield RESIDUAL, np.abs(residual)
    yield RESIDUAL_SIGNED, sign * residual
    yield INTENSITY, scene.image if sign > 0 else np.float32(CEILING) - scene.image
    yield ASYMMETRY, sign * asymmetry(scene.image, scene.mask, 0.0)


def published(values: FloatMap, mask: BoolMap) -> FloatMap:
    """A map after the published post-processing: per slice eroded by 3, then median 5x5x5 (section 3)."""
    return median(_positive(values, erode(mask, EROSION_ROUNDS)))


def template_z(scene: Scene, normative: Normative, smooth_voxels: float) -> FloatMap:
    """Signed z-score of the smoothed intensity against healthy people, after histogram standardisation (section 9)."""
    smooth = smooth_inside(scene.image, scene.mask, smooth_voxels)
    z = (smooth - normative.mean["intensity"]) / normative.spread["intensity"]
    return np.where(scene.mask, z, np.float32(0.0)).astype(np.float32)


def _positive(values: FloatMap, inside: BoolMap) -> FloatMap:
    """0 outside, and where the map has the other sign."""
    return np.where(inside, np.maximum(values, 0.0), 0.0).astype(np.float32)
