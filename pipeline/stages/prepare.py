"""From a volume to the bundle's box: orient, brain mask, register, normalise; training and analysis call the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomalyd.pipeline.bundle import Template
from anomalyd.pipeline.finding import Stage
from anomalyd.pipeline.stages.brain import BrainMask, brain_mask
from anomalyd.pipeline.stages.normalise import PERCENTILES, Normalised, normalise
from anomalyd.pipeline.stages.orient import area_average, orient, resample
from anomalyd.pipeline.stages.register import Registration, register
from anomalyd.pipeline.volume import BoolMap, FloatMap, Grid, Volume

BOX_MASK_SHARE = 0.5  # a box voxel is brain where at least half of it is


@dataclass(frozen=True, slots=True, eq=False)
class Upright:
    """A volume on patient axes with its brain mask and the brain alone (0 outside)."""

    volume: Volume
    brain: BrainMask

    @property
    def stripped(self) -> Volume:
        """The volume, 0 outside the brain, background value taken off."""
        low = float(self.volume.voxels.min())
        inside = np.where(self.brain.mask, self.volume.voxels - low, 0.0).astype(np.float32)
        return Volume(inside, self.volume.grid)


@dataclass(frozen=True, slots=True, eq=False)
class Boxed:
    """The brain in the bundle's box.

    image: float32 intensities of the source above offset, averaged over the box voxels; mask: bool, brain.
    offset: the source's least value where that is negative, else 0.
    """

    image: FloatMap
    mask: BoolMap
    offset: float


def upright(volume: Volume, on_stage: Callable[[Stage], None] = lambda _: None) -> Upright:
    """The volume on patient axes and where its brain is."""
    on_stage(Stage.ORIENT)
    oriented = orient(volume)
    on_stage(Stage.BRAIN)
    return Upright(oriented, brain_mask(oriented))


def boxed(volume: Volume, head: Upright, registration: Registration, box: Grid) -> Boxed:
    """The source's voxels averaged into the box, and the brain mask there."""
    offset = min(0.0, float(volume.voxels.min()))
    above = Volume(volume.voxels - np.float32(offset), volume.grid) if offset else volume
    image = area_average(above, box, registration.template_to_source)
    share = resample(Volume(head.brain.mask.astype(np.float32), head.volume.grid), box, registration.template_to_source)
    return Boxed(image, np.asarray(share >= BOX_MASK_SHARE), offset)


def align(head: Upright, template: Template, on_stage: Callable[[Stage], None] = lambda _: None) -> Registration:
    """Where the template lies in the source."""
    on_stage(Stage.REGISTER)
    return register(head.stripped, head.brain.mask, template)


def standardise(
    box: Boxed,
    standard_knots: NDArray[np.float64] | None,
    on_stage: Callable[[Stage], None] = lambda _: None,
    *,
    percentiles: Sequence[float] = PERCENTILES,
) -> Normalised:
    """Comparable intensities in the box."""
    on_stage(Stage.NORMALISE)
    return normalise(box.image, box.mask, standard_knots, percentiles)
