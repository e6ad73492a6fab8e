"""Waiting on a condition with a limit: the only way a test waits."""

import threading
import time
from collections.abc import Callable


class NotInTime(AssertionError):
    """A condition that did not come true within its limit."""


def wait_until(
    condition: Callable[[], object],
    *,
    limit_s: float,
    what: str,
    step_s: float = 0.05,
    give_up: Callable[[], str] | None = None,
) -> None:
    """Returns as soon as `condition()` is true; raises NotInTime with `what` after limit_s.

    give_up: gives a text as soon as waiting makes no sense any more (a child that has ended), else "".
    """
    pause = threading.Event()  # never set: a wait that another thread need not end
    deadline = time.monotonic() + limit_s
    while not condition():
        why = give_up() if give_up else ""
        if why:
            raise NotInTime(f"{what}: {why}")
        if time.monotonic() > deadline:
            raise NotInTime(f"{what}: not within {limit_s:g} s")
        pause.wait(step_s)
