"""A receiving PACS for tests: a real pynetdicom SCP on loopback that keeps what it got and can be told to misbehave."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from types import TracebackType
from typing import Self

from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import time by pynetdicom

BOTH = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
Answer = Callable[[Event], int]


@dataclass(frozen=True)
class Received:
    """One stored object: data set bytes as they came, and how."""

    sop_class: str
    transfer_syntax: str
    data_set: bytes
    association: int

    def dataset(self) -> Dataset:
        """Parsed."""
        implicit = self.transfer_syntax == ImplicitVRLittleEndian
        return read_dataset(BytesIO(self.data_set), is_implicit_VR=implicit, is_little_endian=True)


@dataclass
class Pacs:
    """`with Pacs(port) as pacs:`; answer decides the status of each C-STORE before it is kept."""

    port: int
    ae_title: str = "PACS"
    classes: Sequence[str] = (SecondaryCaptureImageStorage, SegmentationStorage)
    syntaxes: Sequence[UID] = BOTH
    answer: Answer = lambda _event: 0x0000
    handlers: Iterable[tuple[evt.EventType, Callable[[Event], object]]] = ()
    require_called_aet: bool = False
    max_associations: int = 10
    objects: dict[str, Received] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    """SOP Instance UIDs in order of arrival, repeats included."""
    associations: int = 0
    contexts: list[tuple[str, str]] = field(default_factory=list)
    """(abstract syntax, proposed transfer syntax) of every association."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._ae = AE(self.ae_title)
        self._ae.require_called_aet = self.require_called_aet
        self._ae.maximum_associations = self.max_associations
        self._ae.add_supported_context(Verification)
        for sop_class in self.classes:
            self._ae.add_supported_context(sop_class, list(self.syntaxes))
        server = self._ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_REQUESTED, self._requested), *self.handlers],
        )
        if server is None:
            raise RuntimeError("a server that does not block is returned")
        self._server = server
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._ae.shutdown()

    def _requested(self, event: Event) -> None:
        with self._lock:
            self.associations += 1
            self.contexts += [
                (str(context.abstract_syntax), str(syntax))
                for context in event.assoc.requestor.requested_contexts
                for syntax in context.transfer_syntax
            ]

    def _store(self, event: Event) -> int:
        status = self.answer(event)
        if status != 0x0000 and not 0xB000 <= status < 0xC000:
            return status
        encoded = event.encoded_dataset(include_meta=False)
        uid = uid_of(event)
        with self._lock:
            self.order.append(uid)
            self.objects.setdefault(
                uid,
                Received(
                    str(event.context.abstract_syntax),
                    str(event.context.transfer_syntax),
                    encoded,
                    id(event.assoc),
                ),
            )
        return status


def uid_of(event: Event) -> str:
    """SOP Instance UID of a C-STORE request."""
    if not isinstance(event.request, C_STORE):
        raise TypeError(event.request)
    return str(event.request.AffectedSOPInstanceUID)


def data_set_of(part10: bytes) -> bytes:
    """What follows the file meta information."""
    meta = dcmread(BytesIO(part10), stop_before_pixels=True, specific_tags=[]).file_meta
    return part10[132 + 12 + meta.FileMetaInformationGroupLength :]
