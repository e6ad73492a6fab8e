"""Data sets of the Storage Commitment Push Model (PS3.4 J.3), read and made: what is asked for, what is reported."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time by pynetdicom
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from anomalyd.errors import BadIdentifier, Refused
from anomalyd.ids import uid

PUSH_MODEL: Final = UID(StorageCommitmentPushModel)
PUSH_MODEL_INSTANCE: Final = UID(StorageCommitmentPushModelInstance)
REQUEST: Final = 1
"""Action Type ID of N-ACTION (PS3.4 table J.3.2-1)."""
ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event Type IDs of N-EVENT-REPORT (PS3.4 table J.3.3-1)."""
NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0112, 0x0119
INVALID_ARGUMENT: Final = 0x0115
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_ACTION, NO_SUCH_EVENT = 0x0123, 0x0113
NOT_AUTHORISED: Final = 0x0124


class MalformedCommitment(Refused):
    """A storage commitment without what PS3.4 J.3 demands."""


@dataclass(frozen=True, slots=True)
class Request:
    """An N-ACTION: (SOP Class UID, SOP Instance UID) of each object."""

    transaction_uid: str
    objects: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """An N-EVENT-REPORT. failed: Failure Reason by SOP Instance UID."""

    transaction_uid: str
    committed: tuple[tuple[str, str], ...]
    failed: Mapping[tuple[str, str], int]


def context() -> PresentationContext:
    """What the asking side proposes."""
    return build_context(PUSH_MODEL)


def request_of(ds: Dataset) -> Request:
    """The N-ACTION that this data set is; raises MalformedCommitment."""
    objects = _references(ds, "ReferencedSOPSequence")
    if not objects:
        raise MalformedCommitment("the request names no object: Referenced SOP Sequence (0008,1199) is needed")
    return Request(_transaction(ds), objects)


def report_of(ds: Dataset) -> Report:
    """The N-EVENT-REPORT that this data set is; raises MalformedCommitment."""
    failed = {}
    for item in ds.get("FailedSOPSequence") or ():
        failed[_reference(item)] = int(item.get("FailureReason") or PROCESSING_FAILURE)
    return Report(_transaction(ds), _references(ds, "ReferencedSOPSequence"), failed)


def request_data_set(request: Request) -> Dataset:
    """Action Information."""
    ds = Dataset()
    ds.TransactionUID = request.transaction_uid
    ds.ReferencedSOPSequence = _items(request.objects)
    return ds


def report_data_set(report: Report) -> tuple[int, Dataset]:
    """Event Type ID and Event Information."""
    ds = Dataset()
    ds.TransactionUID = report.transaction_uid
    if report.committed:
        ds.ReferencedSOPSequence = _items(report.committed)
    if not report.failed:
        return ALL_COMMITTED, ds
    ds.FailedSOPSequence = _items(report.failed)
    for item, reason in zip(ds.FailedSOPSequence, report.failed.values(), strict=True):
        item.FailureReason = reason
    return SOME_FAILED, ds


def _items(references: Iterable[tuple[str, str]]) -> list[Dataset]:
    items = []
    for sop_class, instance in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
        items.append(item)
    return items


def _transaction(ds: Dataset) -> str:
    return _uid(ds, "TransactionUID")


def _references(ds: Dataset, keyword: str) -> tuple[tuple[str, str], ...]:
    return tuple(_reference(item) for item in ds.get(keyword) or ())


def _reference(item: Dataset) -> tuple[str, str]:
    return _uid(item, "ReferencedSOPClassUID"), _uid(item, "ReferencedSOPInstanceUID")


def _uid(ds: Dataset, keyword: str) -> str:
    """Text that is no UID may be anything, also a name: it goes nowhere."""
    try:
        return uid(str(ds.get(keyword) or ""))
    except BadIdentifier as exc:
        raise MalformedCommitment(f"{keyword} is missing or no UID of at most 64 characters") from exc
