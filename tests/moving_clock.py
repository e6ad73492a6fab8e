"""Time that a test moves on, instead of waiting."""

from datetime import UTC, datetime, timedelta


class MovingClock:
    """The wall clock, and ahead of it as far as a test says."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead
