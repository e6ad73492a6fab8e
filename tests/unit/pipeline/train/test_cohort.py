"""Who trains and who is held out."""

from pathlib import Path

import numpy as np
import pytest

from anomalyd.errors import ConfigError
from anomalyd.pipeline.nifti import write_nifti
from anomalyd.pipeline.train.cohort import Scan, list_scans, split_by_subject
from tiny_bundle import made_up_brain


def scan(subject: str) -> Scan:
    return Scan(Path(f"{subject}.nii.gz"), subject, "", "", None)


SCANS = (*(scan(f"{site}-{k:02}") for site in ("london", "oslo") for k in range(10)), scan("alone-1"))


def test_no_subject_is_on_both_sides_and_the_seed_decides() -> None:
    split = split_by_subject(SCANS, seed=7)
    assert not {s.subject for s in split.train} & {s.subject for s in split.held_out}
    assert split == split_by_subject(SCANS, seed=7)
    assert split != split_by_subject(SCANS, seed=8)


def test_every_large_site_is_held_out_in_part_and_a_single_subject_trains() -> None:
    split = split_by_subject(SCANS, seed=7)
    assert {s.site for s in split.held_out} == {"london", "oslo"}
    assert "alone-1" in {s.subject for s in split.train}


def test_an_index_chooses_contrast_and_prefixes_leave_subjects_out(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text(
        "file,subject,contrast,licence,age\n"
        "a.nii.gz,x-1,T1w,CC0,30\nb.nii.gz,x-1,T2w,CC0,\nc.nii.gz,nc-2,T1w,CC BY-NC,\n",
        encoding="utf-8",
    )
    for name in "abc":
        (tmp_path / f"{name}.nii.gz").touch()
    assert [s.path.name for s in list_scans(tmp_path, "T1w")] == ["a.nii.gz", "c.nii.gz"]
    only = list_scans(tmp_path, "T1w", ("nc-",))
    assert [(s.subject, s.licence, s.age) for s in only] == [("x-1", "CC0", 30.0)]
    with pytest.raises(ConfigError, match="no FLAIR scan"):
        list_scans(tmp_path, "FLAIR")


def test_without_an_index_each_file_is_a_subject(tmp_path: Path) -> None:
    brain = made_up_brain()
    for name in ("b.nii.gz", "a.nii"):
        write_nifti(tmp_path / name, brain.voxels.astype(np.int16), brain.grid)
    assert [s.subject for s in list_scans(tmp_path, "T1w")] == ["a", "b"]
