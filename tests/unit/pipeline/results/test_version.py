"""The version line: one text for every place, however long the bundle's name."""

import pytest

from anomalyd import __version__
from anomalyd.pipeline.finding import Contrast, Model
from anomalyd.pipeline.results.version import package_versions, version_line

DIGEST = "0123456789abcdef" * 4


def test_the_line_names_product_version_bundle_and_digest() -> None:
    line = version_line(Model("t1w-2026", DIGEST, Contrast.T1W))
    assert line == f"anomalyd {__version__}, bundle t1w-2026 0123456789abcdef"


@pytest.mark.parametrize("bundle_id", ["x" * 200, "naïve·bundle", "a\\b", ""])
def test_it_fits_a_long_string_in_any_character_set_and_keeps_the_digest(bundle_id: str) -> None:
    line = version_line(Model(bundle_id, DIGEST, Contrast.T1W))
    assert len(line) <= 64
    assert line.isascii()
    assert "\\" not in line
    assert line.endswith(" 0123456789abcdef")


def test_what_computes_is_named_with_its_version() -> None:
    versions = package_versions()
    assert {"python", "anomalyd", "torch", "numpy", "SimpleITK", "highdicom", "pydicom"} <= set(versions)
    assert versions["anomalyd"] == __version__
