"""`anomalyd analyse` from the command line: exit codes, files, words; with a very small network."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from anomalyd.daemon import cli
from anomalyd.pipeline.finding import Contrast
from anomalyd.pipeline.nifti import read_nifti, write_nifti
from tiny_bundle import made_up_brain, tiny_bundle

MAPS = ("anomaly-map", "anomaly-mask", "anomaly-sign", "brain-mask", "reconstruction")
KEYS = {
    "series_instance_uid", "status", "reason", "contrast", "bundle", "score", "score_percentile", "threshold",
    "lesions", "warnings", "timings_s", "provenance",
}  # fmt: skip
Analyse = Callable[..., int]


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stripped head as NIfTI."""
    path = tmp_path_factory.mktemp("in") / "head.nii.gz"
    volume = made_up_brain(noise=10.0)
    write_nifti(path, volume.voxels, volume.grid)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").path


@pytest.fixture
def analyse(bundle: Path, tmp_path: Path) -> Analyse:
    config = tmp_path / "config.yaml"
    config.write_text(f"pipeline: {{bundles: [{bundle}], device: cpu, threads: 1}}\n")
    return lambda source, *more: cli.run(
        ["analyse", str(source), "--out", str(tmp_path / "out"), "--config", str(config), *more]
    )


def test_a_nifti_file_becomes_a_report_and_maps_on_its_own_grid(
    brain: Path, analyse: Analyse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyse(brain, "--contrast", "T1w", "--nifti", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(printed) >= KEYS
    assert printed["series_instance_uid"] is None
    assert (tmp_path / "out" / "contact-sheet.png").read_bytes().startswith(b"\x89PNG")
    grid = read_nifti(brain).grid
    for name in MAPS:
        written = read_nifti(tmp_path / "out" / f"{name}.nii.gz").grid
        assert written.shape == grid.shape
        assert written.index_to_lps == pytest.approx(grid.index_to_lps, abs=1e-4)


def test_a_contrast_without_a_bundle_is_an_answer_and_0(
    brain: Path, analyse: Analyse, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyse(brain, "--contrast", "FLAIR", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["status"] == "ineligible"
    assert printed["reason"]["criterion"] == "contrast"
    assert set(printed) >= KEYS


@pytest.mark.parametrize("more", [(), ("--contrast", "T3w"), ("--voxel-rate", "2")])
def test_what_cannot_be_asked_is_2(more: tuple[str, ...], brain: Path, analyse: Analyse) -> None:
    assert analyse(brain, *more) == 2


def test_a_file_that_is_no_image_is_2_and_an_empty_folder_1(
    analyse: Analyse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert analyse(tmp_path / "notes.txt") == 2
    (tmp_path / "empty").mkdir()
    assert analyse(tmp_path / "empty") == 1
    assert "no readable DICOM image was found" in capsys.readouterr().err
    assert analyse(tmp_path / "absent") == 2


def test_a_truncated_image_is_a_sentence_and_1(
    brain: Path, analyse: Analyse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(brain.read_bytes()[:2000])
    assert analyse(broken, "--contrast", Contrast.T1W.value) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert "failed" in captured.out


def test_a_corrupt_bundle_is_named_with_its_file_and_never_analysed_with(
    brain: Path, bundle: Path, analyse: Analyse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corrupt = tmp_path / "corrupt"
    corrupt.mkdir()
    for file in bundle.iterdir():
        (corrupt / file.name).write_bytes(file.read_bytes())
    weights = bytearray((corrupt / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (corrupt / "model.safetensors").write_bytes(weights)
    assert analyse(brain, "--contrast", "T1w", "--bundle", str(corrupt)) == 78
    said = capsys.readouterr().err
    assert "model.safetensors has SHA-256" in said
    assert "internal error" not in said
    assert not (tmp_path / "out" / "report.json").exists()
