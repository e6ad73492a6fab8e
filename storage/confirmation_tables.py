"""Tables of what is proven to lie in a PACS: what we ask for, what we are told, and what senders ask us for."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from anomalyd.ids import AETitle
from anomalyd.storage.tables import Base


class Confirmation(Base):
    """What was asked about one sent result so far; made when it is asked about for the first time."""

    __tablename__ = "confirmation"
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id", ondelete="CASCADE"), primary_key=True)
    since: Mapped[datetime]
    """First question after the newest sending: start of the time after which it is given up."""
    asked: Mapped[int] = mapped_column(default=0)
    """Questions since then."""
    missing: Mapped[int] = mapped_column(default=0)
    """How often the destination said that it does not have it."""
    last_at: Mapped[datetime]


class Commitment(Base):
    """One storage commitment transaction that we asked a destination for (PS3.4 J.3)."""

    __tablename__ = "commitment"
    __table_args__ = (Index("commitments_reported", "destination", "ended_at", "reported_at"),)
    transaction_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    destination: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[int]
    objects: Mapped[int]
    asked_at: Mapped[datetime]
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """committed: [SOP Instance UID, ...], failed: {SOP Instance UID: FailureReason}; as it came."""
    reported_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    """When the dispatcher acted on it, or it could not be asked at all."""


class CommitmentRequest(Base):
    """One storage commitment that a sender asks us for, to be answered on a new association."""

    __tablename__ = "commitment_request"
    __table_args__ = (UniqueConstraint("calling_ae", "transaction_uid", name="a_transaction_once_per_sender"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    calling_ae: Mapped[AETitle]
    called_ae: Mapped[AETitle]
    transaction_uid: Mapped[str] = mapped_column(String(64))
    objects: Mapped[Sequence[Any]]
    """[[SOP Class UID, SOP Instance UID], ...]"""
    asked_at: Mapped[datetime]
    next_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    ended_at: Mapped[datetime | None]
