"""Steps of the wall clock, seen against the monotonic one (which stands still while the machine sleeps)."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

SLACK: Final = timedelta(seconds=2)
"""NTP slews below it."""


class WallClock:
    """By how much the wall clock was set since it was last heeded. Not thread-safe."""

    def __init__(self, wall: Callable[[], datetime], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._origin = self._now()

    def step(self) -> timedelta:
        """Forward, or back (negative)."""
        return self._now() - self._origin

    def heed(self, step: timedelta) -> None:
        """What had to be done about that step is done."""
        self._origin += step

    def _now(self) -> datetime:
        """The wall clock's idea of the instant at which the monotonic clock was zero."""
        return self._wall() - timedelta(seconds=self._monotonic())


class SteadyTime:
    """For how long the wall clock has not been set forward."""

    def __init__(self, wall: Callable[[], datetime], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._monotonic = WallClock(wall, monotonic), monotonic
        self._stepped_at = float("-inf")

    def lasts(self, seconds: float) -> bool:
        """Whether the last step forward was so long ago; one that came before the first call is not known."""
        step = self._clock.step()
        self._clock.heed(step)
        if step > SLACK:
            self._stepped_at = self._monotonic()
        return self._monotonic() - self._stepped_at > seconds
