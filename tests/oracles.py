"""The published method's numbers, which lie in the folder `shared` beside the checkout; see README.md there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ORACLES = Path(__file__).resolve().parents[2] / "shared" / "oracles"
Arrays = dict[str, NDArray[Any]]


def oracle(name: str) -> Path:
    """An oracle's file; the test is skipped where the folder is absent."""
    if not ORACLES.is_dir():
        pytest.skip("numeric oracles lie in the folder `shared` beside the checkout, which is absent")
    return ORACLES / name


def arrays_of(name: str) -> Arrays:
    """All arrays of an oracle; volumes turned from (row, column, slice) to [slice, row, column]."""
    with np.load(oracle(name)) as stored:
        return {key: _slice_first(key, stored[key]) for key in stored.files}


def _slice_first(key: str, value: NDArray[Any]) -> NDArray[Any]:
    """The noise examples are (field, row, column), which is slice first already."""
    return np.ascontiguousarray(value.transpose(2, 0, 1)) if value.ndim == 3 and key != "examples" else value
