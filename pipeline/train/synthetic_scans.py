"""Whole scans of a contrast made from T1w scans of people who do not train: to calibrate on where real ones are few."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from anomalyd.errors import AnomalydError
from anomalyd.pipeline.nifti import write_nifti
from anomalyd.pipeline.stages.normalise import CEILING, piecewise
from anomalyd.pipeline.stages.orient import resample
from anomalyd.pipeline.stages.prepare import align, boxed, standardise
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.train.cohort import Scan
from anomalyd.pipeline.train.cohort_file import Cohort
from anomalyd.pipeline.train.completed import synthesis_rng
from anomalyd.pipeline.train.prepare import OnScan, head_of
from anomalyd.pipeline.train.synthetic_contrast import synthesise
from anomalyd.pipeline.volume import Volume

GREYS = 1000.0  # of 1.0 in the files


def write_synthetic_scans(
    t1w: Cohort, contrast: Contrast, folder: Path, *, seed: int, on_scan: OnScan
) -> tuple[Scan, ...]:
    """One NIfTI file for each held-out scan of the T1w cohort, upright and stripped; older ones are replaced.

    A T1w scan that cannot be placed is passed over: it is no part of the cohort either.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(_written(t1w, contrast, folder, seed, on_scan))


def _written(t1w: Cohort, contrast: Contrast, folder: Path, seed: int, on_scan: OnScan) -> Iterator[Scan]:
    for number, scan in enumerate(t1w.held_out_scans):
        on_scan(number, len(t1w.held_out_scans), f"made scans, {contrast}")
        path = folder / f"{contrast.lower()}-of-{scan.subject}.nii.gz"
        try:
            made = _made(scan, t1w, contrast, seed)
        except AnomalydError:
            continue
        write_nifti(path, np.rint(made.voxels * GREYS).astype(np.int16), made.grid)
        yield replace(scan, path=path, series=None, is_synthetic=True)


def _made(scan: Scan, t1w: Cohort, contrast: Contrast, seed: int) -> Volume:
    """As in the cohort (completed.py), on the scan's own upright grid."""
    volume, head = scan.read(), head_of(scan)
    registration = align(head, t1w.template)
    box = boxed(volume, head, registration, t1w.box)
    normalised = standardise(box, t1w.standard_knots)
    grid = head.volume.grid
    to_template = np.asarray(np.linalg.inv(registration.template_to_source), dtype=np.float64)
    bias = resample(Volume(normalised.bias, t1w.box), grid, to_template)
    divisor = np.where(bias > 0.1, bias, np.float32(1.0))  # noqa: PLR2004 - 0 outside the box
    flat = ((head.volume.voxels - np.float32(box.offset)) / divisor).astype(np.float32)
    standard = np.clip(piecewise(flat, normalised.source_knots, normalised.standard_knots), 0.0, CEILING)
    rng = synthesis_rng(seed, contrast, scan.subject)
    spacing_mm = float(grid.spacing_mm[0])
    return Volume(synthesise(standard.astype(np.float32), head.brain.mask, contrast, rng, spacing_mm), grid)
