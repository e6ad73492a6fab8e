"""One file and the environment: what is in force, and how a fault in it is told."""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from anomalyd.daemon import config_file
from anomalyd.daemon.settings import Settings, load_settings
from anomalyd.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parents[3]
NOT_THE_DEFAULT = {"daemon.accept_from", "storage.root"}
LISTED = ("daemon.destinations", "pipeline.include", "pipeline.exclude", "daemon.accept_from")
"""Lists of groups: their keys stand in the comments above."""


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def fault_of(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(written(folder, text))
    return str(caught.value)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANOMALYD_CONFIG", "ANOMALYD_STORAGE__ROOT", "ANOMALYD_DAEMON__HOST"):
        monkeypatch.delenv(name, raising=False)


def test_an_empty_file_refuses_every_sender_and_listens_on_loopback(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, ""))
    assert settings.daemon.accept_from == ()
    assert settings.daemon.host == "127.0.0.1"


def test_the_packaged_file_takes_anybody_on_loopback_only() -> None:
    settings = load_settings(config_file.PACKAGED)
    assert settings.daemon.is_loopback
    assert [peer.is_anybody for peer in settings.daemon.accept_from] == [True]


def test_the_packaged_file_is_the_one_at_the_root() -> None:
    assert (CHECKOUT / "daemon" / "config.yaml").read_bytes() == (CHECKOUT / "config.yaml").read_bytes()


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from leaves(inner, f"{at}.{name}".lstrip("."))
    else:
        yield at, value


def test_the_packaged_file_states_every_key_with_its_default(tmp_path: Path) -> None:
    stated = dict(leaves(load_settings(config_file.PACKAGED).model_dump()))
    defaults = dict(leaves(load_settings(written(tmp_path, "")).model_dump()))
    in_file = {key for key, _ in leaves(yaml.safe_load(config_file.PACKAGED.read_text()))}
    assert in_file == set(defaults)
    assert {key for key in defaults if stated[key] != defaults[key]} == NOT_THE_DEFAULT


def model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part))), None)


@pytest.mark.parametrize("key", LISTED)
def test_keys_inside_lists_are_shown_in_the_comments(key: str) -> None:
    section, name = key.split(".")
    inner = model_in(Settings.model_fields[section].annotation)
    assert inner is not None
    model = model_in(inner.model_fields[name].annotation)
    assert model is not None
    comments = "\n".join(line for line in config_file.PACKAGED.read_text().splitlines() if line.strip().startswith("#"))
    assert all(re.search(rf"\b{field}:", comments) for field in model.model_fields)


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("daemon:\n  prot: 1\n", 2, "daemon.prot", "did you mean port?"),
        ("daemon:\n  gateway:\n    drian: 5\n", 3, "daemon.gateway.drian", "did you mean drain?"),
        ("settle_period: 3\n", 1, "settle_period", "did you mean daemon.settle_period?"),
        ("storage:\n  zzz: 3\n", 2, "storage.zzz", "known here: root, url"),
        ("daemon:\n  port: 0\n", 2, "daemon.port", "greater than or equal to 1 (is 0)"),
        ("daemon:\n  port: [1]\n", 2, "daemon.port", "must be a valid integer"),
        ("daemon:\n  unwanted_sop_classes: no\n", 2, "daemon.unwanted_sop_classes", "'reject_context' or 'status'"),
        ("daemon:\n  settle_period: soon\n", 2, "daemon.settle_period", '"30 s"'),
        ("daemon:\n  settle_period: -5 s\n", 2, "daemon.settle_period", "at least 0"),
        ("storage:\n  disk_floor: 5 bananas\n", 2, "storage.disk_floor", '"5 GB"'),
        ("daemon:\n  ae_title: SEVENTEEN_LETTERS\n", 2, "daemon.ae_title", "1 to 16 printable"),
        ("daemon:\n  ae_title: 12\n", 2, "daemon.ae_title", "in quotes"),
        ("daemon:\n  accept_from:\n  - MR1\n  - {ae_title: M, address: 1.0.0.300}\n", 4, "accept_from[1].address", "1"),
        ("daemon:\n  destinations:\n  - {name: p, ae_title: P, host: h}\n", 3, "destinations[0].port", "is missing"),
        ("pipeline:\n  device: tpu\n", 2, "pipeline.device", "'auto', 'cpu' or 'cuda'"),
        ("pipeline:\n  exclude:\n  - {attribute: Rows, matches: '('}\n", 3, "matches", "expression"),
        ("pipeline:\n  exclude:\n  - {attribute: SeriesDescripton, matches: a}\n", 3, "attribute", "SeriesDescription"),
        ("daemon:\n  port: 1\n  port: 2\n", 3, "daemon.port", "stands twice"),
        ("daemon:\n  port: 5\n  metrics: {port: 5}\n", 1, "daemon", "both 5"),
        ("daemon:\n  delivery: {back_off_first: 2 h}\n", 2, "daemon.delivery", "below back_off_first"),
        ("daemon: [\n", 2, "", "no valid YAML"),
    ],
)  # fmt: skip
def test_a_fault_names_file_line_key_and_what_is_allowed(
    text: str, line: int, key: str, words: str, tmp_path: Path
) -> None:
    fault = fault_of(tmp_path, text)
    assert fault.startswith(f"{tmp_path / 'config.yaml'}:{line}: ")
    assert key in fault
    assert words in fault


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    assert len(fault_of(tmp_path, "daemon:\n  prot: 1\n  port: x\nstorage:\n  rot: y\n").splitlines()) == 3


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read: No such file"):
        load_settings(tmp_path / "absent.yaml")


def test_a_database_address_is_never_shown(tmp_path: Path) -> None:
    assert "hunter2" not in fault_of(tmp_path, "storage:\n  url: [postgresql://u:hunter2@h/db]\n")


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALYD_DAEMON__PORT", "4242")
    monkeypatch.setenv("ANOMALYD_DAEMON__GATEWAY__BYTES_IN_FLIGHT", "1 MiB")
    monkeypatch.setenv("ANOMALYD_DAEMON__ACCEPT_FROM", "[MR1, {ae_title: any, address: 10.1.2.0/24}]")
    settings = load_settings(written(tmp_path, "daemon: {port: 11, ae_title: THERE, accept_from: [any]}"))
    assert (settings.daemon.port, settings.daemon.ae_title) == (4242, "THERE")
    assert settings.daemon.gateway.bytes_in_flight == 2**20
    assert [peer.ae_title for peer in settings.daemon.accept_from] == ["MR1", "any"]
    assert settings.daemon.accept_from[1].address == ip_network("10.1.2.0/24")


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("ANOMALYD_DAEMON__PORT", "environment variable ANOMALYD_DAEMON__PORT: daemon.port: must be a valid integer"),
        ("ANOMALYD_DAEMON__PROT", "environment variable ANOMALYD_DAEMON__PROT: daemon.prot: unknown key"),
        ("ANOMALYD_DEAMON__PORT", "no section DEAMON; did you mean DAEMON?"),
        ("ANOMALYD_DAEMON_PORT", "two underscores after the section: ANOMALYD_DAEMON__PORT"),
    ],
)
def test_a_fault_in_the_environment_names_the_variable(
    variable: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "high")
    assert words in fault_of(tmp_path, "")


def test_opening_the_port_by_a_variable_does_not_open_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALYD_DAEMON__HOST", "0.0.0.0")  # noqa: S104 - the very thing that must be refused
    with pytest.raises(ConfigError, match="list who may send"):
        load_settings(config_file.PACKAGED)
    monkeypatch.setenv("ANOMALYD_DAEMON__ACCEPT_FROM", "[any]")
    assert not load_settings(config_file.PACKAGED).daemon.is_loopback


def test_relative_paths_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settings = load_settings(written(tmp_path, "storage: {root: data}\npipeline: {bundles: [b, ~/c, /d]}"))
    assert settings.storage.root == tmp_path / "data"
    assert settings.pipeline.bundles == (tmp_path / "b", tmp_path / "home" / "c", Path("/d"))


def test_the_file_of_the_current_folder_is_found_before_the_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "storage: {keep_for: 2 d}")
    monkeypatch.chdir(tmp_path)
    assert load_settings().storage.keep_for == timedelta(days=2)


def test_the_shorthand_any_without_a_list_is_understood(tmp_path: Path) -> None:
    assert load_settings(written(tmp_path, "daemon: {accept_from: any}")).daemon.accept_from[0].is_anybody
