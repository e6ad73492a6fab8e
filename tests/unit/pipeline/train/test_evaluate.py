"""`anomalyd evaluate`: scans with masks and without, beside every rival, the same bytes again."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalyd.errors import ConfigError
from anomalyd.pipeline.nifti import write_nifti
from anomalyd.pipeline.settings import AnalysisSettings
from anomalyd.pipeline.train.baselines import SHIPPED
from anomalyd.pipeline.train.evaluate import EvaluationReport, evaluate_bundle
from anomalyd.pipeline.train.insert import insert_ellipsoid
from anomalyd.pipeline.volume import Grid
from intensity_bundle import intensity_bundle
from phantoms import PhantomWriter
from tiny_bundle import made_up_brain

FILES = ("results.csv", "results.md", "pr-curves.png", "overlays.png")
COMMAND = "anomalyd evaluate BUNDLE --images IMAGES"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, a scan with a dark ball, the healthy one, one whose mask lies elsewhere, and a file that is none."""
    folder = tmp_path_factory.mktemp("data")
    intensity_bundle(folder / "bundle")
    for name in ("images", "masks"):
        (folder / name).mkdir()
    brain = made_up_brain(noise=4.0)
    sick = insert_ellipsoid(brain, (30.0, 18.0, 14.0), (11.0, 11.0, 11.0), 60.0)
    write_nifti(folder / "images" / "healthy.nii.gz", brain.voxels, brain.grid)
    write_nifti(folder / "images" / "sick.nii.gz", sick.volume.voxels, brain.grid)
    write_nifti(folder / "masks" / "sick.nii.gz", sick.mask, brain.grid)
    (folder / "images" / "torn.nii").write_bytes(b"no image")
    return folder


def run(data: Path, out: Path) -> EvaluationReport:
    return evaluate_bundle(data / "bundle", data / "images", data / "masks", out, command=COMMAND)


@pytest.fixture(scope="module")
def report(data: Path) -> EvaluationReport:
    return run(data, data / "out")


def test_the_ball_is_found_and_counted(report: EvaluationReport) -> None:
    sick = next(scan for scan in report.scans if not scan.is_healthy)
    assert (sick.counts.lesions, sick.counts.found, sick.counts.false) == (1, 1, sick.counts.findings - 1)
    assert sick.lesion_ml == pytest.approx(4 / 3 * np.pi * 1.1**3, rel=0.1)
    assert sick.dice > 0.5
    assert all(0.0 <= ranking.auprc <= 1.0 for ranking in sick.rankings.values())


def test_a_scan_without_a_mask_is_healthy_and_its_false_findings_are_counted(report: EvaluationReport) -> None:
    healthy = next(scan for scan in report.scans if scan.is_healthy)
    assert healthy.name == "healthy.nii.gz"
    assert healthy.rankings == {}
    assert sorted(healthy.shares) == [0.01, 0.05, 0.1]
    assert healthy.counts.false == healthy.counts.findings


def test_the_table_has_one_row_for_each_scan_and_map(report: EvaluationReport) -> None:
    with (report.table.parent / "results.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    sick = next(scan for scan in report.scans if not scan.is_healthy)
    assert len(rows) == 1 + len(sick.rankings)
    assert len({(row["scan"], row["map"], row["processing"]) for row in rows}) == len(rows)
    shipped = next(row for row in rows if row["scan"] == sick.name and row["map"] == SHIPPED)
    assert float(shipped["auprc"]) == pytest.approx(
        max(r.auprc for n, r in sick.rankings.items() if n.map == SHIPPED), abs=1e-4
    )
    assert int(shipped["lesions_found"]) == 1


def test_the_page_says_what_made_it_and_who_was_left_out(report: EvaluationReport, data: Path) -> None:
    text = report.table.read_text(encoding="utf-8")
    assert COMMAND in text
    assert "Bundle digest" in text
    assert "torn.nii" in text
    assert [name for name, _ in report.skipped] == ["torn.nii"]
    for name in FILES[2:]:
        with Image.open(data / "out" / name) as picture:
            assert min(picture.size) > 100


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(report: EvaluationReport, data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (report.table.parent / name).read_bytes(), name


def test_it_cuts_as_the_settings_say(report: EvaluationReport, data: Path, tmp_path: Path) -> None:
    settings = AnalysisSettings(voxel_rate=0.1)
    lower = evaluate_bundle(data / "bundle", data / "images", data / "masks", tmp_path, settings=settings)
    assert "10% of the voxels" in lower.table.read_text()
    assert sum(scan.marked_share for scan in lower.scans) != sum(scan.marked_share for scan in report.scans)


def test_a_mask_that_lies_beside_its_image_is_told(data: Path, tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    shutil.copy(data / "images" / "sick.nii.gz", tmp_path / "images")
    grid = made_up_brain().grid
    moved = grid.index_to_lps.copy()
    moved[:3, 3] += 500.0
    write_nifti(tmp_path / "masks" / "sick.nii.gz", made_up_brain().voxels > 0, Grid(grid.shape, moved))
    found = evaluate_bundle(data / "bundle", tmp_path / "images", tmp_path / "masks", tmp_path / "out")
    assert not found.scans
    assert "nothing inside its image" in found.skipped[0][1]


def test_a_dicom_folder_is_an_image_too(data: Path, tmp_path: Path) -> None:
    brain = made_up_brain(noise=4.0)
    sick = insert_ellipsoid(brain, (30.0, 18.0, 14.0), (11.0, 11.0, 11.0), 60.0)
    PhantomWriter(plane="axial", spacing_mm=(2.0, 2.0, 2.0)).write_volume(sick.volume, tmp_path / "images" / "case")
    (tmp_path / "masks").mkdir()
    write_nifti(tmp_path / "masks" / "case.nii.gz", sick.mask, brain.grid)
    found = evaluate_bundle(data / "bundle", tmp_path / "images", tmp_path / "masks", tmp_path / "out")
    assert found.skipped == ()
    assert found.scans[0].name == "case"
    assert found.scans[0].counts.found == 1


def test_a_folder_without_images_is_told(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no NIfTI file and no folder"):
        evaluate_bundle(data / "bundle", tmp_path, tmp_path, tmp_path / "out")
