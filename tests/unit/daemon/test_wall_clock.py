"""Steps of the wall clock, by two clocks that the test moves."""

from datetime import UTC, datetime, timedelta

from anomalyd.daemon.wall_clock import SteadyTime, WallClock


class Clocks:
    def __init__(self) -> None:
        self.wall, self.monotonic = datetime(2026, 1, 1, tzinfo=UTC), 50.0

    def pass_by(self, seconds: float) -> None:
        self.wall, self.monotonic = self.wall + timedelta(seconds=seconds), self.monotonic + seconds

    def set_by(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)


def test_a_step_is_measured_both_ways_until_it_is_heeded() -> None:
    clocks = Clocks()
    clock = WallClock(lambda: clocks.wall, lambda: clocks.monotonic)
    clocks.pass_by(10)
    assert clock.step() == timedelta(0)
    clocks.set_by(-3600)
    clocks.pass_by(10)
    assert clock.step() == timedelta(hours=-1)
    assert clock.step() == timedelta(hours=-1)
    clock.heed(clock.step())
    assert clock.step() == timedelta(0)
    clocks.set_by(86_400)
    assert clock.step() == timedelta(days=1)


def test_time_is_steady_again_so_long_after_a_step_forward() -> None:
    clocks = Clocks()
    steady = SteadyTime(lambda: clocks.wall, lambda: clocks.monotonic)
    assert steady.lasts(60)
    clocks.set_by(3600)
    assert not steady.lasts(60)
    clocks.pass_by(59)
    assert not steady.lasts(60)
    clocks.pass_by(2)
    assert steady.lasts(60)
    clocks.set_by(-3600)
    assert steady.lasts(60), "a step back makes no lease look old"
