"""Places where a test lets the process die as a power cut or `kill -9` would: at once, without any clean-up.

Set by the environment variable ANOMALYD_CRASH_AT alone, never by configuration: `name`, or `name:N` for the N-th pass.
"""

import os
import signal
import threading

_VARIABLE = "ANOMALYD_CRASH_AT"
_name, _, _count = os.environ.get(_VARIABLE, "").partition(":")
_passes_left = int(_count) if _count else 1
_lock = threading.Lock()


def crash_point(name: str) -> None:
    """Ends this process with SIGKILL if ANOMALYD_CRASH_AT names this place (and its pass has come)."""
    if name != _name:
        return
    global _passes_left  # noqa: PLW0603 - one counter for the process, as the variable is
    with _lock:
        _passes_left -= 1
        if _passes_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # the signal is on its way: nothing after this line may run
