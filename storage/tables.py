"""The schema: what the database can hold as an invariant, it holds as a constraint.

Rows never leave storage/: its functions return frozen dataclasses.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import JSON, CheckConstraint, Enum, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from anomalyd.ids import AETitle, Digest, InstanceUID, SeriesUID, StudyUID
from anomalyd.storage.clock import Instant

SCHEMA_VERSION = 1


class SeriesState(StrEnum):
    """A series, from first image to decision. What analysis made of it is seen from its jobs."""

    RECEIVING = "receiving"
    CLOSED = "closed"
    INELIGIBLE = "ineligible"
    QUEUED = "queued"


class InstanceState(StrEnum):
    """One received image."""

    STORED = "stored"
    CONFLICTING = "conflicting"
    """Same SOP Instance UID as a stored one, other content: kept, never analysed."""
    PURGED = "purged"


class JobState(StrEnum):
    """One analysis."""

    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    WITHHELD = "withheld"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """A newer set of instances took its place before it was finished."""
    CANCELLED = "cancelled"


class DeliveryState(StrEnum):
    """One result object on its way to one destination."""

    DUE = "due"
    SENDING = "sending"
    SENT = "sent"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    GAVE_UP = "gave_up"
    CLOSED = "closed"
    """Not to be sent any more: closed by hand, superseded before it was sent, or purged."""


class PurgeReason(StrEnum):
    """Why an instance is gone."""

    REQUEST = "request"
    RETENTION = "retention"


def values_of(states: type[StrEnum]) -> Enum:
    """Column type that stores the values (SQLAlchemy stores names unless told so) and checks them."""
    return Enum(
        states,
        native_enum=False,
        create_constraint=True,
        length=16,
        name=f"{states.__name__.lower()}_is_known",
        values_callable=lambda members: [member.value for member in members],
    )


class Base(DeclarativeBase):
    """Column types of the names in ids.py."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        StudyUID: String(64),
        SeriesUID: String(64),
        InstanceUID: String(64),
        AETitle: String(16),
        Digest: String(64),
        datetime: Instant,
        dict[str, Any]: JSON,
        Sequence[Any]: JSON,
        SeriesState: values_of(SeriesState),
        InstanceState: values_of(InstanceState),
        JobState: values_of(JobState),
        DeliveryState: values_of(DeliveryState),
        PurgeReason: values_of(PurgeReason),
    }


class Meta(Base):
    """Facts about the store itself: schema version, day of making, digest of the audit key."""

    __tablename__ = "meta"
    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class Study(Base):
    """The only table with clear text about a patient; blanked by a purge."""

    __tablename__ = "study"
    study_uid: Mapped[StudyUID] = mapped_column(primary_key=True)
    patient_name: Mapped[str | None] = mapped_column(Text)
    patient_id: Mapped[str | None] = mapped_column(Text)
    accession_number: Mapped[str | None] = mapped_column(Text)
    study_date: Mapped[str | None] = mapped_column(Text)
    patient_hash: Mapped[str | None] = mapped_column(String(64), index=True)
    """Keyed hash of patient_id (audit.keyed_hash), for audit rows of later steps."""
    accession_hash: Mapped[str | None] = mapped_column(String(64), index=True)
    first_at: Mapped[datetime]
    purged_at: Mapped[datetime | None]


class Series(Base):
    """One received series of one study."""

    __tablename__ = "series"
    __table_args__ = (
        UniqueConstraint("study_uid", "series_uid", name="a_series_once_per_study"),
        CheckConstraint("(state = 'ineligible') = (reason IS NOT NULL)", name="only_an_ineligible_series_has_a_reason"),
        Index("series_by_state", "state", "last_at"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_uid: Mapped[StudyUID] = mapped_column(ForeignKey("study.study_uid"))
    series_uid: Mapped[SeriesUID] = mapped_column(index=True)
    state: Mapped[SeriesState]
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    """Receive time of the newest image."""
    arrivals: Mapped[int] = mapped_column(default=0)
    """Counts images stored or conflicting; a changed count tells that an image came in between."""
    calling_ae: Mapped[AETitle | None]
    called_ae: Mapped[AETitle | None]
    address: Mapped[str | None] = mapped_column(String(64))
    """Sender of the newest image (for `return_to_sender` and rules per sender)."""
    closed_at: Mapped[datetime | None]
    close_rule: Mapped[str | None] = mapped_column(String(64))
    reason: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """criterion, value, limit, text of an ineligible series."""


class Instance(Base):
    """One received image: where its Part 10 record lies in the segment log."""

    __tablename__ = "instance"
    __table_args__ = (
        Index(
            "same_bytes_once",
            "instance_uid",
            "sha256",
            unique=True,
            sqlite_where=text("state <> 'purged'"),
            postgresql_where=text("state <> 'purged'"),
        ),
        Index(
            "one_stored_version_of_an_instance",
            "instance_uid",
            unique=True,
            sqlite_where=text("state = 'stored'"),
            postgresql_where=text("state = 'stored'"),
        ),
        UniqueConstraint("segment", "offset", name="one_instance_per_record"),
        CheckConstraint("(state = 'purged') = (purged_at IS NOT NULL)", name="only_a_purged_instance_has_a_purge_time"),
        Index("instances_of_series", "series_id"),
        Index("purged_but_in_the_log", "segment", sqlite_where=text("state = 'purged' AND erased_at IS NULL")),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    instance_uid: Mapped[InstanceUID]
    sop_class: Mapped[str] = mapped_column(String(64))
    transfer_syntax: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[Digest]
    """Of the data set as received, without the file meta information."""
    state: Mapped[InstanceState]
    segment: Mapped[int]
    offset: Mapped[int]
    """Where the record begins in its segment (storage/records.py)."""
    length: Mapped[int]
    """Bytes of the Part 10 file in the record."""
    received_at: Mapped[datetime]
    calling_ae: Mapped[AETitle | None]
    called_ae: Mapped[AETitle | None]
    address: Mapped[str | None] = mapped_column(String(64))
    association: Mapped[str | None] = mapped_column(String(64))
    purged_at: Mapped[datetime | None]
    purge_reason: Mapped[PurgeReason | None]
    erased_at: Mapped[datetime | None]
    """When the bytes left the segment log."""


class Job(Base):
    """One analysis of one exact set of instances by one bundle (DESIGN 4, promise 4); or what else is queued for it."""

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("series_id", "instance_set", "bundle", "settings", "kind", name="one_job_per_key"),
        CheckConstraint(
            "(state = 'leased') = (lease_until IS NOT NULL AND worker IS NOT NULL)",
            name="only_a_leased_job_has_a_lease",
        ),
        CheckConstraint("state <> 'leased' OR token > 0", name="a_leased_job_holds_a_token"),
        CheckConstraint("state <> 'superseded' OR superseded_by IS NOT NULL", name="superseded_by_some_job"),
        Index("jobs_to_claim", "state", "priority", "created_at"),
        Index("superseded_jobs", "superseded_by", sqlite_where=text("superseded_by IS NOT NULL")),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    study_uid: Mapped[StudyUID]
    series_uid: Mapped[SeriesUID]
    kind: Mapped[str] = mapped_column(String(16))
    instance_set: Mapped[Digest]
    instances: Mapped[Sequence[Any]]
    """[[SOP Instance UID, 1-based frames or null], ...] of the one analysed volume."""
    bundle: Mapped[Digest]
    bundle_id: Mapped[str] = mapped_column(String(64))
    settings: Mapped[Digest]
    contrast: Mapped[str] = mapped_column(String(16))
    warnings: Mapped[Sequence[Any]]
    priority: Mapped[int]
    state: Mapped[JobState]
    token: Mapped[int] = mapped_column(default=0)
    """Counts leases; a write of an older lease is refused (DESIGN 4, promise 5)."""
    attempts: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[datetime | None]
    stage: Mapped[str | None] = mapped_column(String(32))
    created_at: Mapped[datetime]
    not_before: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    reason: Mapped[str | None] = mapped_column(Text)
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    superseded_by: Mapped[int | None] = mapped_column(ForeignKey("job.id"))


class Withdrawal(Base):
    """What a rejection note is for: the results of one job at one destination, whose place another job has taken."""

    __tablename__ = "withdrawal"
    __table_args__ = (UniqueConstraint("withdrawn_id", "destination", name="withdrawn_once_per_destination"),)
    note_id: Mapped[int] = mapped_column(ForeignKey("job.id"), primary_key=True)
    """The job that makes the note."""
    withdrawn_id: Mapped[int] = mapped_column(ForeignKey("job.id"))
    by_id: Mapped[int] = mapped_column(ForeignKey("job.id"))
    destination: Mapped[str] = mapped_column(String(64))


class Result(Base):
    """One DICOM object made by a job; its bytes lie under root/results."""

    __tablename__ = "result"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    sop_class: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[InstanceUID] = mapped_column(unique=True)
    series_uid: Mapped[SeriesUID] = mapped_column(index=True)
    path: Mapped[str] = mapped_column(String(128))
    """Relative to root/results."""
    sha256: Mapped[Digest]
    length: Mapped[int]
    created_at: Mapped[datetime]
    purged_at: Mapped[datetime | None]
    """To be removed: the row goes after its file, so that a crash in between leaves no file that nobody knows."""


class Delivery(Base):
    """One result to one destination."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("result_id", "destination", name="a_result_once_per_destination"),
        Index("deliveries_due", "state", "next_at"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    """Never given twice: an answer that comes late, of a delivery that was purged, is nobody else's."""
    result_id: Mapped[int] = mapped_column(ForeignKey("result.id", ondelete="CASCADE"))
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[DeliveryState]
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    since: Mapped[datetime]
    """Start of the time that `give_up_after` counts; a retry by hand sets it anew."""
    next_at: Mapped[datetime]
    """Due: not before this; sending: taken for lost after this."""
    sent_at: Mapped[datetime | None]
    confirmed_at: Mapped[datetime | None]
    status: Mapped[int | None]
    """DIMSE status of the last answer."""
    error: Mapped[str | None] = mapped_column(Text)


TURNED_AWAY = "kind IN ('association_rejected', 'connection_refused')"
"""Audit rows of peers that were not let in, as SQL: the index of these holds only where a query says the same."""


class Audit(Base):
    """What happened, append-only and hash-chained; no clear text of a patient (DESIGN 4, promise 8)."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("audit_by_study", "study_uid"),
        Index("audit_by_series", "series_uid"),
        Index("audit_by_patient", "patient_hash", sqlite_where=text("patient_hash IS NOT NULL")),
        Index("audit_turned_away", "kind", sqlite_where=text(TURNED_AWAY), postgresql_where=text(TURNED_AWAY)),
        Index("audit_by_accession", "accession_hash", sqlite_where=text("accession_hash IS NOT NULL")),
    )
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[str] = mapped_column(String(27))
    kind: Mapped[str] = mapped_column(String(32))
    outcome: Mapped[str] = mapped_column(String(16))
    study_uid: Mapped[str | None] = mapped_column(String(64))
    series_uid: Mapped[str | None] = mapped_column(String(64))
    instance_uid: Mapped[str | None] = mapped_column(String(64))
    job_id: Mapped[int | None]
    patient_hash: Mapped[str | None] = mapped_column(String(64))
    accession_hash: Mapped[str | None] = mapped_column(String(64))
    calling_ae: Mapped[str | None] = mapped_column(String(64))
    called_ae: Mapped[str | None] = mapped_column(String(64))
    address: Mapped[str | None] = mapped_column(String(64))
    destination: Mapped[str | None] = mapped_column(String(64))
    bundle: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[str | None] = mapped_column(Text)
    """Canonical JSON object."""
    hash: Mapped[str] = mapped_column(String(64))


class Alarm(Base):
    """Something that a person must look at; open until acknowledged."""

    __tablename__ = "alarm"
    __table_args__ = (
        Index(
            "one_open_alarm_per_subject",
            "kind",
            "subject",
            unique=True,
            sqlite_where=text("acknowledged_at IS NULL"),
            postgresql_where=text("acknowledged_at IS NULL"),
        ),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(128))
    """What it is about (job 12, destination PACS, ...): the same again counts up, it does not add a row."""
    text: Mapped[str] = mapped_column(Text)
    next_step: Mapped[str] = mapped_column(Text)
    study_uid: Mapped[StudyUID | None]
    series_uid: Mapped[SeriesUID | None]
    job_id: Mapped[int | None]
    destination: Mapped[str | None] = mapped_column(String(64))
    raised_at: Mapped[datetime]
    last_at: Mapped[datetime]
    times: Mapped[int] = mapped_column(default=1)
    acknowledged_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None] = mapped_column(String(64))
