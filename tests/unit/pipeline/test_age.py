"""The healthy reference has an age: whoever is outside of it is warned about, without the age being told."""

import pytest
from pydicom.dataset import Dataset

from anomalyd.pipeline.age import outside_reference, years


@pytest.mark.parametrize(
    ("age", "birth", "study", "expected"),
    [
        ("023Y", "", "", 23.0),
        ("006M", "", "", 0.5),
        ("010W", "19500101", "20260101", 70 / 365.25),
        ("", "19800315", "20260105", 45.8),
        ("23", "19800315", "20260105", 45.8),  # no value of AS
        ("", "20270101", "20260105", None),  # born after the study
        ("", "19800315", "", None),
        ("", "unknown", "20260105", None),
    ],
)
def test_age_is_read_from_the_header(age: str, birth: str, study: str, expected: float | None) -> None:
    assert years(age, birth, study) == (None if expected is None else pytest.approx(expected, abs=0.05))


def header(age: str) -> Dataset:
    made = Dataset()
    made.PatientAge = age
    return made


@pytest.mark.parametrize(
    ("age", "word"), [("006M", "younger"), ("018Y", "younger"), ("019Y", ""), ("052Y", ""), ("053Y", "older")]
)
def test_whoever_is_outside_is_warned_about(age: str, word: str) -> None:
    told = outside_reference([Dataset(), header(age)], (19.0, 52.0))
    assert [word in text and "19 to 52 years" in text for text in told] == ([True] if word else [])


def test_an_unknown_age_or_reference_says_nothing() -> None:
    assert outside_reference([], (19.0, 52.0)) == ()
    assert outside_reference([Dataset()], (19.0, 52.0)) == ()
    assert outside_reference([header("006M")], None) == ()


def test_the_age_itself_is_not_told() -> None:
    assert "87" not in outside_reference([header("087Y")], (19.0, 52.0))[0]
