"""How long an answer is waited for: as long as the peer takes what we send it, and its time-out after that.

pynetdicom hands a whole object to its writing thread and counts the time-out of the answer from that moment on. An
object that needs longer than that on a slow line would be broken off, and sent and broken off again, for ever.
"""

import queue
import socket
import struct
import time
from typing import Any

from pynetdicom.association import Association

LOOK_S = 1.0
"""How often is looked whether something went out; an eighth of the time-out where that is less."""
_TCP_INFO_BYTES = 128
_BYTES_ACKED_AT = 120  # struct tcp_info of linux/tcp.h, since Linux 4.2; in an order that never changes
_NOTHING: tuple[None, None] = (None, None)


def wait_for_answer(association: Association) -> tuple[int | None, Any]:
    """The next message and its context; (None, None) when the association is over.

    Also when dimse_timeout has passed since the peer's TCP acknowledged anything of ours, and no message came.
    """
    messages, limit_s = association.dimse.msg_queue, association.dimse_timeout
    if limit_s is None:
        return messages.get()
    taken, since = acknowledged_bytes(association), time.monotonic()
    while True:
        try:
            return messages.get(timeout=min(LOOK_S, limit_s / 8))
        except queue.Empty:
            now = acknowledged_bytes(association)
        if now != taken:
            taken, since = now, time.monotonic()
        elif time.monotonic() - since >= limit_s:
            return _NOTHING


def acknowledged_bytes(association: Association) -> int:
    """Of this connection, so far; 0 where there is none any more, or the system does not tell."""
    transport = association.dul.socket
    connection = transport.socket if transport is not None else None
    option: int | None = getattr(socket, "TCP_INFO", None)
    if connection is None or option is None:
        return 0
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, option, _TCP_INFO_BYTES)
    except OSError:  # closed meanwhile
        return 0
    return int(struct.unpack_from("<Q", told, _BYTES_ACKED_AT)[0]) if len(told) == _TCP_INFO_BYTES else 0
