"""A scanner that asks for storage commitment, and takes the report: on its own association, or where it listens."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time by pynetdicom
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from anomalyd.daemon import scu
from anomalyd.daemon.commitment_messages import Request, request_data_set

LIMIT_S = 15.0


@contextmanager
def asking(
    port: int, title: str = "SCANNER", reports: list[Dataset] | None = None, *, with_role: bool = False
) -> Iterator[Association]:
    """An association that can take reports, as a scanner's."""
    answering: list[threading.Thread] = []

    def on_report(event: Event) -> tuple[int, None]:
        answering.append(threading.current_thread())
        if reports is not None:
            reports.append(event.event_information)
        return 0x0000, None

    entity = AE(title)
    entity.acse_timeout = entity.dimse_timeout = 5
    for sop_class in (StorageCommitmentPushModel, MRImageStorage, Verification):
        entity.add_requested_context(sop_class, ImplicitVRLittleEndian)
    roles: list[Any] = [build_role(StorageCommitmentPushModel, scp_role=True)] if with_role else []
    association = entity.associate(
        "127.0.0.1", port, ae_title="ANOMALYD", ext_neg=roles or None,
        evt_handlers=[(evt.EVT_CONN_OPEN, scu.prepare), (evt.EVT_N_EVENT_REPORT, on_report)],
    )  # fmt: skip
    try:
        yield association
    finally:
        for thread in answering:  # else pynetdicom's release may wait for ever
            thread.join(LIMIT_S)
        if association.is_established:
            association.release()


def asked(association: Association, *objects: tuple[str, str], uid: str = "1.2.3.99", action: int = 1) -> int | None:
    """Status that was answered to a request; None: the association ended without an answer."""
    status, _ = association.send_n_action(
        request_data_set(Request(uid, objects)), action, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    return int(status.Status) if "Status" in status else None


@contextmanager
def listening(port: int, reports: list[Dataset]) -> Iterator[None]:
    """The scanner's own port, where `report_to` leads."""

    def on_report(event: Event) -> tuple[int, None]:
        reports.append(event.event_information)
        return 0x0000, None

    entity = AE("SCANNER")
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    try:
        yield
    finally:
        assert server is not None
        server.shutdown()
