"""Cohorts of several contrasts as one, for one network: what brains share is learned from all of them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.train.cohort import Scan
from anomalyd.pipeline.train.cohort_file import Cohort
from anomalyd.pipeline.train.recipe import SHARES


def joined(cohorts: Sequence[Cohort]) -> Cohort:
    """All scans, drawn by SHARES; template, histogram and contrast are the first's. One cohort is left as it is."""
    if len(cohorts) == 1:
        return cohorts[0]
    return replace(
        cohorts[0],
        images=np.concatenate([cohort.images for cohort in cohorts]),
        masks=np.concatenate([cohort.masks for cohort in cohorts]),
        scans=tuple(scan for cohort in cohorts for scan in cohort.scans),
        is_train=np.concatenate([cohort.is_train for cohort in cohorts]),
        skipped=tuple(one for cohort in cohorts for one in cohort.skipped),
        share=np.array([_share(scan, cohort.contrast) for cohort in cohorts for scan in cohort.scans], dtype=np.int64),
    )


def _share(scan: Scan, contrast: Contrast) -> int:
    if contrast is Contrast.T1W:
        return SHARES["T1w"]
    return SHARES["synthetic" if scan.is_synthetic else "real"]
