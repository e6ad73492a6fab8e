"""The result of one check."""

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """How a check went."""

    OK = "ok"
    NOTE = "note"
    """Works, and a person should know it."""
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was looked at. mend: what to do about it."""

    grade: Grade
    subject: str
    text: str
    mend: str = ""
