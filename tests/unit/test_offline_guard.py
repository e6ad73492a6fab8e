"""The guard of the offline test really guards: what it would let through, that test could not see."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import CHECKOUT

CONNECT = "import socket; socket.create_connection(('127.0.0.1', {port}), timeout=1)"
ELSEWHERE = CONNECT.format(port=1)
TRIES = {
    "another port": ELSEWHERE,
    "another host": "import socket; socket.socket().connect(('127.0.0.2', 9))",
    "a name": "import socket; socket.getaddrinfo('example.invalid', 80)",
    "a datagram": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('127.0.0.2', 9))",
    "urllib": "import urllib.request; urllib.request.urlopen('http://127.0.0.2:9/')",
    "a grandchild": f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ELSEWHERE!r}], check=True)",
}


def guarded(code: str, attempts: Path) -> "subprocess.CompletedProcess[str]":
    environment = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT / "tests" / "offline_guard"),
        "ANOMALYD_TEST_ALLOWED": "127.0.0.1:9",
        "ANOMALYD_TEST_ATTEMPTS": str(attempts),
    }
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", TRIES.values(), ids=TRIES.keys())
def test_every_other_way_out_is_refused_and_written_down(code: str, tmp_path: Path) -> None:
    run = guarded(code, tmp_path / "attempts")
    assert "refused by the offline test" in run.stderr
    assert (tmp_path / "attempts").read_text().strip()


def test_the_allowed_end_point_is_reached(tmp_path: Path) -> None:
    run = guarded(CONNECT.format(port=9), tmp_path / "attempts")  # nobody listens on port 9
    assert "ConnectionRefusedError" in run.stderr
    assert not (tmp_path / "attempts").exists()
