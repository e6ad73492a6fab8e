"""Promise (DESIGN 2): gateway and dispatcher load nothing heavy; what import-linter cannot see is seen here."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "SimpleITK", "diffusers", "deepbet", "highdicom", "matplotlib", "nibabel")
NO_NETWORK = ("pynetdicom",)
ALL_OF = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
print(*sorted(name for name in sys.argv[2:] if name in sys.modules))
"""
COMMAND = """
import sys
from anomalyd.daemon import cli
code = cli.run(sys.argv[1].split(","))
print(*sorted(name for name in sys.argv[2:] if name in sys.modules), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("package", ["anomalyd.daemon.gateway", "anomalyd.daemon.dispatcher", "anomalyd.storage"])
def test_no_module_of_a_light_role_imports_what_is_heavy(package: str) -> None:
    child = [sys.executable, "-c", ALL_OF, package, *HEAVY]
    assert subprocess.run(child, capture_output=True, text=True, check=True).stdout.split() == []


@pytest.mark.parametrize("package", ["anomalyd.storage", "anomalyd.pipeline", "anomalyd.daemon.worker"])
def test_no_module_behind_the_roles_imports_the_dicom_network(package: str) -> None:
    child = [sys.executable, "-c", ALL_OF, package, *NO_NETWORK]
    assert subprocess.run(child, capture_output=True, text=True, check=True).stdout.split() == []


def test_the_command_line_shows_its_help_without_anything_heavy() -> None:
    child = [sys.executable, "-c", COMMAND, "--help", *HEAVY, *NO_NETWORK, "sqlalchemy"]
    run = subprocess.run(child, capture_output=True, text=True, check=True)
    assert run.stderr.split() == []
