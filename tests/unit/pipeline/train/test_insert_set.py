"""A development set from healthy scans: who is in it, what is written, and that it is the same again."""

import csv
from pathlib import Path

import numpy as np
import pytest

from anomalyd.errors import ConfigError
from anomalyd.pipeline.nifti import read_nifti, write_nifti
from anomalyd.pipeline.stages.orient import axis_grid
from anomalyd.pipeline.terms import Contrast
from anomalyd.pipeline.train.insert import STRENGTHS
from anomalyd.pipeline.train.insert_set import InsertReport, insert_lesions
from tiny_bundle import made_up_brain, tiny_bundle

SUBJECTS = ("ann", "ben")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """healthy/ with two subjects' scans of whole numbers, shapes/ with one mask."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("healthy", "shapes"):
        (folder / name).mkdir()
    for subject in SUBJECTS:
        brain = made_up_brain(noise=8.0 if subject == "ann" else 12.0)
        write_nifti(folder / "healthy" / f"{subject}.nii.gz", np.rint(brain.voxels).astype(np.int16), brain.grid)
    grid = axis_grid((20, 20, 20), 2.0, np.array([15.0, -10.0, 5.0]))
    distance = np.linalg.norm((np.indices(grid.shape).T - 9.5).T / np.array([8, 6, 4])[:, None, None, None], axis=0)
    write_nifti(folder / "shapes" / "lesion-1.nii.gz", (distance < 1).astype(np.uint8), grid)
    return folder


def make(data: Path, out: Path, subjects: tuple[str, ...] = (), trained: Path | None = None) -> InsertReport:
    return insert_lesions(
        data / "healthy",
        data / "shapes",
        out,
        contrast=Contrast.T1W,
        per_scan=2,
        seed=4,
        subjects=subjects,
        exclude_trained=trained,
    )


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made")
    assert make(data, out) == InsertReport(images=8, lesions=12, skipped=())
    return out


def test_every_strength_has_its_image_and_mask_and_the_healthy_scan_has_no_mask(made: Path) -> None:
    expected = {f"{subject}-{strength}.nii.gz" for subject in SUBJECTS for strength in STRENGTHS}
    assert {path.name for path in (made / "masks").iterdir()} == expected
    assert {path.name for path in (made / "images").iterdir()} == expected | {f"{s}-healthy.nii.gz" for s in SUBJECTS}


def test_what_differs_from_the_healthy_scan_is_what_the_mask_says(made: Path) -> None:
    healthy = read_nifti(made / "images" / "ann-healthy.nii.gz").voxels
    sick = read_nifti(made / "images" / "ann-obvious.nii.gz").voxels
    mask = read_nifti(made / "masks" / "ann-obvious.nii.gz").voxels > 0
    assert float(np.median((sick - healthy)[mask])) < -100.0
    assert np.array_equal(sick, np.rint(sick))  # stored as the scanner stored it


def test_the_table_names_every_lesion_with_its_place(made: Path) -> None:
    with (made / "lesions.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 12
    for row in rows:
        mask = read_nifti(made / "masks" / row["image"])
        centre = np.array([float(row[f"centre_{axis}_lps_mm"]) for axis in "xyz"])
        nearest = np.rint(mask.grid.to_index(centre)).astype(int)
        assert mask.voxels[tuple(nearest)] == 1, row
    total = sum(float(row["volume_ml"]) for row in rows if row["image"] == "ben-subtle.nii.gz")
    mask = read_nifti(made / "masks" / "ben-subtle.nii.gz")
    assert float(mask.voxels.sum()) * mask.grid.voxel_volume_mm3 / 1000.0 == pytest.approx(total, abs=0.01)


def test_a_subject_gets_the_same_whoever_else_is_there(data: Path, made: Path, tmp_path: Path) -> None:
    make(data, tmp_path, ("ben",))
    for path in sorted((tmp_path / "images").iterdir()) + sorted((tmp_path / "masks").iterdir()):
        assert path.read_bytes() == (made / path.parent.name / path.name).read_bytes(), path.name


def test_nobody_who_trained_the_bundle_is_taken(data: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny").path
    text = (bundle / "bundle.yaml").read_text(encoding="utf-8")
    assert "subjects: []" in text
    (bundle / "bundle.yaml").write_text(text.replace("subjects: []", "subjects: [ann]"), encoding="utf-8")
    assert make(data, tmp_path / "out", trained=bundle).images == 4
    assert not list((tmp_path / "out" / "images").glob("ann-*"))
    with pytest.raises(ConfigError, match="every subject trained"):
        make(data, tmp_path / "none", ("ann",), trained=bundle)


def test_an_unknown_subject_and_a_folder_without_masks_are_told(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown subjects zoe"):
        make(data, tmp_path, ("zoe",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no lesion mask"):
        insert_lesions(
            data / "healthy", tmp_path / "empty", tmp_path / "out", contrast=Contrast.T1W, per_scan=1, seed=1
        )


def test_a_second_set_does_not_go_into_the_first_ones_folder(data: Path, made: Path) -> None:
    before = (made / "lesions.csv").read_bytes()
    with pytest.raises(ConfigError, match="holds something already"):
        make(data, made, ("ann",))
    assert (made / "lesions.csv").read_bytes() == before
