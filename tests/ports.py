"""Free TCP ports of loopback for servers under test."""

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES = 200


def free_port() -> int:
    """A port that nobody listens on, and that no outgoing connection can take before it is used.

    Not from bind(0): that gives one of those that the kernel also gives to connections.
    """
    first_of_the_kernel = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32768
    for _ in range(_TRIES):
        port = random.randrange(10_000, first_of_the_kernel)  # noqa: S311 - no secret
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port of loopback is free")
