"""What decisions go by beside the rows: the rules in force, and when to ask for a result that has not come."""

from __future__ import annotations

from typing import NamedTuple

from pay_core.rules.book import RuleBook
from pay_core.rules.rule_set import RuleSet


class Terms(NamedTuple):
    """The terms of one decision."""

    rules: RuleSet
    result_due_ms: int
    result_due_max_ms: int


class TermsBook:
    """Gives the terms as they are now."""

    def __init__(self, rules: RuleBook, result_due_s: float, result_due_max_s: float) -> None:
        self.rules = rules
        self._due_ms, self._due_max_ms = int(1000 * result_due_s), int(1000 * result_due_max_s)

    def now(self) -> Terms:
        """What holds for a decision made now."""
        return Terms(self.rules.active, self._due_ms, self._due_max_ms)
