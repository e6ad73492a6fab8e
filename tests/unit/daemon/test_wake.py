"""Roles wake each other by a datagram; nothing breaks when nobody listens."""

import threading
import time
from pathlib import Path

import pytest

from anomalyd.daemon.wake import WAKE_FOLDER, Role, Waiter, notify


def test_a_notice_wakes_the_waiter_at_once(tmp_path: Path) -> None:
    with Waiter(tmp_path, Role.DISPATCHER) as waiter:
        started = time.monotonic()
        threading.Timer(0.05, notify, (tmp_path, Role.DISPATCHER)).start()
        assert waiter.wait(10)
        assert time.monotonic() - started < 2


def test_without_a_notice_the_wait_ends_by_clock(tmp_path: Path) -> None:
    with Waiter(tmp_path, Role.DISPATCHER) as waiter:
        assert not waiter.wait(0.01)


def test_a_burst_wakes_once(tmp_path: Path) -> None:
    with Waiter(tmp_path, Role.WORKER) as waiter:
        for _ in range(5):
            notify(tmp_path, Role.WORKER)
        assert waiter.wait(1)
        assert not waiter.wait(0)


def test_every_waiter_of_a_role_is_woken_and_no_other_role(tmp_path: Path) -> None:
    with (
        Waiter(tmp_path, Role.WORKER) as first,
        Waiter(tmp_path, Role.WORKER) as second,
        Waiter(tmp_path, Role.DISPATCHER) as other,
    ):
        assert notify(tmp_path, Role.WORKER) == 2
        assert first.wait(1)
        assert second.wait(1)
        assert not other.wait(0)


def test_nobody_waiting_is_no_error(tmp_path: Path) -> None:
    assert notify(tmp_path / "never-made", Role.GATEWAY) == 0


def test_a_full_socket_never_blocks_the_notifier(tmp_path: Path) -> None:
    with Waiter(tmp_path, Role.WORKER) as waiter:
        for _ in range(5000):
            notify(tmp_path, Role.WORKER)
        assert waiter.wait(0)


def test_the_socket_of_a_killed_role_is_removed(tmp_path: Path) -> None:
    waiter = Waiter(tmp_path, Role.WORKER)
    waiter._socket.close()  # noqa: SLF001 - what SIGKILL leaves behind: the file without a listener
    assert len(list((tmp_path / WAKE_FOLDER).iterdir())) == 1
    assert notify(tmp_path, Role.WORKER) == 0
    assert list((tmp_path / WAKE_FOLDER).iterdir()) == []


def test_a_deep_storage_root_is_no_trouble(tmp_path: Path) -> None:
    root = tmp_path / ("d" * 120)
    root.mkdir()
    with Waiter(root, Role.GATEWAY) as waiter:
        assert notify(root, Role.GATEWAY) == 1
        assert waiter.wait(1)


@pytest.mark.parametrize("role", list(Role))
def test_socket_files_are_private(tmp_path: Path, role: Role) -> None:
    with Waiter(tmp_path, role):
        folder = tmp_path / WAKE_FOLDER
        assert folder.stat().st_mode & 0o077 == 0
        assert all(entry.stat().st_mode & 0o077 == 0 for entry in folder.iterdir())
