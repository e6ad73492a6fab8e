"""DICOM series as training scans: whose they are, what they show, and what is wrong with the others."""

import csv
from pathlib import Path

import numpy as np
import pytest

from anomalyd.errors import ConfigError
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.train.cohort import find_scans, split_by_subject
from anomalyd.pipeline.train.dicom_scans import find_series, subject_of
from phantoms import PATIENT_MARKERS, PhantomWriter

SPACING = (8.0, 4.0, 4.0)


def write(folder: Path, person: str | None, seed: str, **how: object) -> None:
    attributes = {"PatientID": person, "PatientName": f"Name^{person}", "PatientAge": "042Y"}
    PhantomWriter(spacing_mm=SPACING, seed=seed, attributes=attributes, **how).write(folder, lesion_at=None)  # type: ignore[arg-type]  # keywords of the test


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two series of one person (classic and Enhanced), one of another, and what must not train."""
    folder = tmp_path_factory.mktemp("hospital")
    write(folder / "a" / "1", "MRN-1", "first")
    write(folder / "a" / "2", "MRN-1", "second", plane="sagittal", enhanced=True)
    write(folder / "b", "MRN-2", "third")
    write(folder / "t2", "MRN-2", "fourth", contrast=Contrast.T2W)
    write(folder / "holes", "MRN-3", "fifth", missing=(4, 5, 6, 7))
    write(folder / "nobody", None, "sixth")
    (folder / "notes.txt").write_text("called on Monday", encoding="utf-8")
    (folder / "b" / "torn.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\1" * 40)
    return folder


def test_series_of_one_person_share_a_subject_that_is_not_the_number(hospital: Path) -> None:
    scans = find_scans(hospital, "T1w").scans
    assert sorted(scan.subject for scan in scans) == sorted([*[str(subject_of("MRN-1"))] * 2, str(subject_of("MRN-2"))])
    assert subject_of(" MRN-1 ") == subject_of("MRN-1") != subject_of("MRN-2")
    assert {scan.age for scan in scans} == {42.0}
    assert all("MRN" not in scan.name + scan.subject + scan.source for scan in scans)
    for seed in range(5):
        split = split_by_subject(scans, seed)
        assert not {s.subject for s in split.train} & {s.subject for s in split.held_out}


def test_classic_and_enhanced_series_are_read_and_have_a_size(hospital: Path) -> None:
    for scan in find_scans(hospital, "T1w").scans:
        volume = scan.read()
        assert volume.voxels.max() > 500
        assert np.prod(volume.grid.shape) * 2 < scan.byte_count
        assert scan.path.is_dir()


def test_what_cannot_be_used_is_named_with_its_reason_and_other_kinds_are_counted(hospital: Path) -> None:
    skipped = dict(find_scans(hospital, "T1w").skipped)
    reasons = " | ".join(f"{what}: {why}" for what, why in skipped.items())
    assert f"{subject_of('MRN-3')} series" in reasons
    assert "4 of" in reasons
    assert "slices are missing" in reasons
    assert "no PatientID tells whose it is" in reasons
    assert skipped["1 other series"] == "contrast"
    assert "1 file" in skipped
    assert "MRN" not in reasons


def test_an_index_names_the_subjects_of_folders_that_do_not(hospital: Path) -> None:
    index = hospital / "index.csv"
    index.write_text("file,subject,contrast,licence,age\nnobody,carl,T1w,ours,61\nlost,dora,T1w,ours,\n", "utf-8")
    try:
        found = find_scans(hospital, "T1w")
    finally:
        index.unlink()
    assert [(scan.subject, scan.licence, scan.age) for scan in found.scans] == [("carl", "ours", 61.0)]
    assert found.skipped == (("lost", "index.csv names it, and it is not there"),)


def test_a_contrast_that_nothing_has_is_refused_with_what_was_found(hospital: Path) -> None:
    with pytest.raises(ConfigError, match=r"no FLAIR scan.*6 other series: contrast"):
        find_scans(hospital, "FLAIR")


def test_age_comes_from_the_header_or_from_birth_and_study(tmp_path: Path) -> None:
    dates = {"PatientAge": None, "PatientBirthDate": "19800401", "StudyDate": "20201001"}
    attributes = {**PATIENT_MARKERS, **dates}
    PhantomWriter(spacing_mm=SPACING, attributes=attributes).write(tmp_path, lesion_at=None)
    assert [one.age for one in find_series(tmp_path, Contrast.T1W).found] == [40.5]


def test_real_series_train_as_they_would_be_analysed(shared_data: Path) -> None:
    with (shared_data / "dicom" / "index.csv").open(newline="", encoding="utf-8") as lines:
        expected = {row["folder"] for row in csv.DictReader(lines) if row["expected"].startswith("analyse T1w")}
    found = find_series(shared_data / "dicom", Contrast.T1W)
    assert {one.folder.name for one in found.found} == expected
    assert len({one.subject for one in found.found}) == len(expected)
