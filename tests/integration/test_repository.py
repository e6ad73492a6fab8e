"""House rules that a tool of its own does not check: what lies in the repository, and what the README starts with."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from conftest import CHECKOUT

LARGEST_FILE = 20_000_000
LARGEST_TEXT = 2_000_000
LONGEST_MODULE = 400
LONGEST_FUNCTION = 70
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".txt", ".service", ".target", ".in", ".lock", ".cfg", ""}
# In pieces, so that this file is not the one that breaks the rule.
OF_ONE_MACHINE = re.compile(r"(?<![\w.])/(?:work|farm)/(?:main|shared|steering|lab|in)\b|/tmp/[w]/")
OF_A_REGISTRY = re.compile(r"(?:pypi|pythonhost(?:ed))\.(?:org)|(?:deb|security)\.debian\.(?:org)|registry\.(?:npmjs)")
HOUSES = ("daemon", "pipeline", "storage")
SWALLOWS = {None, "Exception", "BaseException"}


@cache
def tracked() -> tuple[Path, ...]:
    """Every file in the index, links and vanished ones left out."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    paths = (CHECKOUT / name for name in listed.split("\0") if name)
    return tuple(p for p in paths if p.is_file() and not p.is_symlink())


def named(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


@cache
def modules() -> tuple[tuple[Path, str, ast.Module], ...]:
    sources = [(p, p.read_text()) for p in tracked() if p.suffix == ".py"]
    return tuple((path, text, ast.parse(text)) for path, text in sources)


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    for path, _, tree in modules():
        for node in ast.walk(tree):
            yield path, node


def test_no_file_is_too_large() -> None:
    assert {named(p): p.stat().st_size for p in tracked() if p.stat().st_size > LARGEST_FILE} == {}


@pytest.mark.parametrize("pattern", [OF_ONE_MACHINE, OF_A_REGISTRY], ids=["machine", "registry"])
def test_no_text_names_a_place_that_only_one_machine_has(pattern: re.Pattern[str]) -> None:
    found = []
    for path in tracked():
        if path.suffix in TEXT and path.stat().st_size < LARGEST_TEXT:
            lines = path.read_text(errors="replace").splitlines()
            found += [
                f"{named(path)}:{n}: {line.strip()[:100]}" for n, line in enumerate(lines, 1) if pattern.search(line)
            ]
    assert found == []


@pytest.mark.parametrize("house", HOUSES)
def test_the_houses_are_linked_into_the_package(house: str) -> None:
    link = CHECKOUT / "src" / "anomalyd" / house
    assert link.is_symlink(), "a checkout without links builds a wheel without the houses (git config core.symlinks)"
    assert link.readlink() == Path(f"../../{house}")


def test_package_init_files_are_empty() -> None:
    inits = [p for p in tracked() if p.name == "__init__.py" and p.relative_to(CHECKOUT).parts[0] in HOUSES]
    assert [named(p) for p in inits if p.read_text().strip()] == []


def test_there_is_no_init_file_under_tests() -> None:
    assert [named(p) for p in tracked() if p.name == "__init__.py" and "tests" in p.relative_to(CHECKOUT).parts] == []


def test_the_readme_starts_with_the_two_commands() -> None:
    blocks = re.findall(r"```(?:sh|bash|console|shell)?\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    assert [block.strip().splitlines()[0].removeprefix("$ ") for block in blocks[:2]] == ["make demo", "make test"]


def test_the_readme_says_what_it_is_not_for() -> None:
    assert "not for diagnostic use" in (CHECKOUT / "README.md").read_text().lower()


def test_links_between_documents_lead_somewhere() -> None:
    pages = [(p, p.read_text()) for p in tracked() if p.suffix == ".md"]
    links = ((p, target) for p, text in pages for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text))
    broken = [f"{named(p)} -> {t}" for p, t in links if "://" not in t and not (p.parent / t).exists()]
    assert broken == []


def test_the_packaged_configuration_is_the_one_at_the_root() -> None:
    assert (CHECKOUT / "config.yaml").read_bytes() == (CHECKOUT / "daemon" / "config.yaml").read_bytes()


def test_no_module_is_too_long() -> None:
    lengths = {named(path): text.count("\n") for path, text, _ in modules() if "tests" not in path.parts}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_MODULE} == {}


def test_no_function_is_too_long() -> None:
    functions = ((p, n) for p, n in nodes() if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    lengths = {f"{named(p)}:{n.lineno} {n.name}": (n.end_lineno or n.lineno) - n.lineno for p, n in functions}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


def test_no_error_is_swallowed() -> None:
    found = []
    for path, node in nodes():
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else None
            if caught in SWALLOWS and len(node.body) == 1 and isinstance(node.body[0], ast.Pass | ast.Continue):
                found.append(f"{named(path)}:{node.lineno}")
    assert found == []


def test_no_test_sleeps() -> None:
    found = []
    for path, node in nodes():
        in_tests = path.relative_to(CHECKOUT).parts[0] == "tests" and path.name != "waiting.py"
        if in_tests and isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep"}:
            found.append(f"{named(path)}:{node.lineno}")
    assert found == []
