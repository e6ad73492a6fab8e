"""Files that arrive in a store as the gateway stores them: through the real inbox, without a network."""

import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from pydicom import dcmread

from anomalyd.ids import Digest
from anomalyd.storage.engine import Store
from anomalyd.storage.inbox import Inbox
from anomalyd.storage.peek import peek
from anomalyd.storage.received import ReceivedInstance, Sender
from pacs import data_set_of


class Arrivals:
    """`with Arrivals(store) as arrivals: arrivals.take(series.files)`."""

    def __init__(self, store: Store, calling_ae: str = "SCANNER") -> None:
        self._store, self._inbox = store, Inbox(store, disk_floor=0)
        self._sender = Sender(calling_ae, "ANOMALYD", "127.0.0.1", "test-1")

    def __enter__(self) -> Self:
        self._inbox.open(threading.Event())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inbox.close()

    def take(self, files: Iterable[Path]) -> None:
        """Each file's data set, byte for byte."""
        for path in files:
            part10 = path.read_bytes()
            syntax = str(dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta.TransferSyntaxUID)
            data = data_set_of(part10)
            self._inbox.accept(
                ReceivedInstance(
                    sender=self._sender,
                    received_at=self._store.clock(),
                    transfer_syntax=syntax,
                    sha256=Digest(hashlib.sha256(data).hexdigest()),
                    peeked=peek(data, syntax),
                    data=[data],
                )
            )
