"""The short form of `make fuzz`: kept seeds first, then some hundreds of cases, each with an answer."""

from pathlib import Path
from random import Random

import pytest

from fuzz.campaign import AT_THE_DOOR, IN_PROCESS, KEPT, KINDS, Tally, kept_seeds, seeds, try_files, try_visits
from fuzz.spoiling import spoiled_file
from fuzz.visits import RunningGateway

SHORT = {"file": 100, "peek": 200, "series": 60}
VISITS = 100  # of each kind


def test_kept_seeds_are_of_known_kinds() -> None:
    assert {seed.split(":")[0] for seed in kept_seeds()} <= set(KINDS), KEPT


def test_a_seed_makes_the_same_case_again() -> None:
    assert spoiled_file(Random("file:7")) == spoiled_file(Random("file:7"))
    assert len({spoiled_file(Random(f"file:{k}")) for k in range(20)}) > 15


@pytest.mark.parametrize("kind", sorted(IN_PROCESS))
def test_whatever_a_file_says_it_is_answered(kind: str) -> None:
    tally = Tally()
    kept = [seed for seed in kept_seeds() if seed.startswith(f"{kind}:")]
    try_files([*kept, *seeds(kind, range(SHORT[kind]))], tally)
    assert tally.found == []
    assert len(tally.answers) > 1, "every case was answered alike: nothing is tried any more"


def test_whatever_comes_to_the_door_is_answered_and_leaves_nothing_behind(tmp_path: Path) -> None:
    tally = Tally()
    with RunningGateway(tmp_path) as gateway:
        kept = [seed for seed in kept_seeds() if seed.split(":")[0] in AT_THE_DOOR]
        try_visits([*kept, *(seed for kind in AT_THE_DOOR for seed in seeds(kind, range(VISITS)))], gateway, tally)
        gateway.restarted()
        gateway.look()
    assert tally.found == []
    assert {"0x0000", "0xC000", "0xA900", "aborted"} <= {answer for _, answer in tally.answers}
