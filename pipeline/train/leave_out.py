"""Normative statistics as they would be without one of the scans that they were taken from.

A scan lies nearer to a mean, and within a spread, that it had a part in: among 33 scans a z-score of 4 is one of 6
without the scan itself. The network cannot forget it; these statistics can.
"""

import numpy as np

from anomalyd.pipeline.bundle import Bundle, Normative
from anomalyd.pipeline.stages.normative import components
from anomalyd.pipeline.train.people import names_of
from anomalyd.pipeline.volume import BoolMap, FloatMap

MIN_PEOPLE = 4  # fewer leave no spread when one goes


def normative_without(bundle: Bundle, image: FloatMap, healthy: FloatMap, mask: BoolMap) -> Normative | None:
    """The bundle's statistics less one scan of a person who trained it; None where it has none, or too few people.

    image, healthy, mask: the scan in the bundle's box, its reconstruction, its brain.
    """
    everybody = bundle.normative
    people = len(names_of(bundle.description.training.sources))
    if everybody is None or people < MIN_PEOPLE:
        return None
    settings = bundle.description.score
    found = components(image, healthy, mask, tuple(everybody.mean), settings.smooth_voxels)
    mean, spread = dict(everybody.mean), dict(everybody.spread)
    for name, values in found.items():
        mean[name], spread[name] = _less_one(mean[name], spread[name], np.where(mask, values, mean[name]), people)
    return Normative(mean, spread)


def _less_one(mean: FloatMap, spread: FloatMap, values: FloatMap, people: int) -> tuple[FloatMap, FloatMap]:
    """Mean and standard deviation of the others, from those of all (Welford's update run backwards).

    The bundle's maps are smoothed, and no spread lies below a floor: the others' neither.
    """
    away = values - mean
    variance = ((people - 1) * spread**2 - people / (people - 1) * away**2) / (people - 2)
    floor = float(spread.min()) ** 2
    without = (mean - away / (people - 1)).astype(np.float32)
    return without, np.sqrt(np.maximum(variance, floor)).astype(np.float32)
