"""The house style, as far as a program can read it. Every rule has a test that shows what it catches."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PACKAGES = ("paykit", "trade_core", "pay_core", "channel_gateway", "recon", "meshctl")
GENERATED = ("paymesh/", "protos/released.binpb", "package-lock.json")

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 80

# Written so that this file does not contain what it forbids.
_LEFT_BEHIND = re.compile(r"\b(TO" r"DO|FIX" r"ME)\b|(#|//).*\b(XX" r"X|HA" r"CK)\b")
_SQL = re.compile(r"\b(SELECT\s|INSERT\s+INTO\b|REPLACE\s+INTO\b|UPDATE\s+\S+\s+SET\b|DELETE\s+FROM\b)")
_ADDRESS = re.compile(
    r"\b(?:pypi\.org|registry\.npmjs\.org|proxy\.golang\.org|files\.pythonhosted\.org|npmmirror|artifactory)"
    r"|--?(?:extra-)?index-url|\"resolved\":"
    r"|(?<![\w./-])/(?:home|root|Users|work)/\w",
    re.IGNORECASE,
)


def _committed() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    return [ROOT / name for name in names if not name.startswith(GENERATED) and (ROOT / name).is_file()]


def _named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


Rule = Callable[[str], Iterator[str]]

FILES = _committed()
SOURCES = {_named(path): _text(path) for path in FILES if path.suffix == ".py"}


def long_functions(source: str) -> Iterator[str]:
    """Functions longer than the screen."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{node.lineno} {node.name} ({lines} lines)"


def swallowed_errors(source: str) -> Iterator[str]:
    """Handlers of everything that do nothing."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and all(isinstance(step, ast.Pass) for step in node.body):
            kind = ast.unparse(node.type) if node.type else "everything"
            if kind in ("Exception", "BaseException", "everything"):
                yield f"{node.lineno} except {kind}: pass"
        if isinstance(node, ast.Call) and re.fullmatch(r"(\w+\.)?suppress\((Base)?Exception\)", ast.unparse(node)):
            yield f"{node.lineno} {ast.unparse(node)}"


def sql_in_f_strings(source: str) -> Iterator[str]:
    """Statements put together from text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr) and _SQL.search(ast.unparse(node)):
            yield f"{node.lineno} {ast.unparse(node)[:60]}"


def left_behind(source: str) -> Iterator[str]:
    """Marks of unfinished work."""
    for number, line in enumerate(source.splitlines(), start=1):
        if _LEFT_BEHIND.search(line):
            yield f"{number} {line.strip()[:60]}"


def addresses(source: str) -> Iterator[str]:
    """Package registries, and folders of somebody's machine."""
    for number, line in enumerate(source.splitlines(), start=1):
        if _ADDRESS.search(line):
            yield f"{number} {line.strip()[:80]}"


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (long_functions, "def f():\n" + "    pass\n" * FUNCTION_LINES_MAX),
        (swallowed_errors, "try:\n    f()\nexcept Exception:\n    pass\n"),
        (swallowed_errors, "try:\n    f()\nexcept:\n    pass\n"),
        (swallowed_errors, "with contextlib.suppress(Exception):\n    f()\n"),
        (sql_in_f_strings, "query = f'SELECT id FROM {table}'"),
        (sql_in_f_strings, "query = f'UPDATE {table} SET state = 1'"),
        (left_behind, "x = 1  # TODO: more"),
        (addresses, "--index-url https://example.test"),
        (addresses, "path = '/home/somebody/code'"),
    ],
)
def test_each_rule_catches_what_it_forbids(rule: Rule, source: str) -> None:
    assert list(rule(source))


def test_files_are_shorter_than_400_lines() -> None:
    long = {name: count for name, text in SOURCES.items() if (count := text.count("\n")) >= FILE_LINES_MAX}
    assert long == {}


@pytest.mark.parametrize("rule", [long_functions, swallowed_errors, sql_in_f_strings])
def test_python_keeps_the_rule(rule: Rule) -> None:
    # A migration is one long list of tables and columns.
    sources = {name: source for name, source in SOURCES.items() if "/migrations/" not in name}
    assert [f"{name}:{found}" for name, source in sources.items() for found in rule(source)] == []


@pytest.mark.parametrize("rule", [left_behind, addresses])
def test_every_committed_file_keeps_the_rule(rule: Rule) -> None:
    here = _named(Path(__file__).resolve())
    found = [f"{_named(path)}:{hit}" for path in FILES if _named(path) != here for hit in rule(_text(path))]
    assert found == []


def test_the_tests_lie_where_the_code_they_test_lies() -> None:
    """Every folder of tests is named as a folder of code, but for those about the whole."""
    whole = {"tests/tidy", "tests/e2e", "tests/faults", "tests/adversary", "tests/model"}
    folders = {_named(path.parent) for path in FILES if _named(path).startswith("tests/") and path.suffix == ".py"}
    strays = {
        folder
        for folder in folders - {"tests"}
        if not (ROOT / folder.removeprefix("tests/")).is_dir()
        and not any(folder == name or folder.startswith(f"{name}/") for name in whole)
    }
    assert strays == set()


def test_every_package_has_tests() -> None:
    assert [name for name in PACKAGES if not any((ROOT / "tests" / name).rglob("test_*.py"))] == []


@pytest.mark.skipif(not README.exists(), reason="this copy has no README.md")
def test_the_readme_maps_every_folder_of_the_tree() -> None:
    folders = {name.split("/")[0] for name in map(_named, FILES) if "/" in name and not name.startswith(".")}
    readme = _text(README)
    assert [folder for folder in sorted(folders | {"paymesh"}) if f"{folder}/" not in readme] == []


def test_versions_are_pinned_exactly_and_without_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
