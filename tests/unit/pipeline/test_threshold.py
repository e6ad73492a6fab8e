"""Which score is cut, and where: of the bundle's calibration, as the settings ask."""

import json
from pathlib import Path

import pytest

from anomalyd.errors import Broken, ConfigError
from anomalyd.pipeline.analyse import Runtime, analyse
from anomalyd.pipeline.bundle import Bundle, load_bundle, seal
from anomalyd.pipeline.settings import AnalysisSettings, PipelineSettings
from anomalyd.pipeline.stages.threshold import choose_cut
from intensity_bundle import THRESHOLD, intensity_bundle
from tiny_bundle import made_up_brain, tiny_bundle


@pytest.fixture(scope="module")
def normative(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return intensity_bundle(tmp_path_factory.mktemp("bundles") / "normative")


def test_the_bundles_own_score_is_cut_unless_another_is_asked_for(normative: Bundle) -> None:
    own, paper = (choose_cut(normative, AnalysisSettings(score=mode)) for mode in (None, "paper"))
    assert (own.mode, own.threshold) == ("normative", THRESHOLD)
    assert (paper.mode, paper.threshold) == ("paper", 0.35)
    assert own.text.startswith("normative score")
    assert paper.text.startswith("paper score")


def test_a_finding_holds_the_score_that_was_asked_for(normative: Bundle) -> None:
    brain = made_up_brain(noise=4.0)
    own, paper = (
        analyse(brain, normative, AnalysisSettings(score=mode), runtime=Runtime("cpu", 1), seed_text="1.2.3")
        for mode in (None, "paper")
    )
    assert (own.score_mode, paper.score_mode) == ("normative", "paper")
    assert paper.score_map.max() <= 2.0  # 1 - SSIM
    assert own.score_map.max() > 2.0
    assert own.reconstruction.tobytes() == paper.reconstruction.tobytes()


def test_a_score_that_is_not_calibrated_is_refused_with_what_to_do(tmp_path: Path) -> None:
    plain = tiny_bundle(tmp_path / "tiny")
    with pytest.raises(
        ConfigError, match=r"normative is not calibrated .*: paper.*anomalyd calibrate.*pipeline\.score"
    ):
        choose_cut(plain, AnalysisSettings(score="normative"))


def test_the_score_is_part_of_what_a_result_is_named_by() -> None:
    chosen = [PipelineSettings(score=mode).analysis for mode in (None, "paper", "normative")]
    assert [settings.score for settings in chosen] == [None, "paper", "normative"]
    assert len({settings.digest for settings in chosen}) == 3


def test_a_calibration_from_before_there_were_modes_is_the_own_scores(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "tiny").path
    content = json.loads((path / "calibration.json").read_text(encoding="utf-8"))
    del content["format"]
    content |= content.pop("modes")["paper"]
    (path / "calibration.json").write_text(json.dumps(content), encoding="utf-8")
    seal(path)
    assert choose_cut(load_bundle(path), AnalysisSettings()).threshold == 0.35


def test_a_calibration_that_cannot_be_read_is_said_to_be_broken(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "tiny").path
    for text in ("[]", "{", '{"format": 3}'):
        (path / "calibration.json").write_text(text, encoding="utf-8")
        seal(path)
        with pytest.raises(Broken, match=r"calibration\.json cannot be used"):
            load_bundle(path)
