"""Everything that anomalyd raises on purpose, by who must act.

AnomalydError
├── Refused        the sender: its object or association is not taken
│   └── BadIdentifier
├── Ineligible     nobody: an answer about a series, made an Eligibility at the door
├── Withheld       the reader is told: the bundle cannot judge this scan
├── ConfigError    the administrator
├── Transient      the retry
└── Broken         us: a promise of the program does not hold (corrupt store, lost lease, bad bundle)

A message is value + limit + what to do, and holds no patient data.
"""

from typing import Any


class AnomalydError(Exception):
    """Root of all errors raised on purpose."""


class Refused(AnomalydError):
    """The sender's object or association is not taken."""


class BadIdentifier(Refused, ValueError):
    """A UID or AE title from outside breaks its value representation."""

    def __init__(self, kind: str, value: str, rule: str) -> None:
        self.kind, self.value, self.rule = kind, value, rule
        shown = value if len(value) <= 80 else value[:77] + "..."  # noqa: PLR2004 - one line of a terminal
        super().__init__(f"{shown!r} is no {kind}: {rule}")


class Ineligible(AnomalydError):
    """A series that is not analysed: which criterion, with what value, against what limit."""

    def __init__(self, criterion: str, value: Any, limit: Any, text: str) -> None:
        self.criterion, self.value, self.limit, self.text = criterion, value, limit, text
        super().__init__(text)


class Withheld(AnomalydError):
    """A scan that the bundle cannot judge: better to say so than to paint noise."""

    def __init__(self, criterion: str, value: Any, limit: Any, text: str) -> None:
        self.criterion, self.value, self.limit, self.text = criterion, value, limit, text
        super().__init__(text)


class ConfigError(AnomalydError):
    """A configuration that cannot be used: key path, value, allowed values."""


class Transient(AnomalydError):
    """A failure that a later try can mend."""


class Broken(AnomalydError):
    """A promise of the program does not hold."""
