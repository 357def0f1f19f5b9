"""``meshctl rules``: judges a rules file before it is put in force."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pay_core.rules import RulesInvalid, load
from pay_core.rules.book import read_rules

EXIT_INVALID = 1


def check(file: Path, channels: list[str], say: Callable[[str], None]) -> int:
    """Says that a file is right and what it has, or every problem with its place; the exit code.

    With ``channels`` given, a route to any other is a problem.
    """
    try:
        rules = load(read_rules(file), str(file), known_channels=frozenset(channels) if channels else None)
    except RulesInvalid as error:
        for problem in error.problems:
            say(str(problem))
        return EXIT_INVALID
    parts = ("tools", "routes", "limits", "fees", "splits")
    counts = ", ".join(f"{len(getattr(rules, part))} {part}" for part in parts)
    say(f"{file}: ok, version {rules.version}: {counts}")
    return 0
