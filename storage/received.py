"""What comes through the door: one instance, who sent it, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from anomalyd.errors import AnomalydError, Refused, Transient
from anomalyd.ids import Digest
from anomalyd.storage.peek import Peeked
from anomalyd.storage.records import Buffer, Spilled
from anomalyd.storage.trouble import trouble_of


class Verdict(StrEnum):
    """What became of an acknowledged instance."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    """The same bytes are stored already; nothing was written again."""
    CONFLICTING = "conflicting"
    """Same SOP Instance UID, other content: kept beside the first, never analysed."""


@dataclass(frozen=True, slots=True)
class Sender:
    """The other end of an association."""

    calling_ae: str | None
    called_ae: str | None
    address: str | None
    association: str | None
    """Our own name for the association, as it stands in the log of the gateway."""


@dataclass(frozen=True, slots=True, eq=False)
class ReceivedInstance:
    """One data set as it came, in memory pieces or spilled; the bytes must not change until it is committed."""

    sender: Sender
    received_at: datetime
    transfer_syntax: str
    sha256: Digest
    """Of the data set."""
    peeked: Peeked
    data: Sequence[Buffer] | Spilled

    @property
    def length(self) -> int:
        """Bytes of the data set."""
        return self.data.length if isinstance(self.data, Spilled) else sum(map(len, self.data))


class NotStored(Transient):
    """The instance is not durable: the sender must keep it and send it again."""


class NeedsRestart(NotStored):
    """The same, and no later try of this process mends it: nothing answers, or the database is damaged."""


def not_stored(text: str, why: Exception) -> NotStored:
    """NotStored where a later try of this process may succeed, NeedsRestart where not. why: ours, or SQLite's."""
    trouble = why if isinstance(why, AnomalydError) else trouble_of(why)
    can_try_again = isinstance(trouble, Transient) and not isinstance(trouble, NeedsRestart)
    return NotStored(text) if can_try_again else NeedsRestart(text)


class DiskFloorReached(NotStored, Refused):
    """Less space would be free than `storage.disk_floor`."""

    def __init__(self, free: int, needed: int, floor: int) -> None:
        self.free, self.needed, self.floor = free, needed, floor
        super().__init__(
            f"{free} bytes free, {needed} needed above the floor of {floor}: make room below storage.root, "
            "or lower storage.disk_floor"
        )
