"""Exit codes and words of the command line: 0 done, 1 failed, 2 usage, 70 internal, 78 configuration."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import typer.main

from anomalyd import __version__
from anomalyd.daemon import cli
from anomalyd.errors import Broken, ConfigError, Transient

HEAVY = ("torch", "SimpleITK", "diffusers", "deepbet", "highdicom", "rich.live", "pynetdicom")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"storage: {{root: {tmp_path / 'store'}, disk_floor: 1 MB}}\n")
    return path


def test_the_version_is_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"anomalyd {__version__}"


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["no-such-command"], ["gateway", "--confg", "x"]])
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("role", ["serve", "gateway", "dispatcher", "worker", "status", "check", "verify", "jobs"])
def test_a_wrong_key_is_78_with_key_line_and_nearest_name(role: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("daemon:\n  prot: 104\n")
    for arguments in ([role, "--config", str(wrong)], ["--config", str(wrong), role]):
        ended = subprocess.run(
            [sys.executable, "-m", "anomalyd.daemon.cli", *arguments],
            capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert ended.returncode == 78
        assert ended.stderr == f"anomalyd: {wrong}:2: daemon.prot: unknown key; did you mean port?\n"


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("wrong"), 78), (Broken("wrong"), 70), (Transient("wrong"), 1)]
)
def test_what_a_command_raises_becomes_a_sentence_and_a_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", failing(error))
    assert cli.run(["fail"]) == code
    assert capsys.readouterr().err == "anomalyd: wrong\n"


def test_an_unforeseen_error_is_70_and_its_trace_lies_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(cli, "app", failing(KeyError("Zebrafish^Walpurga")))
    assert cli.run(["fail"]) == 70
    said = capsys.readouterr().err
    (trace,) = (tmp_path / "anomalyd").iterdir()
    assert said == f"anomalyd: internal error (KeyError); its trace is in {trace}\n"
    assert trace.stat().st_mode & 0o777 == 0o600
    assert "fail" in json.loads(trace.read_text())["frames"][-1]
    assert "Zebrafish" not in trace.read_text()


def failing(error: Exception) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.callback()
    def top() -> None:
        pass

    @app.command()
    def fail() -> None:
        raise error

    return app


ASKED_FOR = {
    "serve", "gateway", "dispatcher", "worker", "analyse", "send", "watch", "status", "jobs", "retry", "cancel",
    "reanalyse", "export", "purge", "verify", "audit", "explain", "check", "train", "calibrate", "evaluate",
    "import-checkpoint",
}  # fmt: skip


def test_every_command_is_there_and_takes_a_configuration() -> None:
    commands = dict(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]  # a group
    assert set(commands) >= ASKED_FOR
    commands |= {f"audit {name}": command for name, command in commands["audit"].commands.items()}
    assert "audit verify" in commands
    without = [
        name for name, command in commands.items() if "--config" not in {o for p in command.params for o in p.opts}
    ]
    assert without == []


def test_the_command_line_itself_loads_nothing_heavy() -> None:
    program = f"import sys, anomalyd.daemon.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "[]"
