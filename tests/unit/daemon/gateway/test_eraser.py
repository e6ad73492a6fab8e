"""The gateway's eraser with a real store and segment log: woken, at its start, and when a segment cannot be written."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalyd.daemon import wake
from anomalyd.daemon.gateway.eraser import SWEEP_S, Eraser
from anomalyd.storage import audit
from anomalyd.storage.erasing import pending_images
from anomalyd.storage.retention import purge_study
from anomalyd.storage.segments import SegmentLog
from stored import STUDY, SteppedStore, open_stepped
from waiting import wait_until

LIMIT_S = SWEEP_S / 2  # shorter than the sweep by clock: what happens within it was woken


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[SteppedStore]:
    opened = open_stepped(tmp_path)
    yield opened
    opened.store.close()


def gone(stepped: SteppedStore) -> bool:
    return pending_images(stepped.store) == 0


def test_what_waits_at_the_start_goes_at_once_and_later_requests_when_it_is_woken(stepped: SteppedStore) -> None:
    stepped.arrive(1)
    purge_study(stepped.store, STUDY, "admin")
    with Eraser(stepped.store):
        wait_until(lambda: gone(stepped), limit_s=LIMIT_S, what="erased at the start")
        stepped.arrive(2)
        purge_study(stepped.store, STUDY, "admin")
        assert not gone(stepped)
        assert wake.notify(stepped.store.root, wake.Role.GATEWAY) == 1
        wait_until(lambda: gone(stepped), limit_s=LIMIT_S, what="erased when woken")
    assert wake.waiters(stepped.store.root, wake.Role.GATEWAY) == 0
    kinds = [row.kind for row in audit.history_of(stepped.store, STUDY)]
    assert kinds.count("erased") == 2


def test_a_segment_that_cannot_be_opened_leaves_the_request_pending(
    stepped: SteppedStore, capfd: pytest.CaptureFixture[str]
) -> None:
    segment = SegmentLog(stepped.store.root).path(1)
    segment.mkdir(parents=True)
    stepped.arrive(1)
    purge_study(stepped.store, STUDY, "admin")
    with Eraser(stepped.store):
        wait_until(lambda: "erase.failed" in capfd.readouterr().out, limit_s=LIMIT_S, what="told")
        assert not gone(stepped)
        segment.rmdir()
        wake.notify(stepped.store.root, wake.Role.GATEWAY)
        wait_until(lambda: gone(stepped), limit_s=LIMIT_S, what="erased after all")
