"""report.json: the same keys whatever the answer."""

import json
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from anomalyd.ids import SeriesUID
from anomalyd.pipeline.finding import Contrast, Reason, Stage
from anomalyd.pipeline.results import report
from anomalyd.pipeline.results.report import Provenance, Report, StageTimes, Subject
from anomalyd.pipeline.results.version import version_line
from findings import DARK, MODEL, context_of
from phantoms import PhantomWriter

SUBJECT = Subject(SeriesUID("1.2.3"), "d" * 64, {"voxel_rate": 0.01})
REASON = Reason("contrast", "T2w", ("T1w",), "no bundle for this contrast")


def test_every_key_is_there_for_every_answer(tmp_path: Path) -> None:
    finding = context_of(PhantomWriter(spacing_mm=(6, 3, 3)).write(tmp_path), [DARK]).finding
    answers = [
        report.analysed(SUBJECT, finding),
        report.not_analysed(SUBJECT, "ineligible", REASON),
        report.not_analysed(SUBJECT, "withheld", REASON, contrast=Contrast.T1W, model=MODEL),
    ]
    for answer in answers:
        assert list(answer) == list(get_type_hints(Report))
        assert list(answer["provenance"]) == list(get_type_hints(Provenance))
        assert json.loads(json.dumps(answer, allow_nan=False)) is not None
    assert [answer["status"] for answer in answers] == ["analysed", "ineligible", "withheld"]
    assert [answer["reason"] is None for answer in answers] == [True, False, False]
    assert answers[1]["bundle"] == {"id": None, "digest": None}
    assert answers[2]["provenance"]["version_line"] == version_line(MODEL)
    assert len(answers[0]["provenance"]["noise_levels"]) == len(answers[0]["provenance"]["seeds"]) > 0


def test_lesions_keep_their_order_place_and_sign(tmp_path: Path) -> None:
    finding = context_of(PhantomWriter(spacing_mm=(6, 3, 3)).write(tmp_path), [DARK]).finding
    (lesion,) = report.analysed(SUBJECT, finding)["lesions"]
    assert lesion["sign"] == "hypo"
    assert lesion["centroid_lps_mm"] == pytest.approx(DARK[0], abs=3.0)
    low, high = np.array(lesion["bounding_box_lps_mm"])
    assert (low < high).all()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        ({"b", "a"}, ["a", "b"]),
        ((1, (2, float("inf"))), [1, [2, None]]),
        (Path("x"), "x"),
        ({1: np.array([1, 2])[0]}, {"1": 1}),
    ],
)
def test_any_value_of_a_reason_becomes_json(value: Any, expected: Any) -> None:
    made = report.not_analysed(SUBJECT, "ineligible", Reason("x", value, None, "text"))["reason"]
    assert made is not None
    assert made["value"] == expected


def test_warnings_stand_once() -> None:
    answer = report.not_analysed(SUBJECT, "ineligible", REASON, warnings=["a", "b", "a"])
    assert answer["warnings"] == ["a", "b"]


def test_a_stage_lasts_until_the_next_begins() -> None:
    ticks = iter([0.0, 2.0, 2.0, 5.5, 7.0, 7.25])
    times = StageTimes(lambda: next(ticks))
    times(Stage.READ)
    times(Stage.BRAIN)
    times.stop()
    times(Stage.READ)
    times.stop()
    assert times.seconds == {"read": 2.25, "brain": 3.5}
