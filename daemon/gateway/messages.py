"""P-DATA from the socket into a data set's memory: PDVs put together to messages (PS3.8 9.3.5, annex E).

Knows nothing of pynetdicom: it reads from a `Reader`, answers through a `Desk`.
"""

from typing import Final, Protocol

from anomalyd.daemon.gateway.dataset import IncomingDataSet
from anomalyd.daemon.gateway.dimse import C_ECHO_RQ, C_STORE_RQ, Command, ProtocolError, decode_command
from anomalyd.storage.crash import crash_point

_PDV_HEAD: Final = 6
_IS_COMMAND: Final = 1
_IS_LAST: Final = 2
_COMMAND_LIMIT: Final = 1 << 16
_OTHER_DATA_LIMIT: Final = 1 << 23  # a storage commitment of 50,000 images
"""Data set of a message that is neither C-STORE nor C-ECHO: the door offers no service that needs one."""


class Reader(Protocol):
    """Bytes of one PDU, in order."""

    def take(self, count: int) -> bytes:
        """The next bytes; raises OSError when they do not come."""
        ...

    def fill(self, view: memoryview) -> None:
        """The next bytes into a view; raises OSError when they do not come."""
        ...


class Desk(Protocol):
    """Where complete messages go."""

    def refusal_in_advance(self, context_id: int, command: Command) -> str:
        """Why the data set that follows this C-STORE command need not be kept; empty: keep it."""
        ...

    def serve(self, context_id: int, command: Command, data_set: IncomingDataSet) -> None:
        """Answers a C-STORE or C-ECHO request."""
        ...

    def pass_on(self, context_id: int, command: bytes, data_set: bytes | None) -> None:
        """Any other message."""
        ...


class MessageReader:
    """The messages of one association."""

    def __init__(self, desk: Desk, data_set: IncomingDataSet) -> None:
        self._desk, self._data_set = desk, data_set
        self._clear()

    def _clear(self) -> None:
        self._context_id = 0
        self._command_bytes = b""
        self._command: Command | None = None
        self._other_data: bytearray | None = None

    def read_pdu(self, reader: Reader, length: int) -> None:
        """One P-DATA-TF PDU of so many bytes behind its header; raises ProtocolError, OSError."""
        while length:
            if length < _PDV_HEAD:
                raise ProtocolError("a PDV is cut off")
            head = reader.take(_PDV_HEAD)
            count = int.from_bytes(head[:4], "big") - 2
            length -= _PDV_HEAD + count
            if count < 0 or length < 0:
                raise ProtocolError("a PDV is longer than its PDU")
            self._fragment(reader, count, head[4], head[5])

    def _fragment(self, reader: Reader, count: int, context_id: int, control: int) -> None:
        if self._command_bytes and context_id != self._context_id:
            raise ProtocolError("a message changes its presentation context")
        self._context_id = context_id
        if control & _IS_COMMAND:
            self._command_fragment(reader, count, is_last=bool(control & _IS_LAST))
        else:
            self._data_fragment(reader, count, is_last=bool(control & _IS_LAST))

    def _command_fragment(self, reader: Reader, count: int, *, is_last: bool) -> None:
        if self._command is not None or len(self._command_bytes) + count > _COMMAND_LIMIT:
            raise ProtocolError("a command set follows where a data set must, or it is too long")
        self._command_bytes += reader.take(count)
        if not is_last:
            return
        self._command = command = decode_command(self._command_bytes)
        if command.field == C_STORE_RQ:
            self._data_set.begin(self._desk.refusal_in_advance(self._context_id, command))
        elif command.field != C_ECHO_RQ and command.has_data_set:
            self._other_data = bytearray()
        if not command.has_data_set:
            self._complete(command)

    def _data_fragment(self, reader: Reader, count: int, *, is_last: bool) -> None:
        command = self._command
        if command is None:
            raise ProtocolError("a data set without a command set")
        if self._other_data is not None:
            if len(self._other_data) + count > _OTHER_DATA_LIMIT:
                raise ProtocolError("a data set that no service here needs is too long")
            self._other_data += reader.take(count)
        else:
            while count:
                space = self._data_set.space(count)
                reader.fill(space)
                count -= len(space)
                self._data_set.filled(len(space))
            crash_point("gateway.receiving")
        if is_last:
            self._complete(command)

    def _complete(self, command: Command) -> None:
        context_id, raw, other = self._context_id, self._command_bytes, self._other_data
        self._clear()
        if command.field in (C_STORE_RQ, C_ECHO_RQ):
            try:
                self._desk.serve(context_id, command, self._data_set)
            finally:
                self._data_set.end()
        else:
            self._desk.pass_on(context_id, raw, None if other is None else bytes(other))

    def broken_off(self) -> None:
        """The association ended: what was being received is given up."""
        self._clear()
        self._data_set.end()
        self._data_set.forget_pieces()  # an association is a cycle of objects: its memory would wait for the collector
