"""The fast classes fit the installed pynetdicom, say so when they do not, and run on a clock that nobody steps."""

import time
from pathlib import Path
from typing import Any

import pynetdicom
import pytest
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AssociationSocket, RequestHandler

from anomalyd.daemon.gateway import fast, scp
from anomalyd.daemon.gateway.connection import MonotonicTimer
from doors import open_door
from raw_scu import ABORT, Ended, RawAssociation, pdu
from waiting import wait_until


def test_every_overridden_member_is_there_with_its_parameters() -> None:
    assert fast.misfit() == ""


def test_a_member_with_other_parameters_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def recv(self: Any, nr_bytes: int, flags: int) -> bytearray:
        del self, flags
        return bytearray(nr_bytes)

    monkeypatch.setattr(AssociationSocket, "recv", recv)
    assert "AssociationSocket.recv" in fast.misfit()


def test_a_member_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(DULServiceProvider, "_read_pdu_data")
    assert "_read_pdu_data has the parameters (absent)" in fast.misfit()


def test_another_release_is_noticed_and_stock_classes_take_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scp.request_handler(is_fast=True) is fast.FastRequestHandler
    assert scp.request_handler(is_fast=False) is RequestHandler
    monkeypatch.setattr(pynetdicom, "__version__", "3.1.0")
    assert scp.request_handler(is_fast=True) is RequestHandler
    assert "gateway.stock_classes" in capsys.readouterr().out


def test_a_step_of_the_wall_clock_ends_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = MonotonicTimer(60)
    assert timer.remaining == 60
    timer.start()
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert not timer.expired
    timer.stop()
    assert not timer.expired


@pytest.mark.parametrize(("timeout", "is_expired"), [(0, True), (60, False), (None, False)])
def test_a_timer_expires_by_its_timeout(timeout: float | None, is_expired: bool) -> None:  # noqa: FBT001 - parametrised
    timer = MonotonicTimer(timeout)
    assert not timer.expired
    timer.start()
    assert timer.expired is is_expired


@pytest.mark.parametrize("abort", [b"\0\0\3\0", b"\0\0\xff\xff"])
def test_an_abort_with_a_source_that_does_not_exist_ends_the_connection_and_no_thread(
    abort: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """pynetdicom's thread died of it, with a trace (found by fuzzing)."""
    door = open_door(tmp_path, is_fast=True)
    try:
        with RawAssociation(door.port) as scu:
            scu.socket.sendall(pdu(ABORT, abort))
            with pytest.raises(Ended):
                scu.read_pdu()
        wait_until(lambda: not door.door.visitors(), limit_s=10, what="the association has ended")
    finally:
        door.close()
    assert "a PDU that the state machine cannot take" in capsys.readouterr().out
