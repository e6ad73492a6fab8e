"""The unit files as systemd reads them: valid, complete, and closed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import CHECKOUT, RequirePeer

pytestmark = pytest.mark.peer

ROLES = ("gateway", "dispatcher", "worker")
MOST_EXPOSED = 2.0
"""`systemd-analyze security`: 0 is closed, 10 is open; below 2 is "OK", an unhardened service has 9.6."""


@pytest.fixture
def root(tmp_path: Path, requires_peer: RequirePeer) -> Path:
    """A root directory with our units, systemd's own, and something executable where the program will lie."""
    requires_peer("systemd-analyze")
    shutil.copytree(CHECKOUT / "systemd", tmp_path / "etc/systemd/system")
    own = Path("/usr/lib/systemd/system")
    shutil.copytree(own, tmp_path / "usr/lib/systemd/system", symlinks=True)
    program = tmp_path / "opt/anomalyd/bin/anomalyd"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return tmp_path


def analyze(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", f"--root={root}", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_systemd_finds_no_fault_in_the_units(root: Path) -> None:
    units = [f"anomalyd-{role}.service" for role in ROLES]
    done = analyze(root, "--man=no", "verify", "anomalyd.target", *units)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("role", ROLES)
def test_each_unit_is_closed(role: str, root: Path) -> None:
    done = analyze(root, "security", "--offline=yes", f"anomalyd-{role}.service")
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) < MOST_EXPOSED


@pytest.mark.parametrize("role", ROLES)
def test_each_unit_starts_its_role_and_waits_for_its_sign(role: str) -> None:
    lines = (CHECKOUT / "systemd" / f"anomalyd-{role}.service").read_text().splitlines()
    assert "Type=notify" in lines
    assert f"ExecStart=/opt/anomalyd/bin/anomalyd {role} --config /etc/anomalyd/config.yaml" in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)
    assert "RestartPreventExitStatus=78" in lines
