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


def test_names_of_the_bids_kind_tell_subject_and_contrast(tmp_path: Path) -> None:
    for name in ("sub-07_ses-1_T1w.nii.gz", "sub-07_ses-2_T1w.nii.gz", "sub-07_T2w.nii.gz", "sub-08_T1w.nii"):
        (tmp_path / name).touch()
    assert [s.subject for s in list_scans(tmp_path, "T1w")] == ["sub-07", "sub-07", "sub-08"]
    assert [s.name for s in list_scans(tmp_path, "T2w")] == ["sub-07_T2w.nii.gz"]


def test_an_index_that_cannot_be_used_says_what_is_wrong(tmp_path: Path) -> None:
    index = tmp_path / "index.csv"
    index.write_text("name,who\na,b\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="file, subject, contrast are needed"):
        list_scans(tmp_path, "T1w")
    index.write_text("file,subject,contrast,age\na.nii,x,T1w,young\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="'young'"):
        list_scans(tmp_path, "T1w")
    index.write_text("file,subject,contrast\na.nii,,T1w\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no file or no subject"):
        list_scans(tmp_path, "T1w")
