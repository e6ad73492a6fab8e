"""dcmqi, the library behind 3D Slicer's import, reads the report and the optional maps."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses
from numpy.typing import NDArray

from anomalyd.pipeline.results.build import build_results
from anomalyd.pipeline.results.objects import ResultContext, ResultKind
from findings import BRIGHT, DARK, Ball, context_of, only
from phantoms import PhantomWriter

pytestmark = pytest.mark.peer

SERIES = {
    "oblique": PhantomWriter(spacing_mm=(5, 3, 3), plane="oblique", order="shuffled"),
    "enhanced": PhantomWriter(spacing_mm=(6, 3, 3), enhanced=True, plane="sagittal", flips=("columns",)),
}


def dcmqi(program: str, *arguments: str) -> None:
    """A program of the package dcmqi."""
    subprocess.run([Path(sys.executable).parent / program, *arguments], check=True, capture_output=True)


@pytest.fixture(params=list(SERIES.values()), ids=list(SERIES))
def writer(request: pytest.FixtureRequest) -> PhantomWriter:
    made: PhantomWriter = request.param
    return made


def report_of(context: ResultContext, folder: Path) -> list[dict[str, Any]]:
    """The measurement groups as tid1500reader tells them."""
    (folder / "sr.dcm").write_bytes(only(build_results(context, {ResultKind.SR}), ResultKind.SR).data)
    dcmqi("tid1500reader", "--inputDICOM", str(folder / "sr.dcm"), "--outputMetadata", str(folder / "sr.json"))
    groups: list[dict[str, Any]] = json.loads((folder / "sr.json").read_text())["Measurements"]
    return groups


def numbers_of(group: dict[str, Any]) -> dict[str, float]:
    return {
        " ".join([one["quantity"]["CodeMeaning"], one.get("derivationModifier", {}).get("CodeMeaning", "")]).strip():
            float(one["value"])
        for one in group["measurementItems"]
    }  # fmt: skip


@pytest.mark.parametrize("balls", [(DARK, BRIGHT), ()], ids=["two lesions", "nothing found"])
def test_tid1500reader_reads_every_group(writer: PhantomWriter, balls: tuple[Ball, ...], tmp_path: Path) -> None:
    context = context_of(writer.write(tmp_path / "series"), balls)
    finding = context.finding
    scan, *groups = report_of(context, tmp_path)
    assert numbers_of(scan)["Anomaly score of the scan"] == pytest.approx(finding.score)
    assert numbers_of(scan)["Number of candidates above threshold"] == len(balls)
    assert finding.model.digest in scan["measurementAlgorithmIdentification"]["AlgorithmParameters"][0]
    said = [one["conceptValue"] for one in scan["qualitativeEvaluations"]]
    assert any("no candidate above threshold" in text for text in said) is not bool(balls)
    assert len(groups) == 2 * len(balls)  # its volume, and its outline
    for group, lesion in zip(groups[::2], finding.lesions, strict=True):
        assert group["ReferencedSegment"] == lesion.number
        assert numbers_of(group) == {
            "Volume": pytest.approx(lesion.volume_mm3),
            "Anomaly score Mean": pytest.approx(lesion.mean_score),
            "Anomaly score Maximum": pytest.approx(lesion.max_score),
            **{f"Centroid {axis} (LPS)": pytest.approx(lesion.centroid_lps_mm["xyz".index(axis)]) for axis in "xyz"},
        }


def values_at_points(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, 3) LPS mm of the voxels that are not 0 (ITK images are LPS), and their values."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    steps = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    return np.array(image.GetOrigin()) + np.argwhere(array)[:, ::-1] @ steps.T, array[array != 0].astype(np.float64)


def on_the_grid(context: ResultContext, path: Path) -> NDArray[np.float64]:
    """What dcmqi wrote, at the voxels of the source."""
    points, values = values_at_points(path)
    indices = context.finding.grid.to_index(points)
    assert np.abs(indices - np.rint(indices)).max() < 0.02
    found = np.zeros(context.finding.grid.shape)
    found[tuple(np.rint(indices).astype(int).T)] = values
    return found


def test_the_label_map_comes_back_voxel_by_voxel(writer: PhantomWriter, tmp_path: Path) -> None:
    context = context_of(writer.write(tmp_path / "series"))
    (tmp_path / "labelmap.dcm").write_bytes(build_results(context, {ResultKind.LABELMAP})[0].data)
    files = ["--inputDICOM", str(tmp_path / "labelmap.dcm"), "--outputDirectory", str(tmp_path), "--outputType", "nii"]
    dcmqi("segimage2itkimage", *files)
    assert np.array_equal(on_the_grid(context, tmp_path / "1.nii"), context.finding.labels)


def test_the_parametric_map_comes_back_score_by_score(writer: PhantomWriter, tmp_path: Path) -> None:
    context = context_of(writer.write(tmp_path / "series"))
    (tmp_path / "map.dcm").write_bytes(build_results(context, {ResultKind.PARAMETRIC_MAP})[0].data)
    files = ["--inputDICOM", str(tmp_path / "map.dcm"), "--outputDirectory", str(tmp_path), "--outputType", "nii"]
    dcmqi("paramap2itkimage", *files)
    assert np.array_equal(on_the_grid(context, tmp_path / "pmap.nii.gz").astype(np.float32), context.finding.score_map)
