"""Audit rows of refusals: whole for a few, summed for a flood, and nothing forgotten in between."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from anomalyd.daemon.gateway.turned_away import ORIGINS, ROWS_EACH, WINDOW_S, TurnedAway
from anomalyd.daemon.history import sentence
from anomalyd.storage.audit import AuditEvent, AuditKind, query
from anomalyd.storage.clock import to_text
from doors import MakeDoor
from raw_scu import RawAssociation, Rejected
from waiting import wait_until

BEGIN = datetime(2026, 1, 31, 12, tzinfo=UTC)
REASON = "calling AE title is not in accept_from"


class Flood:
    """Refusals of one another's making, with a clock of their own."""

    def __init__(self) -> None:
        self.rows: list[AuditEvent] = []
        self.now_s = 0.0
        self.turned_away = TurnedAway(self.rows.append, self.clock, lambda: self.now_s)

    def clock(self) -> datetime:
        return BEGIN + timedelta(seconds=self.now_s)

    def come(self, times: int, address: str = "10.0.0.1", reason: str = REASON) -> int:
        """How many of them got a row at once."""
        events = [
            AuditEvent(
                kind=AuditKind.CONNECTION_REFUSED, at=self.clock(), address=address, detail={"text": reason, "n": n}
            )
            for n in range(times)
        ]
        return sum(self.turned_away.tell(event, reason) for event in events)

    def settled(self, *, is_last: bool = False) -> Sequence[AuditEvent]:
        """Rows that settling wrote."""
        before = len(self.rows)
        self.turned_away.settle(is_last=is_last)
        return self.rows[before:]


def times(row: AuditEvent) -> int:
    return int((row.detail or {}).get("times", 1))


def test_a_few_have_a_row_each_and_settling_adds_none() -> None:
    flood = Flood()
    assert flood.come(ROWS_EACH) == ROWS_EACH
    flood.now_s = 10 * WINDOW_S
    assert flood.settled() == []


def test_a_flood_makes_one_row_more_with_its_number_its_begin_and_its_newest() -> None:
    flood = Flood()
    flood.come(ROWS_EACH)
    flood.now_s = 1.0
    assert flood.come(1000) == 0
    assert flood.settled() == [], "its minute has not passed"
    flood.now_s = WINDOW_S
    (row,) = flood.settled()
    assert row.detail == {"text": REASON, "n": 999, "times": 1000, "since": to_text(BEGIN + timedelta(seconds=1))}
    assert (row.address, row.at) == ("10.0.0.1", flood.clock())
    assert flood.settled(is_last=True) == []


def test_every_refusal_is_in_exactly_one_row() -> None:
    flood, sent = Flood(), 0
    for step in range(400):
        flood.now_s = step * 0.7
        flood.come(step % 5)
        sent += step % 5
        if step % 9 == 0:
            flood.settled()
    flood.settled(is_last=True)
    assert sum(map(times, flood.rows)) == sent
    assert len(flood.rows) <= (ROWS_EACH + 1) * (flood.now_s / WINDOW_S + 2)


def test_another_address_or_reason_has_rows_of_its_own() -> None:
    flood = Flood()
    assert flood.come(2 * ROWS_EACH) == ROWS_EACH
    assert flood.come(1, address="10.0.0.2") == 1
    assert flood.come(1, reason="called AE title is not ours") == 1


def test_more_origins_than_are_told_apart_are_counted_together_without_an_address() -> None:
    flood = Flood()
    for number in range(ORIGINS):
        flood.come(1, address=f"10.0.{number // 256}.{number % 256}")
    assert sum(flood.come(1, address=f"10.1.{n // 256}.{n % 256}") for n in range(1000)) == ROWS_EACH
    flood.now_s = WINDOW_S
    (row,) = flood.settled()
    assert (times(row), row.address) == (1000 - ROWS_EACH, None)


def test_what_is_only_counted_has_one_row_a_minute_and_is_told_once_at_its_begin() -> None:
    flood = Flood()
    event = AuditEvent(kind=AuditKind.CONNECTION_REFUSED, at=flood.clock(), address="10.0.0.1", detail={})
    assert [flood.turned_away.count(event, "too many") for _ in range(500)] == [True] + [False] * 499
    assert flood.rows == []
    flood.now_s = WINDOW_S
    assert [times(row) for row in flood.settled()] == [500]


def test_many_threads_lose_none() -> None:
    flood = Flood()
    threads = [threading.Thread(target=flood.come, args=(500,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    flood.settled(is_last=True)
    assert sum(map(times, flood.rows)) == 8 * 500
    assert len(flood.rows) == ROWS_EACH + 1


def test_at_a_real_door_thirty_strangers_make_eleven_rows(make_door: MakeDoor) -> None:
    door = make_door(accept_from=["MR1"])
    for _ in range(30):
        with pytest.raises(Rejected):
            RawAssociation(door.port, calling="STRANGER")
    wait_until(lambda: len(door.kinds()) == ROWS_EACH, limit_s=10, what="a row for each of the first")
    door.door.settle(is_last=True)
    assert door.kinds() == ["association_rejected"] * (ROWS_EACH + 1)
    assert (door.audit()[-1]["calling_ae"], door.audit()[-1]["address"]) == ("STRANGER", "127.0.0.1")
    *_, newest = map(sentence, query(door.store))
    assert newest.startswith("rejected 20 associations since 20")
    assert newest.endswith(f", the newest of STRANGER at 127.0.0.1, who called ANOMALYD: {REASON}")
