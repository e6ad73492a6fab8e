"""A head made of the bundle's own template: shows at start that the pipeline works, and warms every part of it."""

import numpy as np
from scipy import ndimage

from anomalyd.pipeline.bundle import Bundle
from anomalyd.pipeline.volume import Volume

BONE_MM, SCALP_MM = 5.0, 9.0
"""Dark and bright shells around the brain, so that it is taken for a head and the brain is looked for."""
SCALP_BRIGHTNESS = 1.3
SEED_TEXT = "canary"


def canary_of(bundle: Bundle) -> Volume:
    """The template's brain inside a skull; no patient's."""
    template = bundle.template
    distance_mm = ndimage.distance_transform_edt(
        ~template.mask, sampling=tuple(float(mm) for mm in template.brain.grid.spacing_mm)
    )
    head = np.where(template.mask, template.brain.voxels, 0.0)
    scalp = (distance_mm > BONE_MM) & (distance_mm <= SCALP_MM)
    head[scalp] = SCALP_BRIGHTNESS * float(np.percentile(head[template.mask], 95))
    noise = np.random.default_rng(0).normal(0.0, 0.01 * float(head.max()), head.shape)
    return Volume(np.abs(head + noise).astype(np.float32), template.brain.grid)
