"""A bundle is put in place whole or not at all, whatever stood there and whenever its maker is killed."""

import shutil
import signal
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from anomalyd.errors import ConfigError
from anomalyd.pipeline.bundle import CALIBRATION, load_bundle
from anomalyd.pipeline.train import new_bundle
from anomalyd.pipeline.train.new_bundle import changed_bundle, check_place
from intensity_bundle import intensity_bundle
from waiting import wait_until

KILLS = 12
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "b"
    intensity_bundle(path)
    return path


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundles" / "b"))


def _change_for_ever(bundle: Path, told: Path) -> None:
    while True:
        changed(bundle)
        with told.open("ab") as file:
            file.write(b"\n")


def _has_changed(told: Path, times: int) -> bool:
    return told.read_bytes().count(b"\n") >= times


def _fail_half_way(bundle: Path) -> None:
    with changed_bundle(bundle) as fresh:
        (fresh / CALIBRATION).unlink()
        (fresh / CALIBRATION).read_text()


def changed(bundle: Path) -> str:
    with changed_bundle(bundle) as fresh:
        (fresh / CALIBRATION).write_text((fresh / CALIBRATION).read_text() + "\n")
    return load_bundle(bundle).model.digest


@pytest.mark.faults
def test_killed_at_any_moment_it_is_the_older_or_the_newer(bundle: Path, tmp_path: Path) -> None:
    for kill in range(KILLS):
        out = tmp_path / "out"
        out.write_bytes(b"")
        child = get_context("fork").Process(target=_change_for_ever, args=(bundle, out))
        child.start()
        wait_until(partial(_has_changed, out, kill % 4 + 1), limit_s=LIMIT_S, what="changes", step_s=0.001)
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        load_bundle(bundle)  # checks every file against its hash


def test_a_change_replaces_the_bundle_and_leaves_nothing_beside_it(bundle: Path) -> None:
    before = load_bundle(bundle).model.digest
    assert changed(bundle) != before
    assert [path.name for path in bundle.parent.iterdir()] == ["b"]


def test_a_file_system_that_cannot_exchange_gets_the_new_one_all_the_same(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_bundle, "_RENAME_EXCHANGE", 0x80)  # an unknown flag: EINVAL, as there
    before = load_bundle(bundle).model.digest
    assert changed(bundle) != before
    assert [path.name for path in bundle.parent.iterdir()] == ["b"]


def test_an_error_leaves_the_bundle_as_it_was(bundle: Path) -> None:
    before = load_bundle(bundle).model.digest
    with pytest.raises(FileNotFoundError):
        _fail_half_way(bundle)
    assert load_bundle(bundle).model.digest == before


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file cannot be written"):
        check_place(tmp_path / "file" / "bundle")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").touch()
    with pytest.raises(ConfigError, match="is no bundle"):
        check_place(tmp_path / "folder")
