from collections.abc import Iterator
from pathlib import Path

import pytest

from stored import SteppedStore, open_stepped


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[SteppedStore]:
    """A new store under tmp_path with a clock that the test moves."""
    opened = open_stepped(tmp_path)
    yield opened
    opened.store.close()
