"""Thresholds from healthy scans: what they are counted on, what is said about it, what they let through elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest

from anomalyd.errors import ConfigError
from anomalyd.pipeline.bundle import CALIBRATION, SUMS, Bundle, Normative, load_bundle, seal
from anomalyd.pipeline.nifti import write_nifti
from anomalyd.pipeline.stages.normative import components, statistics
from anomalyd.pipeline.train.calibrate import calibrate_bundle
from anomalyd.pipeline.train.cohort import Scan
from anomalyd.pipeline.train.counts import THRESHOLDS, ScanCounts, calibrated, groups_of
from anomalyd.pipeline.train.leave_out import normative_without
from intensity_bundle import intensity_bundle
from tiny_bundle import made_up_brain

PEOPLE = ("rome-1", "rome-2", "oslo-1", "oslo-2", "lima-1")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five people of three sites, whose brains differ in noise alone."""
    folder = tmp_path_factory.mktemp("healthy")
    rows = ["file,subject,contrast"]
    for number, person in enumerate(PEOPLE):
        brain = made_up_brain(noise=10.0 + 10.0 * number)
        write_nifti(folder / f"{person}.nii.gz", brain.voxels, brain.grid)
        rows.append(f"{person}.nii.gz,{person},T1w")
    (folder / "index.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def bundle_of(path: Path, trained_by: tuple[str, ...] = ()) -> Path:
    """A bundle that these people trained."""
    intensity_bundle(path)
    text = (path / "bundle.yaml").read_text(encoding="utf-8").replace("subjects: []", f"subjects: {list(trained_by)}")
    (path / "bundle.yaml").write_text(text, encoding="utf-8")
    seal(path)
    return path


def test_both_scores_are_calibrated_and_nothing_else_changes(healthy: Path, tmp_path: Path) -> None:
    path = bundle_of(tmp_path / "b")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    report = calibrate_bundle(path, healthy)
    after = {file.name: file.read_bytes() for file in path.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {CALIBRATION, SUMS}
    calibration = load_bundle(path).calibration
    assert set(calibration.modes) == {"normative", "paper"}
    for counted in calibration.modes.values():
        assert len(counted.scan_scores) == 5
        assert [rate.rate for rate in counted.voxel_rates] == [0.01, 0.05, 0.1]
        assert [rate.threshold for rate in counted.voxel_rates] == sorted(
            (rate.threshold for rate in counted.voxel_rates), reverse=True
        )
        assert counted.cross_validation is not None
        assert (counted.cross_validation.by, counted.cross_validation.groups) == ("site", 3)
    assert calibration.subjects == tuple(sorted(PEOPLE))
    assert report.warnings == ("5 scans: thresholds from fewer than 20 are rough",)
    assert "did not train" in calibration.note
    content = json.loads(after[CALIBRATION])
    assert content["format"] == 2
    assert content["modes"]["normative"]["cross_validation"]["voxel_shares"].keys() == {"0.01", "0.05", "0.1"}


def test_scans_of_people_who_trained_it_are_used_where_there_are_no_others_and_it_says_so(
    healthy: Path, tmp_path: Path
) -> None:
    path = bundle_of(tmp_path / "b", trained_by=PEOPLE[:4])
    report = calibrate_bundle(path, healthy)
    calibration = load_bundle(path).calibration
    assert (calibration.scans, calibration.trained_scans) == (5, 4)
    assert "4 of 5 scans trained the network" in calibration.note
    assert calibration.note in report.warnings


def test_made_scans_stand_in_for_real_ones_which_weigh_as_much_and_the_calibration_says_so(
    healthy: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "real.nii.gz").write_bytes((healthy / f"{PEOPLE[4]}.nii.gz").read_bytes())
    made = tuple(Scan(healthy / f"{name}.nii.gz", name, "", "", None, is_synthetic=True) for name in PEOPLE[:4])
    path = bundle_of(tmp_path / "b")
    report = calibrate_bundle(path, alone, made=made)
    calibration = load_bundle(path).calibration
    assert (calibration.scans, calibration.trained_scans) == (5, 0)
    scores = calibration.modes["normative"].scan_scores
    assert len(scores) == 8
    assert len(set(scores)) == 5  # the real one counts as much as the four others
    assert "4 of 5 scans were made from T1w scans" in calibration.note
    assert calibration.note in report.warnings


def test_fewer_than_five_scans_are_refused_with_what_was_wrong(healthy: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    computed: list[int] = []
    bundle = bundle_of(tmp_path / "b")
    for person in PEOPLE[:4]:
        (few / f"{person}.nii.gz").write_bytes((healthy / f"{person}.nii.gz").read_bytes())
    with pytest.raises(ConfigError, match=r"^4 T1w scans in .*at least 5 are needed$"):
        calibrate_bundle(bundle, few, on_progress=lambda done, _of: computed.append(done))
    assert computed == []
    (few / "torn.nii.gz").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"^4 T1w scans .*at least 5.*not usable: torn\.nii\.gz"):
        calibrate_bundle(bundle, few)


def person(subject: str) -> Scan:
    return Scan(Path(f"{subject}.nii.gz"), subject, "", "", None)


def counts(findings_from: float, share: float = 0.02) -> ScanCounts:
    """A scan with one finding per cut below `findings_from`, and a constant share."""
    return ScanCounts(np.where(findings_from > THRESHOLDS, 3.0, 0.0), np.full(len(THRESHOLDS), share), 1.0)


def test_a_site_is_judged_at_the_cut_that_the_other_sites_choose() -> None:
    scans = [person(name) for name in ("rome-1", "rome-2", "oslo-1", "oslo-2", "lima-1", "lima-2")]
    quiet, noisy = counts(2.0), counts(8.0)
    found = calibrated(scans, [quiet, quiet, quiet, quiet, noisy, noisy])
    at = next(point for point in found.operating_points if point.findings_per_scan <= 1.0)
    assert at.findings_per_scan == 1.0  # two of six scans have three
    assert found.cross_validation is not None
    # Lima is cut where Rome and Oslo are quiet; Rome and Oslo are cut higher, where Lima is.
    assert found.cross_validation.findings_per_scan == pytest.approx(1.0)
    assert found.cross_validation.worst_group == 3.0


def test_one_site_is_split_by_subject_and_all_scans_of_one_stay_together() -> None:
    by, groups = groups_of([person(f"rome-{k % 7}") for k in range(14)])
    assert by == "subject"
    assert len(set(groups)) == 5
    assert groups[:7] == groups[7:]


def test_statistics_without_a_scan_are_those_of_the_others(tmp_path: Path) -> None:
    """Where nothing is smoothed and no floor is reached, to the last digit but one."""
    rng = np.random.default_rng(3)
    bundle = load_bundle(bundle_of(tmp_path / "b", trained_by=tuple(f"p{k}" for k in range(6))))
    shape = bundle.box.shape
    mask = np.ones(shape, dtype=np.bool_)
    settings = bundle.description.score.model_copy(update={"smooth_voxels": 0.0})
    plain = Bundle(
        bundle.path, bundle.model, bundle.description.model_copy(update={"score": settings}), bundle.calibration
    )
    images = [rng.normal(0.5, 0.2, shape).astype(np.float32) for _ in range(6)]
    maps = [components(image, image, mask, ("intensity",), 0.0) for image in images]
    everybody, others = (statistics(some, [mask] * len(some), smooth_voxels=0.0) for some in (maps, maps[1:]))
    plain.__dict__["normative"] = everybody  # cached_property keeps it there
    without = normative_without(plain, images[0], images[0], mask)
    assert isinstance(without, Normative)
    assert without.mean["intensity"] == pytest.approx(others.mean["intensity"], abs=1e-5)
    spread = others.spread["intensity"]
    clear = spread > 1.5 * float(everybody.spread["intensity"].min())
    assert without.spread["intensity"][clear] == pytest.approx(spread[clear], rel=1e-3)
