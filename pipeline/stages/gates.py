"""When a scan is not judged: each gate has a criterion, the value, the limit, and what it means in words."""

import numpy as np
from numpy.typing import NDArray

from anomalyd.errors import Withheld
from anomalyd.pipeline.bundle import GateSettings, Template
from anomalyd.pipeline.stages.prepare import Upright
from anomalyd.pipeline.stages.register import Registration
from anomalyd.pipeline.volume import Grid, PointsLPS, Volume

MIN_SLICES = 8
MIN_EXTENT_MM = 60.0
COVERAGE_WARNING = 0.95


def check_volume(volume: Volume) -> None:
    """Raises Withheld for an image of one value, too few slices, or a slab too thin to hold half a brain."""
    if float(volume.voxels.max()) <= float(volume.voxels.min()):
        raise Withheld("constant_image", float(volume.voxels.max()), "more than one value", "the image is constant")
    slices = int(min(volume.grid.shape))
    if slices < MIN_SLICES:
        text = f"{slices} slices along one axis, at least {MIN_SLICES} are needed"
        raise Withheld("slices", slices, MIN_SLICES, text)
    extents = [n * float(mm) for n, mm in zip(volume.grid.shape, volume.grid.spacing_mm, strict=True)]
    if min(extents) < MIN_EXTENT_MM:
        text = f"the field of view is {min(extents):.0f} mm along one axis, at least {MIN_EXTENT_MM:.0f} mm are needed"
        raise Withheld("field_of_view_mm", round(min(extents), 1), MIN_EXTENT_MM, text)


def check_brain(head: Upright, gates: GateSettings) -> float:
    """Brain volume in ml; raises Withheld where it is none that an adult can have."""
    brain_ml = float(head.brain.mask.sum()) * head.volume.grid.voxel_volume_mm3 / 1000.0
    low, high = gates.brain_ml
    if not low <= brain_ml <= high:
        text = f"the brain mask holds {brain_ml:.0f} ml, {low:.0f} to {high:.0f} ml are expected"
        raise Withheld("brain_volume_ml", round(brain_ml, 1), list(gates.brain_ml), text)
    return brain_ml


def check_registration(registration: Registration, gates: GateSettings) -> None:
    """Raises Withheld where the registered brain does not resemble the template or had to be stretched too much."""
    if registration.similarity < gates.similarity:
        text = (
            f"the registered brain correlates {registration.similarity:.2f} with the healthy template, at least "
            f"{gates.similarity:.2f} is needed: another contrast, a failed registration or a strong artefact"
        )
        raise Withheld("registration_similarity", round(registration.similarity, 3), gates.similarity, text)
    low, high = gates.scale
    if not low <= registration.scale <= high:
        text = f"the brain is {registration.scale:.2f} times the template's volume, {low} to {high} is plausible"
        raise Withheld("registration_scale", round(registration.scale, 3), list(gates.scale), text)


def check_coverage(
    volume: Volume, registration: Registration, template: Template, box: Grid, gates: GateSettings
) -> float:
    """Share of the template's brain in the box that the field of view holds; raises Withheld below the limit."""
    points = template.brain.grid.to_lps(np.argwhere(template.mask))
    in_box = _inside(box, points)
    matrix = registration.template_to_source
    covered = _inside(volume.grid, points[in_box] @ matrix[:3, :3].T + matrix[:3, 3])
    coverage = float(covered.mean())
    if coverage < gates.coverage:
        text = f"the field of view holds {coverage:.0%} of the brain, at least {gates.coverage:.0%} is needed"
        raise Withheld("brain_coverage", round(coverage, 3), gates.coverage, text)
    return coverage


def coverage_warning(coverage: float) -> tuple[str, ...]:
    """What is told of a field of view that lacks a part of the brain."""
    if coverage >= COVERAGE_WARNING:
        return ()
    return (f"the field of view holds {coverage:.0%} of the brain that is analysed",)


def _inside(grid: Grid, points_lps: PointsLPS) -> NDArray[np.bool_]:
    """Which points lie within the grid's voxel edges."""
    index = grid.to_index(points_lps)
    half = 0.5
    return np.asarray(((index >= -half) & (index <= np.array(grid.shape) - half)).all(axis=-1))
