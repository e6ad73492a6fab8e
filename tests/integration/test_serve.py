"""`anomalyd serve`, the real thing: three roles, one log, one healthy answer, a clean end."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from running import SERVE, RunningDaemon
from waiting import wait_until

ROLES = {"gateway", "dispatcher", "worker"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path / "d", roles=SERVE) as daemon:
        yield daemon


def events(daemon: RunningDaemon) -> list[dict[str, object]]:
    return [json.loads(line) for line in daemon.log_text("serve").splitlines()]


def is_healthy(daemon: RunningDaemon) -> bool:
    return daemon.command("status", "--health").returncode == 0


def test_all_roles_run_log_into_one_stream_and_come_back_when_killed(served: RunningDaemon) -> None:
    wait_until(lambda: is_healthy(served), limit_s=60, what="all roles answer")
    wait_until(
        lambda: any(event["event"] == "serve.ready" for event in events(served)), limit_s=60, what="serve is ready"
    )
    assert {event["role"] for event in events(served)} >= ROLES | {"serve"}
    first = {str(e["child"]): int(str(e["pid"])) for e in events(served) if e["event"] == "child.started"}
    os.kill(first["dispatcher"], signal.SIGKILL)
    wait_until(
        lambda: sum(e["event"] == "child.started" and e["child"] == "dispatcher" for e in events(served)) == 2,
        limit_s=60,
        what="a second dispatcher",
    )
    wait_until(lambda: is_healthy(served), limit_s=60, what="all roles answer again")
    assert served.command("status").stdout.startswith("Nothing is wrong.")
    assert "audit_broken" not in served.command("status", "--json").stdout
    served.stop()
    last = events(served)[-1]
    assert (last["event"], last["code"]) == ("serve.stopped", 0)
    assert served.command("audit", "verify").returncode == 0
