"""The short form of `python -m soak`: every kind of fault, nothing lost; and an image that is missing is seen."""

from pathlib import Path

import pytest

from soak.outcome import compare, table
from soak.senders import FAULTS, Senders
from soak.watching import Watching

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def test_senders_that_do_everything_wrong_lose_nothing(tmp_path: Path) -> None:
    with Watching(tmp_path) as watching:
        senders = Senders(watching.daemon.port, 1200, 4, seed=3)
        senders.run()
        outcome = compare(watching, senders)
        assert not outcome.is_bad, table(outcome)
        assert outcome.acknowledged >= 1200
        assert set(outcome.faults) == set(FAULTS)
        senders.acknowledged.append(("1.2.3", "0" * 64))
        assert compare(watching, senders).lost == 1
