"""What answers one C-STORE request, whichever classes received it (statuses: PS3.4 B.2.3, GATEWAY 6).

Every refusal becomes an audit row before its status is sent; an acknowledgement only ever follows a durable commit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import structlog
from sqlalchemy.exc import DBAPIError

from anomalyd.daemon.gateway.contexts import WANTED
from anomalyd.errors import BadIdentifier
from anomalyd.ids import Digest, uid
from anomalyd.storage.audit import AuditEvent, AuditKind, Outcome, append
from anomalyd.storage.engine import Store
from anomalyd.storage.inbox import Inbox
from anomalyd.storage.peek import Peeked, Unreadable, peek
from anomalyd.storage.received import DiskFloorReached, NotStored, ReceivedInstance, Sender
from anomalyd.storage.records import Buffer, Spilled

log = structlog.get_logger()

COMMENT_LIMIT: Final = 64  # Error Comment (0000,0902) is LO


class Status(IntEnum):
    """Answers that the door gives to C-STORE."""

    SUCCESS = 0x0000
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    OUT_OF_RESOURCES = 0xA700
    """The sender should keep the instance and send it again."""
    DOES_NOT_MATCH_SOP_CLASS = 0xA900
    CANNOT_UNDERSTAND = 0xC000


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and Error Comment; the comment holds nothing of a patient."""

    status: Status
    comment: str = ""


SUCCESS: Final = Answer(Status.SUCCESS)


@dataclass(frozen=True, slots=True)
class StoreCommand:
    """What the command set and the presentation context say about the data set."""

    sop_class: str
    instance_uid: str
    abstract_syntax: str
    transfer_syntax: str

    @property
    def is_wanted(self) -> bool:
        """True where the data set has to be kept."""
        return self.abstract_syntax in WANTED and self.sop_class in WANTED


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A data set that was kept while it was received."""

    head: Buffer
    """As much of its begin as a peek looks at."""
    data: Sequence[Buffer] | Spilled
    sha256: Digest


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """What came behind a command set. Nothing is kept of an empty data set, or where there is a refusal."""

    length: int
    refusal: str = ""
    kept: Kept | None = None


class _Refusal(Exception):
    def __init__(self, answer: Answer, peeked: Peeked | None = None) -> None:
        self.answer, self.peeked = answer, peeked
        super().__init__(answer.comment)


class Reception:
    """Judges one instance and hands it to the inbox. Any thread."""

    def __init__(self, store: Store, inbox: Inbox) -> None:
        self._store, self._inbox = store, inbox

    def store(self, command: StoreCommand, body: Body, sender: Sender) -> Answer:
        """The answer to one C-STORE request; what is 0x0000 is durable. Never raises: an unforeseen error is 0xA700."""
        try:
            return self._stored(command, body, sender)
        except _Refusal as refusal:
            return self._refused(refusal.answer, command, body, sender, refusal.peeked)
        except Exception:  # the role's outer loop: one bad instance must not end the association, nor be acknowledged
            log.exception("c_store.failed", association=sender.association)
            answer = Answer(Status.OUT_OF_RESOURCES, "internal error, see the log of the gateway")
            return self._refused(answer, command, body, sender, None)

    def _stored(self, command: StoreCommand, body: Body, sender: Sender) -> Answer:
        if not command.is_wanted:
            raise _Refusal(Answer(Status.SOP_CLASS_NOT_SUPPORTED, "only MR image storage is taken here"))
        if body.refusal:
            raise _Refusal(Answer(Status.OUT_OF_RESOURCES, body.refusal))
        if body.kept is None:
            raise _Refusal(Answer(Status.CANNOT_UNDERSTAND, "data set is empty"))
        peeked = _peeked(command, body.kept.head)
        instance = ReceivedInstance(
            sender=sender,
            received_at=self._store.clock(),
            transfer_syntax=command.transfer_syntax,
            sha256=body.kept.sha256,
            peeked=peeked,
            data=body.kept.data,
        )
        try:
            verdict = self._inbox.accept(instance)
        except DiskFloorReached as exc:
            raise _Refusal(Answer(Status.OUT_OF_RESOURCES, "disk floor reached"), peeked) from exc
        except NotStored as exc:
            log.error("c_store.not_stored", association=sender.association, reason=str(exc))  # noqa: TRY400 - foreseen, in words
            raise _Refusal(Answer(Status.OUT_OF_RESOURCES, "could not be made durable"), peeked) from exc
        log.debug("instance.received", verdict=verdict.value, instance=peeked.instance_uid, bytes=body.length)
        return SUCCESS

    def _refused(
        self, answer: Answer, command: StoreCommand, body: Body, sender: Sender, peeked: Peeked | None
    ) -> Answer:
        log.warning(
            "c_store.refused",
            status=f"0x{answer.status:04X}",
            reason=answer.comment,
            calling=sender.calling_ae,
            association=sender.association,
        )
        detail = {
            "status": f"0x{answer.status:04X}",
            "reason": answer.comment,
            "sop_class": _uid_or_none(command.sop_class),
            "transfer_syntax": command.transfer_syntax,
            "bytes": body.length,
            "association": sender.association,
        }
        event = AuditEvent(
            kind=AuditKind.REJECTED,
            at=self._store.clock(),
            outcome=Outcome.MINOR,
            study_uid=peeked.study_uid if peeked else None,
            series_uid=peeked.series_uid if peeked else None,
            instance_uid=_uid_or_none(command.instance_uid),
            calling_ae=sender.calling_ae,
            called_ae=sender.called_ae,
            address=sender.address,
            detail=detail,
        )
        self.note(event)
        return answer

    def note(self, event: AuditEvent) -> None:
        """An audit row by way of the segment log, or with a commit of its own where the log cannot be written."""
        _first_that_works(lambda: self._inbox.note(event), lambda: self._append(event), kind=event.kind.value)

    def _append(self, event: AuditEvent) -> None:
        with self._store.write_through() as connection:
            append(connection, event)


def _peeked(command: StoreCommand, head: Buffer) -> Peeked:
    """Facts of the data set, if they are those of the command set; raises _Refusal."""
    if command.sop_class != command.abstract_syntax:
        raise _Refusal(Answer(Status.DOES_NOT_MATCH_SOP_CLASS, "SOP class is not that of the presentation context"))
    if _uid_or_none(command.instance_uid) is None:
        raise _Refusal(Answer(Status.CANNOT_UNDERSTAND, "Affected SOP Instance UID is no UID"))
    try:
        peeked = peek(head, command.transfer_syntax)
    except Unreadable as exc:
        raise _Refusal(Answer(Status.CANNOT_UNDERSTAND, str(exc)[:COMMENT_LIMIT])) from exc
    if peeked.sop_class != command.sop_class or peeked.instance_uid != command.instance_uid:
        raise _Refusal(Answer(Status.DOES_NOT_MATCH_SOP_CLASS, "data set and command set name different objects"))
    return peeked


def _uid_or_none(text: str) -> str | None:
    """Text that is no UID may be anything, also a name: it goes nowhere."""
    try:
        return uid(text)
    except BadIdentifier:
        return None


def _first_that_works(*ways: Callable[[], None], kind: str) -> None:
    for way in ways:
        try:
            way()
        except (NotStored, DBAPIError) as exc:
            log.error("audit.not_written", event_kind=kind, reason=type(exc).__name__)  # noqa: TRY400 - foreseen, in words
        else:
            return
