"""What the audit log can say, and the words that DICOM has for it (PS3.15 A.5)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any


class AuditKind(StrEnum):
    """One row each time one of these happens."""

    STARTED_ROLE = "role_started"
    STOPPED_ROLE = "role_stopped"
    CONFIGURATION = "configuration"
    """The configuration that a role runs with (digest of it, versions, bundle digests)."""

    CONNECTION_REFUSED = "connection_refused"
    """Before any association: no TLS where TLS is spoken, or the reverse, or no certificate that is accepted."""
    ASSOCIATION_REJECTED = "association_rejected"
    RECEIVED = "received"
    DUPLICATE = "duplicate"
    """The same bytes again: answered with success, not stored again."""
    CONFLICT = "conflict"
    """Same SOP Instance UID, other content: stored beside the first, never analysed."""
    REJECTED = "rejected"
    """One instance refused with a status."""

    CLOSED = "closed"
    SELECTED = "selected"
    REFUSED = "refused"
    """The series is not analysed: criterion, value, limit in the detail."""
    QUEUED = "queued"
    STARTED = "started"
    RELEASED = "released"
    """A worker gave its job back unfinished, because it was told to stop."""
    FINISHED = "finished"
    WITHHELD = "withheld"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    REQUEUED = "requeued"
    """A job to be tried again: by the queue, after a failure, or by hand."""

    SENDING = "sending"
    SENT = "sent"
    ASKED = "confirmation_asked"
    """A destination was asked whether it has what was sent (storage commitment or a query)."""
    CONFIRMED = "confirmed"
    MISSING = "reported_missing"
    """The destination says that it does not have it, though it answered success."""
    UNANSWERED = "confirmation_unanswered"
    """It could not be asked, or its answer says nothing about these."""
    RETRIED = "retried"
    REFUSED_BY_PEER = "refused_by_peer"
    GAVE_UP = "gave_up"
    REVIVED = "revived"
    """A delivery to be tried again, by hand."""
    DELIVERY_CLOSED = "delivery_closed"
    COMMITMENT_REQUESTED = "commitment_requested"
    """A sender asks us to commit to what it has stored here."""
    COMMITMENT_REPORTED = "commitment_reported"
    """What we told it; or that it could not be told."""

    PURGED = "purged"
    """A study forgotten on request."""
    ERASED = "erased"
    """Its bytes have left the segment log."""
    EXPIRED = "expired"
    """A series removed by age (`keep_for`)."""
    EXPORTED = "exported"
    ALARM = "alarm"
    ACKNOWLEDGED = "acknowledged"
    QUERIED = "audit_queried"
    VERIFIED = "audit_verified"
    HEAD_ACCEPTED = "audit_head_accepted"


class Outcome(StrEnum):
    """PS3.15 A.5.2 EventOutcomeIndicator, in words."""

    SUCCESS = "success"
    MINOR = "minor failure"
    SERIOUS = "serious failure"
    MAJOR = "major failure"


OUTCOME_INDICATOR: Mapping[Outcome, int] = {
    Outcome.SUCCESS: 0,
    Outcome.MINOR: 4,
    Outcome.SERIOUS: 8,
    Outcome.MAJOR: 12,
}


class EventID(IntEnum):
    """DCM codes of PS3.15 A.5.3 (context group CID 400)."""

    APPLICATION_ACTIVITY = 110100
    AUDIT_LOG_USED = 110101
    BEGIN_TRANSFERRING_DICOM_INSTANCES = 110102
    DICOM_INSTANCES_ACCESSED = 110103
    DICOM_INSTANCES_TRANSFERRED = 110104
    DICOM_STUDY_DELETED = 110105
    EXPORT = 110106
    QUERY = 110112
    SECURITY_ALERT = 110113


class EventType(IntEnum):
    """DCM codes of EventTypeCode (context group CID 401)."""

    APPLICATION_START = 110120
    APPLICATION_STOP = 110121
    NODE_AUTHENTICATION = 110126
    SOFTWARE_CONFIGURATION = 110131
    USE_OF_RESTRICTED_FUNCTION = 110132
    AUDIT_RECORDING_STARTED = 110134


class Action(StrEnum):
    """PS3.15 A.5.2 EventActionCode."""

    CREATE = "C"
    READ = "R"
    UPDATE = "U"
    DELETE = "D"
    EXECUTE = "E"


@dataclass(frozen=True, slots=True)
class DicomEvent:
    """How a kind is spelled in an audit message of PS3.15."""

    id: EventID
    action: Action
    type: EventType | None = None


_ACTIVITY = DicomEvent(EventID.APPLICATION_ACTIVITY, Action.EXECUTE)
_STEP = DicomEvent(EventID.DICOM_INSTANCES_ACCESSED, Action.READ)
_TRANSFER = DicomEvent(EventID.DICOM_INSTANCES_TRANSFERRED, Action.CREATE)
_DELETED = DicomEvent(EventID.DICOM_STUDY_DELETED, Action.DELETE)
_LOG_USED = DicomEvent(EventID.AUDIT_LOG_USED, Action.READ)

VOCABULARY: Mapping[AuditKind, DicomEvent] = {
    AuditKind.STARTED_ROLE: DicomEvent(EventID.APPLICATION_ACTIVITY, Action.EXECUTE, EventType.APPLICATION_START),
    AuditKind.STOPPED_ROLE: DicomEvent(EventID.APPLICATION_ACTIVITY, Action.EXECUTE, EventType.APPLICATION_STOP),
    AuditKind.CONFIGURATION: DicomEvent(EventID.SECURITY_ALERT, Action.EXECUTE, EventType.SOFTWARE_CONFIGURATION),
    AuditKind.CONNECTION_REFUSED: DicomEvent(EventID.SECURITY_ALERT, Action.EXECUTE, EventType.NODE_AUTHENTICATION),
    AuditKind.ASSOCIATION_REJECTED: DicomEvent(EventID.SECURITY_ALERT, Action.EXECUTE, EventType.NODE_AUTHENTICATION),
    AuditKind.RECEIVED: _TRANSFER,
    # "R": the receiver already holds the instances and has determined that no changes are needed (A.5.3.7)
    AuditKind.DUPLICATE: DicomEvent(EventID.DICOM_INSTANCES_TRANSFERRED, Action.READ),
    AuditKind.CONFLICT: _TRANSFER,
    AuditKind.REJECTED: _TRANSFER,
    AuditKind.CLOSED: _STEP,
    AuditKind.SELECTED: _STEP,
    AuditKind.REFUSED: _STEP,
    AuditKind.QUEUED: _STEP,
    AuditKind.STARTED: _STEP,
    AuditKind.RELEASED: _STEP,
    AuditKind.FINISHED: DicomEvent(EventID.DICOM_INSTANCES_ACCESSED, Action.CREATE),
    AuditKind.WITHHELD: _STEP,
    AuditKind.FAILED: _STEP,
    AuditKind.SUPERSEDED: _STEP,
    AuditKind.CANCELLED: _STEP,
    AuditKind.REQUEUED: _STEP,
    AuditKind.SENDING: DicomEvent(EventID.BEGIN_TRANSFERRING_DICOM_INSTANCES, Action.EXECUTE),
    AuditKind.SENT: _TRANSFER,
    AuditKind.ASKED: DicomEvent(EventID.QUERY, Action.EXECUTE),
    AuditKind.CONFIRMED: DicomEvent(EventID.QUERY, Action.EXECUTE),
    AuditKind.MISSING: DicomEvent(EventID.QUERY, Action.EXECUTE),
    AuditKind.UNANSWERED: DicomEvent(EventID.QUERY, Action.EXECUTE),
    AuditKind.RETRIED: _TRANSFER,
    AuditKind.REFUSED_BY_PEER: _TRANSFER,
    AuditKind.GAVE_UP: _TRANSFER,
    AuditKind.REVIVED: _TRANSFER,
    AuditKind.DELIVERY_CLOSED: _TRANSFER,
    AuditKind.COMMITMENT_REQUESTED: DicomEvent(EventID.QUERY, Action.EXECUTE),
    AuditKind.COMMITMENT_REPORTED: DicomEvent(EventID.QUERY, Action.EXECUTE),
    AuditKind.PURGED: _DELETED,
    AuditKind.ERASED: _DELETED,
    AuditKind.EXPIRED: _DELETED,
    AuditKind.EXPORTED: DicomEvent(EventID.EXPORT, Action.READ),
    AuditKind.ALARM: _ACTIVITY,
    AuditKind.ACKNOWLEDGED: _ACTIVITY,
    AuditKind.QUERIED: _LOG_USED,
    AuditKind.VERIFIED: _LOG_USED,
    AuditKind.HEAD_ACCEPTED: DicomEvent(EventID.SECURITY_ALERT, Action.EXECUTE, EventType.USE_OF_RESTRICTED_FUNCTION),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One thing that happened. UIDs and hashes only: no clear text of a patient (audit.keyed_hash makes the hashes).

    at: when it happened, in UTC; for received images the time in the log's record, not of writing.
    study_uid, series_uid: of the received series, also for its results, so that a history is one query.
    instance_uid: of a received image or of a result object. detail: JSON values only.
    """

    kind: AuditKind
    at: datetime
    outcome: Outcome = Outcome.SUCCESS
    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None
    job_id: int | None = None
    patient_hash: str | None = None
    accession_hash: str | None = None
    calling_ae: str | None = None
    called_ae: str | None = None
    address: str | None = None
    destination: str | None = None
    bundle: str | None = None
    detail: Mapping[str, Any] | None = None
