"""From files to files with everything in between: selection, reading, the whole analysis, results; no command line.

The bundle finds intensities that the made-up brain does not have, so a lesion at a known point is really found.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest

from anomalyd.errors import ConfigError
from anomalyd.pipeline.analyse import Runtime
from anomalyd.pipeline.bundle import Bundle
from anomalyd.pipeline.finding import Contrast, Stage
from anomalyd.pipeline.nifti import read_nifti, write_nifti
from anomalyd.pipeline.offline import Offline, Request, analyse_path
from anomalyd.pipeline.results.files import NIFTI_NAMES
from anomalyd.pipeline.results.version import version_line
from anomalyd.pipeline.settings import PipelineSettings
from anomalyd.pipeline.terms import ResultKind
from anomalyd.pipeline.volume import Volume
from findings import distances
from intensity_bundle import THRESHOLD, intensity_bundle
from phantoms import PhantomWriter, PointLPS, insert_lesion
from tiny_bundle import made_up_brain

LESION: PointLPS = (28.0, -35.0, 22.0)
RADIUS_MM = 11.0
NOW = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
COARSE = PhantomWriter(spacing_mm=(4.0, 3.0, 3.0))
Run = Callable[..., Offline]


@pytest.fixture(scope="module")
def head() -> Volume:
    """A stripped head with a dark ball in the left frontal lobe."""
    return insert_lesion(made_up_brain(noise=8.0), LESION, RADIUS_MM, 150.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return intensity_bundle(tmp_path_factory.mktemp("bundle") / "intensity")


@pytest.fixture
def request_t1w(bundle: Bundle) -> Request:
    settings = PipelineSettings(bundles=(bundle.path,), device="cpu")
    return Request(settings, NOW, runtime=Runtime("cpu", 1))


def marked_points(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(n, 3) LPS mm of a SEG's voxels, from its frames' own attributes."""
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    steps = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, dtype=float)
    points = []
    for frame, groups in zip(
        dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns),
        dataset.PerFrameFunctionalGroupsSequence,
        strict=True,
    ):
        origin = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        row, column = np.nonzero(frame)
        points.append(origin + np.outer(column * steps[1], cosines[:3]) + np.outer(row * steps[0], cosines[3:]))
    return np.concatenate(points)


@pytest.mark.slow
@pytest.mark.parametrize(
    "writer",
    [
        PhantomWriter(plane="axial", order="reversed"),
        PhantomWriter(plane="sagittal", order="shuffled", flips=("columns",)),
        PhantomWriter(plane="coronal", flips=("rows",)),
        PhantomWriter(plane="oblique", order="shuffled"),
        PhantomWriter(plane="axial", spacing_mm=(6.0, 2.0, 3.0)),
        PhantomWriter(plane="sagittal", enhanced=True, groups_per_frame=True, order="reversed"),
        PhantomWriter(plane="axial", missing=(11,), transfer_syntax="1.2.840.10008.1.2.4.80"),
    ],
    ids=[
        "axial",
        "sagittal flipped",
        "coronal flipped",
        "oblique",
        "6 mm slices",
        "enhanced",
        "slice missing, JPEG-LS",
    ],
)
def test_a_lesion_at_a_known_point_is_marked_there_however_the_head_is_scanned(
    writer: PhantomWriter, head: Volume, request_t1w: Request, tmp_path: Path
) -> None:
    writer.write_volume(head, tmp_path / "in")
    done = analyse_path(tmp_path / "in", tmp_path / "out", request_t1w)
    assert [outcome.status for outcome in done.outcomes] == ["analysed"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["lesions"][0]["centroid_lps_mm"] == pytest.approx(LESION, abs=max(writer.spacing_mm) / 2 + 1.0)
    assert report["lesions"][0]["sign"] == "hypo"
    points = marked_points(tmp_path / "out" / "segmentation.dcm")
    near = np.linalg.norm(points - np.array(LESION), axis=1) < RADIUS_MM + max(writer.spacing_mm)
    assert near.mean() > 0.9
    for mirror in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)):
        assert np.linalg.norm(points[near] - np.array(LESION) * mirror, axis=1).min() > RADIUS_MM


def test_one_series_leaves_its_results_in_the_folder_itself(
    head: Volume, bundle: Bundle, request_t1w: Request, tmp_path: Path
) -> None:
    series = COARSE.write_volume(head, tmp_path / "in")
    stages: list[tuple[str, Stage]] = []
    request = replace(request_t1w, writes_nifti=True, on_stage=lambda name, stage: stages.append((name, stage)))
    done = analyse_path(tmp_path / "in", tmp_path / "out", replace(request, kinds=frozenset(ResultKind)))
    assert done.exit_code == 0
    out = tmp_path / "out"
    assert len(list((out / "score-map").glob("*.dcm"))) == series.grid.shape[0]
    assert len(list((out / "heatmap").glob("*.dcm"))) == series.grid.shape[0]
    assert {path.name for path in out.iterdir()} == {
        "report.json", "contact-sheet.png", "segmentation.dcm", "structured-report.dcm", "summary.dcm",
        "parametric-map.dcm", "labelmap.dcm", "heatmap", "score-map", *(f"{name}.nii.gz" for name in NIFTI_NAMES),
    }  # fmt: skip
    report = json.loads((out / "report.json").read_text())
    assert report["series_instance_uid"] == series.series_uid
    assert (report["status"], report["reason"], report["contrast"]) == ("analysed", None, "T1w")
    assert report["bundle"] == {"id": bundle.model.bundle_id, "digest": bundle.model.digest}
    assert report["provenance"]["version_line"] == version_line(bundle.model)
    assert report["threshold"] == THRESHOLD
    assert list(report["timings_s"]) == [str(stage) for stage in Stage]
    assert [stage for _, stage in stages] == list(Stage)
    assert {name for name, _ in stages} == {series.series_uid}


def test_maps_lie_on_the_source_grid_and_agree_with_each_other(
    head: Volume, request_t1w: Request, tmp_path: Path
) -> None:
    series = COARSE.write_volume(head, tmp_path / "in")
    analyse_path(tmp_path / "in", tmp_path / "out", replace(request_t1w, writes_nifti=True))
    maps = {name: read_nifti(tmp_path / "out" / f"{name}.nii.gz") for name in NIFTI_NAMES}
    for volume in maps.values():
        assert volume.grid.shape == series.grid.shape
        assert volume.grid.index_to_lps == pytest.approx(series.grid.index_to_lps, abs=1e-3)
    score, mask, brain = (maps[name].voxels for name in ("anomaly-map", "anomaly-mask", "brain-mask"))
    assert score.min() >= 0
    assert (score[brain == 0] == 0).all()
    assert (score[mask == 1] >= THRESHOLD).all()
    assert set(np.unique(maps["anomaly-sign"].voxels)) <= {-1, 0, 1}
    assert np.count_nonzero(mask) == len(marked_points(tmp_path / "out" / "segmentation.dcm"))


def test_the_same_input_gives_the_same_files(head: Volume, request_t1w: Request, tmp_path: Path) -> None:
    COARSE.write_volume(head, tmp_path / "in")
    contents = []
    for out in (tmp_path / "first", tmp_path / "second"):
        analyse_path(tmp_path / "in", out, replace(request_t1w, writes_nifti=True))
        files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "report.json")
        contents.append({str(path.relative_to(out)): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("first", "second")]
    for report in reports:
        del report["timings_s"]
    assert reports[0] == reports[1]


def test_several_series_get_a_folder_each_and_every_one_an_answer(
    head: Volume, request_t1w: Request, tmp_path: Path
) -> None:
    t1w = COARSE.write_volume(head, tmp_path / "in" / "a")
    t2w = replace(COARSE, contrast=Contrast.T2W).write(tmp_path / "in" / "b")
    gaps = replace(COARSE, missing=(3, 9, 20, 21)).write(tmp_path / "in" / "c")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    done = analyse_path(tmp_path / "in", tmp_path / "out", request_t1w)
    assert done.exit_code == 0
    assert [path.name for path, _ in done.unreadable] == ["notes.txt"]
    reports = {uid: json.loads((tmp_path / "out" / uid / "report.json").read_text()) for uid in _uids(done)}
    assert {uid: report["status"] for uid, report in reports.items()} == {
        t1w.series_uid: "analysed",
        t2w.series_uid: "ineligible",
        gaps.series_uid: "ineligible",
    }
    assert reports[t2w.series_uid]["reason"]["text"].startswith("no bundle for this contrast")
    assert reports[t2w.series_uid]["contrast"] == "T2w"
    assert reports[gaps.series_uid]["reason"]["value"] == 4
    assert "1 files of the folder are no readable DICOM objects" in reports[t1w.series_uid]["warnings"]
    assert not (tmp_path / "out" / t2w.series_uid / "heatmap").exists()


def test_a_nifti_file_is_analysed_on_its_own_grid(head: Volume, request_t1w: Request, tmp_path: Path) -> None:
    write_nifti(tmp_path / "head.nii.gz", head.voxels, head.grid)
    request = replace(request_t1w, contrast=Contrast.T1W, writes_nifti=True)
    done = analyse_path(tmp_path / "head.nii.gz", tmp_path / "out", request)
    assert [outcome.status for outcome in done.outcomes] == ["analysed"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["series_instance_uid"] is None
    assert report["lesions"][0]["centroid_lps_mm"] == pytest.approx(LESION, abs=2.0)
    assert read_nifti(tmp_path / "out" / "anomaly-mask.nii.gz").grid.shape == head.grid.shape
    assert not list(tmp_path.glob("out/**/*.dcm"))


def test_a_scan_that_cannot_be_judged_is_withheld_with_the_reason(request_t1w: Request, tmp_path: Path) -> None:
    """A walnut of 110 ml is no brain."""
    brain = made_up_brain()
    walnut = np.where(distances(brain.grid, (0.0, 0.0, 0.0)) < 30.0, brain.voxels, np.float32(0.0))
    COARSE.write_volume(replace(brain, voxels=walnut), tmp_path / "in")
    done = analyse_path(tmp_path / "in", tmp_path / "out", request_t1w)
    assert done.exit_code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["status"] == "withheld"
    assert report["reason"]["criterion"]
    assert report["reason"]["text"]
    assert report["bundle"]["id"] == "intensity"
    assert report["lesions"] == []
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json"}


def test_what_an_earlier_run_left_does_not_stay_beside_the_new_answer(
    head: Volume, request_t1w: Request, tmp_path: Path
) -> None:
    COARSE.write_volume(head, tmp_path / "in")
    analyse_path(tmp_path / "in", tmp_path / "out", replace(request_t1w, writes_nifti=True))
    (tmp_path / "out" / "mine.txt").write_text("kept")
    replace(COARSE, contrast=Contrast.FLAIR).write(tmp_path / "other")
    done = analyse_path(tmp_path / "other", tmp_path / "out", request_t1w)
    assert [outcome.status for outcome in done.outcomes] == ["ineligible"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json", "mine.txt"}


def test_a_file_that_is_cut_off_fails_in_words_and_the_run_is_1(request_t1w: Request, tmp_path: Path) -> None:
    brain = made_up_brain()
    write_nifti(tmp_path / "head.nii", brain.voxels, brain.grid)
    (tmp_path / "head.nii").write_bytes((tmp_path / "head.nii").read_bytes()[:5000])
    done = analyse_path(tmp_path / "head.nii", tmp_path / "out", replace(request_t1w, contrast=Contrast.T1W))
    assert done.exit_code == 1
    (outcome,) = done.outcomes
    assert (outcome.status, outcome.report) == ("failed", None)
    assert "head.nii" in outcome.text


def test_an_empty_folder_is_1(request_t1w: Request, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert analyse_path(tmp_path / "in", tmp_path / "out", request_t1w).exit_code == 1


@pytest.mark.parametrize("name", ["notes.txt", "head.nii.gz", "absent"])
def test_what_the_caller_must_mend_is_a_configuration_error(name: str, request_t1w: Request, tmp_path: Path) -> None:
    """A file of another kind, a NIfTI file without its contrast, nothing at all."""
    if name != "absent":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=name.split(".", maxsplit=1)[0]):
        analyse_path(tmp_path / name, tmp_path / "out", request_t1w)


def test_a_calibrated_voxel_rate_moves_the_cut(head: Volume, request_t1w: Request, tmp_path: Path) -> None:
    COARSE.write_volume(head, tmp_path / "in")
    settings = request_t1w.settings.model_copy(update={"voxel_rate": 0.1})
    analyse_path(tmp_path / "in", tmp_path / "out", replace(request_t1w, settings=settings))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["threshold"] != THRESHOLD
    assert report["provenance"]["settings"]["voxel_rate"] == 0.1
    assert "10" in report["provenance"]["threshold_text"]


def _uids(done: Offline) -> list[str]:
    return [str(outcome.series_uid) for outcome in done.outcomes]
