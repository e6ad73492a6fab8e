"""The file of prepared scans travels: it is small, whole in itself, and leads to no scan."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomalyd.errors import ConfigError
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.train.cohort import Scan
from anomalyd.pipeline.train.cohort_file import Cohort, key_of, load_cohort, save_cohort
from tiny_cohort import tiny_cohort


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    first = tiny_cohort()
    away = tuple(replace(scan, path=Path("/mnt/ward7") / scan.path) for scan in first.scans)
    skipped = (("bad.nii.gz", "truncated"),)
    return replace(first, scans=away, skipped=skipped, contrast=Contrast.T2W, split_seed=11, preparation="published")


def test_everything_that_training_needs_comes_back(cohort: Cohort, tmp_path: Path) -> None:
    save_cohort(tmp_path / "cohort.npz", cohort, "made from these")
    found = load_cohort(tmp_path / "cohort.npz")
    assert key_of(tmp_path / "cohort.npz") == "made from these"
    for name in ("images", "masks", "is_train", "standard_knots"):
        np.testing.assert_array_equal(getattr(found, name), getattr(cohort, name))
    np.testing.assert_array_equal(found.template.brain.voxels, cohort.template.brain.voxels)
    np.testing.assert_array_equal(found.box.index_to_lps, cohort.box.index_to_lps)
    for name in ("skipped", "contrast", "split_seed", "preparation"):
        assert getattr(found, name) == getattr(cohort, name)
    facts = [(s.name, s.subject, s.source, s.licence, s.age) for s in found.scans]
    assert facts == [(s.name, s.subject, s.source, s.licence, s.age) for s in cohort.scans]


def test_no_path_of_the_machine_is_in_it_and_the_same_cohort_gives_the_same_bytes(
    cohort: Cohort, tmp_path: Path
) -> None:
    for name in ("a.npz", "b.npz"):
        save_cohort(tmp_path / name, cohort)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert not any("ward7".encode("utf-32-le") in archive.read(name) for name in archive.namelist())
    assert load_cohort(tmp_path / "a.npz").scans[0] == Scan(Path("p0.nii.gz"), "p0", "made up", "none", 30.0)


def test_a_file_from_before_there_was_a_contrast_in_it_is_read(cohort: Cohort, tmp_path: Path) -> None:
    save_cohort(tmp_path / "new.npz", cohort)
    with np.load(tmp_path / "new.npz") as stored:
        old = {name: stored[name] for name in stored.files if name not in ("contrast", "split_seed", "preparation")}
    old["scans"] = np.array(str(old["scans"]).replace('"name": "', '"path": "/home/somebody/'))
    np.savez_compressed(tmp_path / "old.npz", **old)
    found = load_cohort(tmp_path / "old.npz")
    assert (found.contrast, found.split_seed, found.preparation) == (Contrast.T1W, None, "standard")
    assert [scan.path for scan in found.scans] == [Path(f"p{k}.nii.gz") for k in range(5)]


@pytest.mark.parametrize("damage", ["cut", "other", "text", "bit"])
def test_what_is_no_such_file_or_a_damaged_one_is_refused(damage: str, cohort: Cohort, tmp_path: Path) -> None:
    path = tmp_path / "cohort.npz"
    save_cohort(path, cohort)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "bit":
        path.write_bytes(whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:])
    elif damage == "text":
        path.write_text("no array", encoding="utf-8")
    else:
        np.savez(path, weights=np.zeros(3))
    with pytest.raises(ConfigError, match=r"no file of prepared scans \(cohort.npz"):
        load_cohort(path)
