"""Short slices are asked for in the ordinary class, and nothing else about the thread changes."""

import os
import platform
import threading

import pytest

from anomalyd.daemon.gateway.scheduling import ask_for_short_slices


@pytest.mark.skipif(platform.system() != "Linux", reason="sched_setattr is Linux's")
def test_a_thread_that_asked_is_an_ordinary_thread() -> None:
    seen: dict[str, object] = {}

    def ask() -> None:  # in a thread of its own: the test run keeps its slices
        before = (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))
        seen["asked"] = ask_for_short_slices()
        seen["is_unchanged"] = before == (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert seen == {"asked": True, "is_unchanged": True}


def test_an_unknown_machine_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    assert not ask_for_short_slices()
