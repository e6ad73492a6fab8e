"""What systemd is told about a role (sd_notify(3)); without systemd nothing happens."""

import os
import socket
from typing import Final

STORE_REFUSES: Final = "X_STORE_REFUSES=1"
"""A role's last word before it ends because disk or database refuse; systemd ignores names with X_."""


def sd_notify(state: str) -> bool:
    """Send READY=1, WATCHDOG=1, STOPPING=1 or STATUS=...; False where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)
        except OSError:
            return False  # a listener that went away takes nothing from the work
    return True


def watchdog_interval_s() -> float | None:
    """Seconds between two signs of life: a third of what systemd allows; None where no watchdog is set."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    if not allowed.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(allowed) / 1_000_000 / 3
