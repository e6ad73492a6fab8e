"""The door `analyse`: deterministic, true to the source's geometry, and silent where it cannot judge."""

from dataclasses import replace

import numpy as np
import pytest

from anomalyd.errors import ConfigError, Withheld
from anomalyd.pipeline.analyse import Runtime, analyse
from anomalyd.pipeline.bundle import Bundle, GateSettings
from anomalyd.pipeline.finding import Finding, Stage
from anomalyd.pipeline.settings import AnalysisSettings
from anomalyd.pipeline.stages.orient import resample
from anomalyd.pipeline.train.insert import insert_ellipsoid
from anomalyd.pipeline.volume import Grid, SliceSource, Volume
from tiny_bundle import made_up_brain, tiny_bundle

LESION_LPS_MM = (30.0, 18.0, 14.0)
RUNTIME = Runtime("cpu", 1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A normative bundle would need training: this one's mean reconstruction is flat, so contrast is what it marks."""
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def sick() -> Volume:
    return insert_ellipsoid(made_up_brain(noise=4.0), LESION_LPS_MM, (11.0, 11.0, 11.0), 60.0).volume


def run(volume: Volume, bundle: Bundle, seed_text: str = "1.2.3", voxel_rate: float | None = None) -> Finding:
    settings = AnalysisSettings(voxel_rate=voxel_rate)
    return analyse(volume, bundle, settings, runtime=RUNTIME, seed_text=seed_text)


def regridded(volume: Volume, plane: str) -> Volume:
    """The same brain as another scanner would send it."""
    rotation = {
        "axial 6 mm": np.array([[0, 0, 1.0], [0, 1.0, 0], [1.0, 0, 0]]),
        "sagittal": np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]]),
        "coronal feet first": np.array([[0, 0, 1.0], [-1.0, 0, 0], [0, -1.0, 0]]),
        "oblique": _turned(np.array([[0, 0, 1.0], [0, 1.0, 0], [1.0, 0, 0]]), 0.25),
    }[plane]
    spacing = np.array([6.0 if plane == "axial 6 mm" else 1.8, 1.4, 1.4])
    shape = (26, 160, 160) if plane == "axial 6 mm" else (120, 160, 160)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * spacing
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    grid = Grid(shape, matrix)
    return Volume(resample(volume, grid), grid)


def _turned(
    axes: np.ndarray[tuple[int, ...], np.dtype[np.float64]], angle: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Axes tilted about x, then about z."""
    c, s = np.cos(angle), np.sin(angle)
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ axes)


def test_the_same_input_gives_the_same_bytes(sick: Volume, bundle: Bundle) -> None:
    first, second = run(sick, bundle), run(sick, bundle)
    for name in ("score_map", "sign_map", "labels", "brain_mask", "reconstruction"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes(), name
    assert (first.lesions, first.score, first.seeds, first.facts) == (
        second.lesions, second.score, second.seeds, second.facts,
    )  # fmt: skip


def test_another_series_draws_other_noise(sick: Volume, bundle: Bundle) -> None:
    assert run(sick, bundle, "1.2.3").seeds != run(sick, bundle, "1.2.4").seeds


def test_a_finding_keeps_its_promises(sick: Volume, bundle: Bundle) -> None:
    finding = run(sick, bundle)
    assert finding.score_map.dtype == np.float32
    assert finding.labels.dtype == np.uint16
    assert finding.score_map.min() >= 0.0
    assert not finding.score_map[~finding.brain_mask].any()
    assert not finding.reconstruction[~finding.brain_mask].any()
    assert (finding.score_map[finding.mask] >= finding.threshold).all()
    assert [lesion.number for lesion in finding.lesions] == list(range(1, int(finding.labels.max()) + 1))
    peaks = [lesion.max_score for lesion in finding.lesions]
    assert peaks == sorted(peaks, reverse=True)
    for lesion in finding.lesions:
        assert lesion.laterality is not None  # the registration of each analysis tells it
        low, high = lesion.bounding_box_lps_mm
        assert all(a < c < b for a, c, b in zip(low, lesion.centroid_lps_mm, high, strict=True))
        assert lesion.volume_mm3 == pytest.approx(
            int((finding.labels == lesion.number).sum()) * finding.grid.voxel_volume_mm3
        )


@pytest.mark.parametrize("plane", ["axial 6 mm", "sagittal", "coronal feet first", "oblique"])
def test_the_score_lies_at_the_same_place_in_any_orientation(plane: str, sick: Volume, bundle: Bundle) -> None:
    """Compared in LPS mm, voxel by voxel, with the upright original."""
    upright = run(sick, bundle)
    turned = run(regridded(sick, plane), bundle)
    moved = resample(Volume(turned.score_map, turned.grid), upright.grid)
    both = resample(Volume(turned.brain_mask.astype(np.float32), turned.grid), upright.grid) > 0.9
    both &= upright.brain_mask
    assert float(np.corrcoef(moved[both], upright.score_map[both])[0, 1]) > (0.75 if "6 mm" in plane else 0.85)
    index = tuple(np.rint(turned.grid.to_index(np.array(LESION_LPS_MM))).astype(int))
    assert turned.brain_mask[index]
    assert turned.sign_map[index] == -1


def test_stages_are_announced_in_order(sick: Volume, bundle: Bundle) -> None:
    seen: list[Stage] = []
    analyse(sick, bundle, AnalysisSettings(), runtime=RUNTIME, seed_text="x", on_stage=seen.append)
    assert seen == [stage for stage in Stage if stage not in (Stage.READ, Stage.RESULTS)]


def test_interpolated_slices_are_never_marked(sick: Volume, bundle: Bundle) -> None:
    finding = run(sick, bundle)
    marked = int(np.argmax((finding.labels > 0).sum(axis=(1, 2))))
    sources = tuple(None if k == marked else SliceSource("1.2") for k in range(sick.grid.shape[0]))  # type: ignore[arg-type]  # any UID does
    again = run(Volume(sick.voxels, sick.grid, sources), bundle)
    assert finding.labels[marked].any()
    assert not again.labels[marked].any()


def test_a_calibrated_voxel_rate_can_be_asked_for_and_an_unknown_one_is_refused(sick: Volume, bundle: Bundle) -> None:
    assert run(sick, bundle, voxel_rate=0.05).threshold == pytest.approx(0.35 * 0.95)
    with pytest.raises(ConfigError, match=r"0\.01, 0\.05, 0\.1"):
        run(sick, bundle, voxel_rate=0.02)


def _gated(bundle: Bundle, gates: GateSettings) -> Bundle:
    description = bundle.description.model_copy(update={"gates": gates})
    return Bundle(bundle.path, bundle.model, description, bundle.calibration)


def test_what_cannot_be_judged_is_withheld_with_its_criterion(sick: Volume, bundle: Bundle) -> None:
    shape = sick.grid.shape
    constant = Volume(np.full(shape, 7.0, dtype=np.float32), sick.grid)
    few = Volume(sick.voxels[30:36], Grid((6, *shape[1:]), sick.grid.index_to_lps))
    low_half = Volume(sick.voxels[:34], Grid((34, *shape[1:]), sick.grid.index_to_lps))
    inverted = np.where(sick.voxels > 0, 1000.0 - sick.voxels, 0.0).astype(np.float32)  # as another contrast is
    strict = _gated(bundle, GateSettings(brain_ml=(300.0, 2300.0), similarity=0.7))
    cases = {
        "constant_image": (constant, bundle),
        "slices": (few, bundle),
        "brain_volume_ml": (sick, _gated(bundle, GateSettings(brain_ml=(1500.0, 1600.0)))),
        "registration_similarity": (Volume(inverted, sick.grid), strict),
        "brain_coverage": (low_half, _gated(bundle, replace_gate(bundle, coverage=0.9))),
    }
    for criterion, (volume, judge) in cases.items():
        with pytest.raises(Withheld) as withheld:
            run(volume, judge)
        assert withheld.value.criterion == criterion
        assert withheld.value.text


def replace_gate(bundle: Bundle, **changes: float) -> GateSettings:
    return bundle.description.gates.model_copy(update=changes)


def test_a_negative_offset_of_the_source_comes_back_in_the_reconstruction(sick: Volume, bundle: Bundle) -> None:
    plain = run(sick, bundle)
    shifted = run(Volume(sick.voxels - 1000.0, sick.grid), bundle)
    inside = plain.brain_mask
    assert np.median(shifted.reconstruction[inside]) == pytest.approx(
        np.median(plain.reconstruction[inside]) - 1000, abs=5
    )


def test_the_runtime_is_a_value() -> None:
    assert replace(Runtime(), threads=2).threads == 2
    assert Runtime("cpu").torch_device == "cpu"
