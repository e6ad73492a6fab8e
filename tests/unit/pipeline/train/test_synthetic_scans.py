"""Whole scans made of people who do not train, to calibrate on: they go through the very analysis that patients get."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from anomalyd.pipeline.nifti import read_nifti, write_nifti
from anomalyd.pipeline.stages.normalise import PERCENTILES
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.train.cohort import Scan
from anomalyd.pipeline.train.cohort_file import Cohort
from anomalyd.pipeline.train.synthetic_scans import write_synthetic_scans
from anomalyd.pipeline.volume import Grid
from tiny_bundle import made_up_brain
from tiny_cohort import tiny_cohort


def cohort_of(scan: Path) -> Cohort:
    """One held-out person with a real file, in a box that holds the made-up brain; a second whose file is torn."""
    cohort = tiny_cohort(2)
    torn = scan.with_name("torn.nii.gz")
    torn.write_bytes(b"no picture")
    spacing = np.diag([8.0, 8.0, 8.0, 1.0])
    shape = (24, 28, 24)
    spacing[:3, 3] = [-8.0 * (n - 1) / 2 for n in shape[::-1]]
    return replace(
        cohort,
        box=Grid(shape, spacing),
        scans=(Scan(scan, "p0", "made up", "none", 30.0), Scan(torn, "p1", "made up", "none", 31.0)),
        is_train=np.array([False, False]),
        standard_knots=np.array(PERCENTILES) / 100,
    )


def test_held_out_people_are_written_in_the_other_contrast_and_a_torn_file_is_passed_over(tmp_path: Path) -> None:
    brain = made_up_brain(20.0)
    write_nifti(tmp_path / "p0.nii.gz", brain.voxels, brain.grid)
    cohort = cohort_of(tmp_path / "p0.nii.gz")
    seen: list[int] = []

    def on_scan(done: int, _of: int, _what: str) -> None:
        seen.append(done)

    made, again = (
        write_synthetic_scans(cohort, Contrast.FLAIR, tmp_path / name, seed=3, on_scan=on_scan) for name in "ab"
    )
    assert [(scan.subject, scan.is_synthetic) for scan in made] == [("p0", True)]
    assert seen == [0, 1, 0, 1]
    assert made[0].path.read_bytes() == again[0].path.read_bytes()
    volume = read_nifti(made[0].path)
    assert (
        0.3
        < (volume.voxels > 0).sum()
        * volume.grid.voxel_volume_mm3
        / ((brain.voxels > 0).sum() * brain.grid.voxel_volume_mm3)
        < 1.5
    )
