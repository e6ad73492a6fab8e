"""What ships: the wheel holds the three houses, the packaged configuration and the bundles, and runs from there."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from anomalyd.daemon.config_file import PACKAGED
from anomalyd.pipeline.bundle import shipped_bundles

CHECKOUT = Path(__file__).resolve().parents[2]
ONE_OF_EACH_HOUSE = ("anomalyd/daemon/cli.py", "anomalyd/pipeline/analyse.py", "anomalyd/storage/engine.py")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the sdist of this checkout and the wheel made from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_the_three_houses_as_real_files(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert all(name in names for name in ONE_OF_EACH_HOUSE)
    assert "anomalyd/py.typed" in names
    assert not [name for name in names if not name.startswith(("anomalyd/", "anomalyd-"))]
    tracked = subprocess.run(
        ["git", "ls-files", "daemon/*.py", "pipeline/*.py", "storage/*.py"],
        capture_output=True, text=True, check=True, cwd=CHECKOUT,
    ).stdout.split()  # fmt: skip
    assert {f"anomalyd/{name}" for name in tracked} <= set(names)


def test_the_wheel_has_the_configuration_of_the_root(wheel: zipfile.ZipFile) -> None:
    assert wheel.read("anomalyd/daemon/config.yaml") == (CHECKOUT / "config.yaml").read_bytes()
    assert PACKAGED.read_bytes() == (CHECKOUT / "config.yaml").read_bytes()


def test_the_wheel_has_every_file_of_every_bundle(wheel: zipfile.ZipFile) -> None:
    files = [path for bundle in shipped_bundles() for path in bundle.iterdir()]
    packed = {
        name.removeprefix("anomalyd/pipeline/bundles/"): wheel.read(name)
        for name in wheel.namelist()
        if name.startswith("anomalyd/pipeline/bundles/")
    }
    assert packed == {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files}


def test_the_sdist_has_what_the_wheel_is_made_of(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names
    assert all(f"src/{name}" in names for name in ONE_OF_EACH_HOUSE)


def test_the_installed_wheel_runs(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")  # noqa: S202 - made by this test
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import anomalyd; "
        "from anomalyd.daemon import cli; print(anomalyd.__file__); sys.exit(cli.run(['check', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path, env={"HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert str(tmp_path / "site" / "anomalyd" / "daemon" / "config.yaml") in done.stdout
    assert done.returncode == (0 if shipped_bundles() else 1), done.stdout + done.stderr
