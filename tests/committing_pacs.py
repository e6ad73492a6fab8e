"""A PACS that answers storage commitment and queries for tests: on the association of the request, on a new one, late,
with failures, or never.

    with committing_pacs(port, reports_to=("ANOMALYD", gateway_port)) as pacs:
"""

import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time by pynetdicom
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
)

from anomalyd.daemon import scu
from anomalyd.pipeline.results.objects import SOP_CLASSES
from pacs import Pacs

Way = Literal["same", "new", "never"]
STORED = tuple(SOP_CLASSES.values())


@dataclass
class CommittingPacs:
    """way: how reports come. lost: UIDs that it says it does not have. refusal: status of N-ACTION."""

    port: int
    way: Way = "same"
    gateway: int = 0
    """Port that new associations go to."""
    services: tuple[str, ...] = (StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind)
    lost: set[str] = field(default_factory=set)
    reason: int = 0x0112
    refusal: int = 0x0000
    patients: dict[str, str] = field(default_factory=dict)
    """PatientID by Study Instance UID, other than what was stored; "" for a study that is not there."""
    series: set[str] = field(default_factory=set)
    """Source series that it has."""
    with_roles: bool = True
    hangs: bool = False
    """N-ACTION is not answered before `go_on` is set."""
    go_on: threading.Event = field(default_factory=threading.Event)
    requests: list[Dataset] = field(default_factory=list)
    reported: list[int | None] = field(default_factory=list)
    """Status that was answered to each report; None: no answer, no association."""
    queries: list[Dataset] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads: list[threading.Thread] = []
        self.pacs = Pacs(
            self.port,
            classes=(*STORED, *self.services),
            handlers=[(evt.EVT_N_ACTION, self._asked), (evt.EVT_C_FIND, self._queried)],
        )
        self.pacs.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for thread in self._threads:
            thread.join(10)
        self.pacs.__exit__(kind, error, trace)

    def report_of(self, request: Dataset) -> tuple[int, Dataset]:
        """Event type and information: what it has of what was asked."""
        there = [i for i in request.ReferencedSOPSequence if self._has(i.ReferencedSOPInstanceUID)]
        gone = [i for i in request.ReferencedSOPSequence if not self._has(i.ReferencedSOPInstanceUID)]
        ds = Dataset()
        ds.TransactionUID = request.TransactionUID
        ds.ReferencedSOPSequence = there
        for item in gone:
            item.FailureReason = self.reason
        if gone:
            ds.FailedSOPSequence = gone
        return (2 if gone else 1), ds

    def report(self, request: Dataset, *, to: int | None = None) -> int | None:
        """Reports on a new association, as a PACS does; gives the status that was answered."""
        entity = AE("PACS")
        entity.add_requested_context(StorageCommitmentPushModel)
        entity.acse_timeout = entity.dimse_timeout = 5
        roles: list[Any] = [build_role(StorageCommitmentPushModel, scp_role=True)] if self.with_roles else []
        association = entity.associate(
            "127.0.0.1", to or self.gateway, ae_title="ANOMALYD", ext_neg=roles or None,
            evt_handlers=[(evt.EVT_CONN_OPEN, scu.prepare)],
        )  # fmt: skip
        if not association.is_established:
            return None
        if not self.with_roles:  # a PACS that asks for no role and reports all the same
            for context in association.accepted_contexts:
                context._as_scp = True  # noqa: SLF001 - no other way to be such a peer
        event, ds = self.report_of(request)
        status, _ = association.send_n_event_report(
            ds, event, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        association.release()
        return int(status.Status) if "Status" in status else None

    def _has(self, uid: str) -> bool:
        return uid in self.pacs.objects and uid not in self.lost

    def _asked(self, event: Event) -> tuple[int, Dataset | None]:
        request = event.action_information
        self.requests.append(request)
        if self.hangs:
            self.go_on.wait(60)
        if self.refusal == 0x0000 and self.way != "never":
            work = self._report_here if self.way == "same" else self._report_anew
            thread = threading.Thread(target=work, args=(event.assoc, request))
            self._threads.append(thread)
            thread.start()
        return self.refusal, None

    def _report_here(self, association: Any, request: Dataset) -> None:
        scu.sort_messages(association)
        event, ds = self.report_of(request)
        status, _ = association.send_n_event_report(
            ds, event, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        self.reported.append(int(status.Status) if "Status" in status else None)

    def _report_anew(self, _association: Any, request: Dataset) -> None:
        self.reported.append(self.report(request))

    def _queried(self, event: Event) -> Any:
        wanted = event.identifier
        self.queries.append(wanted)
        for match in self._matches(wanted):
            yield 0xFF00, match
        yield 0x0000, None

    def _matches(self, wanted: Dataset) -> list[Dataset]:
        match = Dataset()
        match.QueryRetrieveLevel = wanted.QueryRetrieveLevel
        match.StudyInstanceUID = wanted.StudyInstanceUID
        if wanted.QueryRetrieveLevel == "STUDY":
            patient = self.patients.get(wanted.StudyInstanceUID, "")
            match.PatientID = patient
            return [match] if patient else []
        match.SeriesInstanceUID = wanted.SeriesInstanceUID
        if wanted.QueryRetrieveLevel == "SERIES":
            return [match] if wanted.SeriesInstanceUID in self.series else []
        found = []
        for uid in [uid for uid in self.pacs.objects if self._has(uid)]:
            one = Dataset()
            one.update(match)
            one.SOPInstanceUID = uid
            found.append(one)
        return found
