"""The gateway's process: start, signs of life, waking the dispatcher, a second one, an orderly end."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalyd.daemon.wake import Role, Waiter
from certificates import Authority
from images import image, uid_of
from notify_listener import NotifyListener
from raw_scu import ABORT, Ended, RawAssociation, Rejected
from running import RunningDaemon
from waiting import wait_until

SUCCESS = 0x0000
LIMIT_S = 60.0


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A configured daemon of which nothing runs yet."""
    with RunningDaemon(tmp_path / "daemon", roles=()) as daemon:
        yield daemon


def kinds(daemon: RunningDaemon) -> list[str]:
    store = daemon.open_store()
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT kind FROM audit ORDER BY seq").fetchall()
    store.close()
    return [row[0] for row in rows]


def test_systemd_hears_ready_signs_of_life_and_the_end(
    idle: RunningDaemon, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with NotifyListener(tmp_path_factory.getbasetemp() / "notify") as listener:
        idle.start("gateway", environment=listener.environment)
        assert listener.next_but() == "READY=1"
        assert listener.next_but() == "WATCHDOG=1", "an echo came back and a commit worked"
        idle.children["gateway"].terminate()
        assert listener.next_but("WATCHDOG=1") == "STOPPING=1"
        assert idle.children["gateway"].wait(LIMIT_S) == 0
    assert kinds(idle) == ["role_started", "role_stopped"], "its own echo is no visitor"


def test_with_tls_alone_it_still_echoes_itself(idle: RunningDaemon, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without a certificate of its own for that: from its own connection it takes plain DICOM, from no other."""
    ours = Authority(idle.root / "authority").issue("anomalyd")
    idle.configuration["daemon"]["tls"] = {**ours.settings, "port": idle.port}
    idle.write_configuration()
    with NotifyListener(tmp_path_factory.getbasetemp() / "notify-tls") as listener:
        idle.start("gateway", environment=listener.environment)
        assert listener.next_but() == "READY=1"
        assert listener.next_but() == "WATCHDOG=1", "an echo came back and a commit worked"
        with pytest.raises(Ended):
            RawAssociation(idle.port)
        idle.stop()
    assert kinds(idle) == ["role_started", "connection_refused", "role_stopped"]


def test_certificates_that_cannot_be_used_end_it_with_78(idle: RunningDaemon) -> None:
    ours = Authority(idle.root / "authority").issue("anomalyd")
    ours.key.write_text("no key")
    idle.configuration["daemon"]["tls"] = {**ours.settings, "port": idle.port}
    idle.write_configuration()
    ended = idle.command("gateway")
    assert ended.returncode == 78
    assert str(ours.key) in ended.stderr
    assert "no key" not in ended.stderr + ended.stdout


def test_a_stored_image_wakes_the_dispatcher(idle: RunningDaemon) -> None:
    idle.start("gateway")
    with Waiter(idle.store_root, Role.DISPATCHER) as waiter, RawAssociation(idle.port) as scu:
        assert scu.store(image(), uid_of(1)) == SUCCESS
        assert waiter.wait(LIMIT_S)


def test_an_open_association_may_finish_after_sigterm(idle: RunningDaemon) -> None:
    idle.start("gateway")
    child = idle.children["gateway"]
    with RawAssociation(idle.port) as scu:
        assert scu.store(image(1), uid_of(1)) == SUCCESS
        child.send_signal(signal.SIGTERM)
        wait_until(lambda: not idle.answers(), limit_s=LIMIT_S, what="the listener is gone")
        assert scu.store(image(2), uid_of(2)) == SUCCESS
        assert child.poll() is None
        scu.release()
    assert child.wait(LIMIT_S) == 0
    assert kinds(idle) == ["role_started", "received", "received", "role_stopped"]


def test_an_association_that_does_not_finish_is_aborted(tmp_path: Path) -> None:
    gateway = {"drain": 0.2}
    with RunningDaemon(tmp_path / "daemon", roles=("gateway",), daemon={"gateway": gateway}) as daemon:
        with RawAssociation(daemon.port) as scu:
            daemon.children["gateway"].terminate()
            kind, _ = scu.read_pdu()
            assert kind == ABORT
        assert daemon.children["gateway"].wait(LIMIT_S) == 0


def test_a_second_gateway_waits_and_takes_over(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path / "daemon", roles=("gateway",)) as first:
        with RawAssociation(first.port) as scu:
            assert scu.store(image(1), uid_of(1)) == SUCCESS
        second = RunningDaemon(tmp_path / "second", roles=(), storage={"root": str(first.store_root)})
        with second:
            taken = first.children["gateway"]
            first.kill("gateway")
            assert taken.returncode == -signal.SIGKILL
            second.start("gateway")
            with RawAssociation(second.port) as scu:
                assert scu.store(image(1), uid_of(1)) == SUCCESS
                assert scu.store(image(2), uid_of(2)) == SUCCESS
    assert [kind for kind in kinds(first) if kind in ("received", "duplicate")] == ["received", "duplicate", "received"]


def test_a_port_that_is_taken_is_an_error_of_the_configuration(tmp_path: Path, idle: RunningDaemon) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other = RunningDaemon(tmp_path / "other", roles=(), daemon={"port": taken.getsockname()[1]})
        with other:
            run = other.command("gateway")
    assert run.returncode == 78
    assert "daemon.port" in run.stderr
    assert "Traceback" not in run.stderr
    assert idle.children == {}


def test_who_is_not_listed_is_told_so(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path / "daemon", roles=("gateway",), daemon={"accept_from": []}) as nobody:
        with pytest.raises(Rejected) as caught:
            RawAssociation(nobody.port)
        assert caught.value.reason == (1, 1, 3)
        assert "association.rejected" in nobody.log_text("gateway")
