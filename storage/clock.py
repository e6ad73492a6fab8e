"""Instants as the store keeps them: UTC, microseconds, fixed width, so that text order is time order."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Dialect, String, TypeDecorator

Clock = Callable[[], datetime]
"""Gives the present instant with a time zone."""

TEXT_LENGTH = 27  # 2026-01-31T12:34:56.000000Z


def utc_now() -> datetime:
    """The wall clock in UTC."""
    return datetime.now(UTC)


def to_text(at: datetime) -> str:
    """`2026-01-31T12:34:56.000000Z`; an instant without a time zone raises ValueError."""
    if at.tzinfo is None:
        raise ValueError(f"{at!r} has no time zone: give an instant in UTC")
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    return at.isoformat(timespec="microseconds")[:26] + "Z"


def from_text(text: str) -> datetime:
    """The instant that `to_text` wrote."""
    return datetime.fromisoformat(text)


class Instant(TypeDecorator[datetime]):
    """A UTC instant as fixed-width text: SQLite has no time type, and text keeps order and time zone."""

    impl = String(TEXT_LENGTH)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Text for the database."""
        del dialect
        return None if value is None else to_text(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Instant with time zone."""
        del dialect
        return None if value is None else from_text(value)
