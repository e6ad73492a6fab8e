"""Put on PYTHONPATH of a child process: no socket reaches anything but the addresses named in the environment.

ANOMALYD_TEST_ALLOWED    "127.0.0.1:11112,127.0.0.1:104": the only IP end points that may be connected or sent to
ANOMALYD_TEST_ATTEMPTS   file that gets a line for every other try, which then fails
Python loads a module of this name at its own start, in grandchildren too; an audit hook cannot be taken out again.
"""

import os
import sys
from pathlib import Path

_ALLOWED = set(filter(None, os.environ.get("ANOMALYD_TEST_ALLOWED", "").split(",")))
_HOSTS = {end_point.rpartition(":")[0] for end_point in _ALLOWED}
_ATTEMPTS = os.environ.get("ANOMALYD_TEST_ATTEMPTS")


def _refuse_what_is_not_allowed(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        target = arguments[1]
        # Unix sockets have a path, IP ones a tuple; sendmsg on a connected socket has None.
        if isinstance(target, tuple) and f"{target[0]}:{target[1]}" not in _ALLOWED:
            _fail(event, f"{target[0]}:{target[1]}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
        if host not in (None, "") and str(host) not in _HOSTS:
            _fail(event, str(host))


def _fail(event: str, target: str) -> None:
    with Path(str(_ATTEMPTS)).open("a") as out:
        out.write(f"{os.getpid()} {Path(sys.argv[0]).name} {event} {target}\n")
    raise PermissionError(f"{event} to {target} is refused by the offline test")


if _ATTEMPTS:
    sys.addaudithook(_refuse_what_is_not_allowed)
