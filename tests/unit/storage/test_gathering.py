"""How long a group waits for those who are about to join it."""

import pytest

from anomalyd.storage.gathering import LONGEST_S, SHARE, SLOW_FLUSH_S, Gathering

FLUSH_S = 0.005


def gathering(group: int, waiting: int, took_s: float = FLUSH_S) -> Gathering:
    made = Gathering()
    made.flushed(group, waiting, took_s)
    return made


def test_before_the_first_flush_nobody_is_waited_for() -> None:
    assert Gathering().patience_s(1, waited_s=0.0) == 0.0


def test_one_sender_alone_is_never_kept_waiting() -> None:
    assert gathering(group=1, waiting=0).patience_s(1, waited_s=0.0) == 0.0


@pytest.mark.parametrize(("group", "waiting"), [(1, 3), (3, 1), (4, 0)])
def test_a_group_waits_until_all_who_are_at_work_are_in_it(group: int, waiting: int) -> None:
    four = gathering(group, waiting)
    assert [four.patience_s(gathered, waited_s=0.0) > 0 for gathered in (1, 2, 3, 4)] == [True, True, True, False]


def test_it_waits_for_a_share_of_the_flush_in_all() -> None:
    four = gathering(group=1, waiting=3)
    assert four.patience_s(1, waited_s=0.0) == pytest.approx(SHARE * FLUSH_S)
    assert four.patience_s(2, waited_s=0.001) == pytest.approx(SHARE * FLUSH_S - 0.001)
    assert four.patience_s(2, waited_s=1.0) == 0.0


def test_on_a_fast_disk_nobody_waits() -> None:
    assert gathering(group=1, waiting=3, took_s=0.9 * SLOW_FLUSH_S).patience_s(1, waited_s=0.0) == 0.0


def test_after_a_disk_that_hung_nobody_waits_for_long() -> None:
    assert gathering(group=1, waiting=3, took_s=30.0).patience_s(1, waited_s=0.0) == LONGEST_S


def test_who_left_is_waited_for_once() -> None:
    four = gathering(group=4, waiting=0)
    assert four.patience_s(1, waited_s=0.0) > 0
    four.flushed(group=1, waiting=0, took_s=FLUSH_S)
    assert four.patience_s(1, waited_s=0.0) == 0.0
