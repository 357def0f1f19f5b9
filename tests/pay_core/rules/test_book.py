"""The rules in force change only for a valid newer version; anything else leaves them, and says why."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from pay_core.rules import RuleBook, RuleSet, RulesInvalid
from tests.pay_core.rules.support import HEAD


def version(number: int, more: str = "") -> str:
    return HEAD.replace("version: 1", f"version: {number}") + more


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(version(1))
    return path


def write(file: Path, text: str | bytes) -> None:
    file.write_bytes(text.encode() if isinstance(text, str) else text)


def replace(file: Path, text: str) -> None:
    """Puts another file in its place, of the same size and age."""
    status = file.stat()
    other = file.with_name("other.yaml")
    write(other, text)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)


def move(file: Path, to: Path) -> None:
    file.rename(to)


def in_force(book: RuleBook) -> tuple[int, str | None]:
    return book.active.version, book.load_error


def refusals() -> float:
    return REGISTRY.get_sample_value("paymesh_rules_reloads_total", {"outcome": "refused"}) or 0.0


async def test_a_newer_version_is_taken_over_and_the_older_stays_readable(file: Path) -> None:
    book = RuleBook(file)
    assert not await book.reload_if_changed()
    write(file, version(2))
    assert await book.reload_if_changed()
    assert in_force(book) == (2, None)
    older = book.get(1)
    assert older is not None
    assert older.text == version(1)
    assert book.get(3) is None
    assert REGISTRY.get_sample_value("paymesh_rules_version") == 2


async def test_a_broken_file_changes_nothing_and_says_once_where_it_is_broken(file: Path) -> None:
    book = RuleBook(file)
    before = refusals()
    write(file, version(2, "fees: [{name: a}]\n"))
    with capture_logs() as lines:
        for _ in range(3):
            assert not await book.reload_if_changed()
    assert book.active.version == 1
    assert book.load_error is not None
    assert f"{file}:5:8 fees[0]: when is missing" in book.load_error
    (line,) = lines
    assert (line["event"], line["log_level"], line["active_version"]) == ("rules_refused", "error", 1)
    assert line["problems"] == book.load_error
    assert refusals() == before + 1
    write(file, version(2))
    assert await book.reload_if_changed()
    assert book.load_error is None


async def test_a_text_that_changed_needs_a_version_that_grew(file: Path) -> None:
    book = RuleBook(file)
    write(file, version(1, "fees: []\n"))
    assert not await book.reload_if_changed()
    assert book.load_error == f"{file}:1:10 version: must grow with every change: 1 is in force"
    assert book.active.text == version(1)
    write(file, version(1))
    assert not await book.reload_if_changed()
    assert book.load_error is None


async def test_a_file_that_is_replaced_by_another_is_noticed(file: Path) -> None:
    book = RuleBook(file)
    replace(file, version(2))
    assert await book.reload_if_changed()


async def test_a_file_that_goes_away_and_comes_back_does_no_harm(file: Path, tmp_path: Path) -> None:
    book = RuleBook(file)
    aside = tmp_path / "aside.yaml"
    move(file, aside)
    assert not await book.reload_if_changed()
    assert book.load_error is not None
    assert "cannot be read: No such file" in book.load_error
    move(aside, file)
    assert not await book.reload_if_changed()
    assert in_force(book) == (1, None)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"version: 1\n# caf\xe9", "2:6: is not UTF-8 here"), (b"#" * 2**21, "1:1: is longer than 1,048,576 bytes")],
)
async def test_a_file_that_is_no_text_is_refused_with_its_place(file: Path, content: bytes, problem: str) -> None:
    book = RuleBook(file)
    write(file, content)
    assert not await book.reload_if_changed()
    assert book.load_error == f"{file}:{problem}"
    with pytest.raises(RulesInvalid):
        RuleBook(file)


async def test_nothing_is_in_force_before_it_was_announced(file: Path) -> None:
    seen: list[tuple[int, int]] = []

    async def announced(rules: RuleSet) -> None:
        seen.append((rules.version, book.active.version))

    book = RuleBook(file, on_activated=announced)
    await book.start()
    write(file, version(2))
    await book.reload_if_changed()
    await book.stop()
    assert seen == [(1, 1), (2, 1)]


async def test_a_version_whose_announcement_fails_is_not_in_force_and_is_tried_again(file: Path) -> None:
    is_away = True

    async def announced(rules: RuleSet) -> None:
        if is_away and rules.version == 2:
            raise ConnectionError("the database is away")

    book = RuleBook(file, on_activated=announced)
    write(file, version(2))
    assert not await book.reload_if_changed()
    assert book.active.version == 1
    assert book.load_error is not None
    assert "the database is away" in book.load_error
    is_away = False
    assert await book.reload_if_changed()
    assert in_force(book) == (2, None)


async def test_a_start_that_cannot_be_announced_fails(file: Path) -> None:
    async def announced(_rules: RuleSet) -> None:
        raise ConnectionError("the database is away")

    with pytest.raises(ConnectionError):
        await RuleBook(file, on_activated=announced).start()


async def test_the_file_is_watched_between_start_and_stop(file: Path) -> None:
    is_two = asyncio.Event()

    async def announced(rules: RuleSet) -> None:
        if rules.version == 2:
            is_two.set()

    book = RuleBook(file, on_activated=announced, interval_s=0.01)
    await book.start()
    write(file, version(2))
    async with asyncio.timeout(10):
        await is_two.wait()
    await book.stop()
    write(file, version(3))
    assert book.active.version == 2
    assert [task for task in asyncio.all_tasks() if task.get_name() == "rules-watch"] == []


async def test_the_versions_it_keeps_are_bounded(file: Path) -> None:
    book = RuleBook(file)
    for number in range(2, 41):
        write(file, version(number))
        assert await book.reload_if_changed()
    assert book.get(8) is None
    assert [number for number in range(50) if book.get(number)] == list(range(9, 41))


def test_a_first_file_that_is_wrong_or_missing_stops_the_start(tmp_path: Path, file: Path) -> None:
    with pytest.raises(RulesInvalid, match="cannot be read"):
        RuleBook(tmp_path / "none.yaml")
    write(file, "version: x")
    with pytest.raises(RulesInvalid, match="version: must be a whole number"):
        RuleBook(file)
