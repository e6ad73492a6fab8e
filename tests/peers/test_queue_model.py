"""The protocol of the queue as spin sees it: it holds in every order of steps, and each guard is needed for it."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import CHECKOUT, RequirePeer

pytestmark = pytest.mark.peer
MODEL = CHECKOUT / "docs" / "model" / "queue.pml"
ROW = re.compile(r"^\| `([A-Z_]+)` \|.*\| (S\d+|`ends`) \|$", re.MULTILINE)
MUTATIONS = [(name, found.strip("`")) for name, found in ROW.findall((MODEL.parent / "README.md").read_text())]
DEPTH = 10_000
"""Of the search: pan says when it is too small."""
LATE_SLICES, TWO_TROUBLES = {"CHANGES": 2, "TROUBLES": 1}, {"CHANGES": 1, "TROUBLES": 2}
HOSTILE = {"CHANGES": 1, "TROUBLES": 0, "HOSTILE": 1}


@dataclass(frozen=True, slots=True)
class Spin:
    """spin and the compiler of its verifiers, in a folder of their own."""

    spin: str
    gcc: str
    folder: Path

    def verify(self, options: dict[str, int], *mutations: str, claim: bool = False) -> str:
        """What the verifier says: of the assertions, or of `ends` as well."""
        self._do(self.spin, "-a", *_defined(options, mutations), MODEL.name)
        how = () if claim else ("-DSAFETY", "-DNOCLAIM")
        self._do(self.gcc, "-O0" if mutations else "-O2", "-DMEMLIM=2000", *how, "-o", "pan", "pan.c")
        return self._do("./pan", f"-m{DEPTH}", *(["-a"] if claim else []))

    def broken(self, options: dict[str, int], *mutations: str) -> str:
        """Name of the assertion that the trail of the last verification ends with."""
        told = self._do(self.spin, "-t", *_defined(options, mutations), MODEL.name)
        line = re.search(r"queue\.pml:(\d+), Error: assertion violated", told)
        assert line is not None, told[-2000:]
        (name,) = re.findall(r"/\* (S\d+) \*/", MODEL.read_text().splitlines()[int(line[1]) - 1])
        return str(name)

    def _do(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=600, check=False)
        return done.stdout + done.stderr


def _defined(options: dict[str, int], mutations: tuple[str, ...]) -> list[str]:
    return [*(f"-D{name}={value}" for name, value in options.items()), *(f"-D{name}" for name in mutations)]


@pytest.fixture
def spin(requires_peer: RequirePeer, tmp_path: Path) -> Spin:
    shutil.copy(MODEL, tmp_path)
    return Spin(requires_peer("spin"), requires_peer("gcc"), tmp_path)


@pytest.mark.parametrize(
    ("options", "claim"),
    [(LATE_SLICES, False), (TWO_TROUBLES, False), (HOSTILE, True)],
    ids=["two late slices", "two troubles", "all goes wrong for ever"],
)
def test_the_protocol_holds_in_every_order(
    spin: Spin,
    options: dict[str, int],
    claim: bool,  # noqa: FBT001 - parametrised
) -> None:
    told = spin.verify(options, claim=claim)
    assert "errors: 0" in told, told[-3000:]
    assert not re.search(r"max search depth too small|out of memory|Search not completed|truncated", told), told[:1000]


@pytest.mark.parametrize(("mutation", "found"), MUTATIONS, ids=[name for name, _ in MUTATIONS])
def test_without_a_guard_it_does_not(spin: Spin, mutation: str, found: str) -> None:
    if found == "ends":
        assert "acceptance cycle" in spin.verify(HOSTILE, mutation, claim=True)
        return
    assert "errors: 1" in spin.verify(TWO_TROUBLES, mutation)
    assert spin.broken(TWO_TROUBLES, mutation) == found


def test_the_table_names_every_mutation() -> None:
    scope = {"CHANGES", "TROUBLES", "HOSTILE"}
    assert {name for name, _ in MUTATIONS} == set(
        re.findall(r"^#ifn?def (\w+)", MODEL.read_text(), re.MULTILINE)
    ) - scope
