"""UIDs of results: valid, the same for the same parts, never the same for others."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyd.ids import Digest, SeriesUID, StudyUID, uid
from anomalyd.pipeline.results.uids import IMPLEMENTATION_UID, ResultKey, result_uid

KEY = ResultKey(StudyUID("1.2"), SeriesUID("1.2.3"), Digest("a" * 64), Digest("b" * 64), Digest("c" * 64))


@given(st.lists(st.text(), min_size=1))
def test_any_parts_give_a_valid_uid_of_at_most_44_characters(parts: list[str]) -> None:
    made = result_uid(*parts)
    assert uid(made) == made
    assert len(made) <= 44
    assert made == result_uid(*parts)


def test_where_one_part_ends_matters() -> None:
    assert result_uid("1.2", "3") != result_uid("1.23")
    assert result_uid("ab", "c") != result_uid("a", "bc")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ResultKey)])
def test_another_study_series_instance_set_bundle_or_settings_is_another_result(field: str) -> None:
    values: dict[str, Any] = {field: "9"}
    other = dataclasses.replace(KEY, **values)
    assert other.series("seg") != KEY.series("seg")
    assert other.instance("seg", 1) != KEY.instance("seg", 1)


def test_kinds_and_indices_have_their_own() -> None:
    made = {
        KEY.series("seg"),
        KEY.series("heatmap"),
        *(KEY.instance("heatmap", k) for k in range(200)),
        IMPLEMENTATION_UID,
    }
    assert len(made) == 203


def test_the_uids_of_earlier_releases_are_kept() -> None:
    assert KEY.series("seg") == "2.25.304752964530971751878315141437836434581"
