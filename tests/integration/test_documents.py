"""What the documents tell a user to type exists: commands, options, make targets, files, settings."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
import yaml

from anomalyd.daemon import cli
from anomalyd.daemon.settings import load_settings
from anomalyd.storage.alarms import AlarmKind
from conftest import CHECKOUT

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
SHELL_BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
YAML_BLOCK = re.compile(r"^ *```yaml\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
BEFORE_OURS = re.compile(r"^(?:sudo -u \w+ )?(?:/opt/anomalyd/bin/|\.venv/bin/)?(?=anomalyd )")


def lines_of(page: Path) -> Iterator[str]:
    for block in SHELL_BLOCK.findall(page.read_text()):
        yield from (line.strip() for line in block.splitlines() if line.strip())


def our_commands() -> list[tuple[str, list[str]]]:
    found = []
    for page in PAGES:
        for line in lines_of(page):
            ours = BEFORE_OURS.sub("", line)
            if ours.startswith("anomalyd "):
                found.append((f"{page.name}: {ours}", shlex.split(ours, comments=True)[1:]))
        inline = re.findall(r"`anomalyd ([a-z][^`]*)`", page.read_text())
        found += [(f"{page.name}: `anomalyd {text}`", shlex.split(text)) for text in inline]
    return found


def test_there_are_commands_to_look_at() -> None:
    assert len(our_commands()) > 20


@pytest.mark.parametrize(("where", "words"), our_commands())
def test_a_documented_command_exists_with_its_options(where: str, words: list[str]) -> None:
    del where
    command = typer.main.get_command(cli.app)
    rest = list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]  # type: ignore[attr-defined]  # a group, as the line above says
    assert command.name != "anomalyd", f"no command {words[0]}"
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known


def test_documented_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"^ *make ([a-z-]+)", text, re.MULTILINE)) | set(re.findall(r"`make ([a-z-]+)", text))
    assert named
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configurations_in_documents_are_valid(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(YAML_BLOCK.findall(page.read_text())):
        path = tmp_path / f"{number}.yaml"
        path.write_text("\n".join(line.removeprefix("   ") for line in block.splitlines()))
        assert yaml.safe_load(path.read_text())
        load_settings(path)


def test_the_examples_in_the_comments_of_the_configuration_are_valid(tmp_path: Path) -> None:
    """Commented YAML (two blanks after the hash) is taken out of its comment and read."""
    text = (CHECKOUT / "config.yaml").read_text()
    for key in ("accept_from", "destinations", "include", "exclude"):
        text = re.sub(rf"^  {key}: \[.*\]\n", "", text, flags=re.MULTILINE)
    text = text.replace("\n  tls: null\n", "\n")
    keys = "accept_from|destinations|include|exclude|tls|certificate|key|ca|port|client_certificates|handshake_timeout"
    text = re.sub(rf"^  #   (?=( *- |    | *({keys}):))", "  ", text, flags=re.MULTILINE)
    path = tmp_path / "config.yaml"
    path.write_text(text)
    settings = load_settings(path)
    assert [peer.ae_title for peer in settings.daemon.accept_from] == ["MR1", "MR2", "any", "MR3", "MR4", "MR5", "MR6"]
    assert settings.daemon.accept_from[4].report_to is not None
    assert settings.daemon.accept_from[5].certificate_name == "mr5.example.org"
    assert settings.daemon.ports == (11112, 2762)
    tls = settings.daemon.destinations[0].tls
    assert tls is not None
    assert tls.ca == Path("/etc/anomalyd/tls/ca.pem")
    assert settings.daemon.destinations[0].ask_at is not None
    assert settings.daemon.destinations[0].port == 104
    assert settings.pipeline.include[0].attribute == "SeriesDescription"
    assert settings.pipeline.exclude[0].sender == "MR2"


def test_every_alarm_is_in_the_operations_manual() -> None:
    manual = (CHECKOUT / "docs" / "operations.md").read_text()
    assert [kind for kind in AlarmKind if f"`{kind}`" not in manual] == []


def test_every_command_is_in_the_changelog_or_the_readme() -> None:
    text = (CHECKOUT / "README.md").read_text() + (CHECKOUT / "CHANGELOG.md").read_text()
    names = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]  # a group
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize(("page", "least"), [("users-asks.md", 30), ("promises.md", 30), ("security.md", 20)])
def test_the_tests_that_a_page_names_exist(page: str, least: int) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (CHECKOUT / "docs" / page).read_text())
    assert len(named) > least
    sources = {path: (CHECKOUT / path).read_text() for path, _ in named}
    assert [(path, name) for path, name in named if f"def {name}(" not in sources[path]] == []
