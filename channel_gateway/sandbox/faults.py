"""What makes calls go otherwise than their tokens say: fault rules by rate, and windows of time."""

from __future__ import annotations

from typing import Literal

import msgspec

from channel_gateway.sandbox.behaviour import BEHAVIOURS, Behaviour, Kind, Operation, roll

COUNTED_MAX = 100_000  # references whose queries are counted; beyond it the oldest are forgotten
RETRY_AFTER_S = 60  # told of a window that has no end


class FaultRule(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Orders (or queries) that shall behave otherwise than their token says. Empty fields match all.

    ``count``: how often the rule still fires, None for ever. ``calls_max``: of the queries about one reference only so
    many. Orders are chosen by (seed, rule, reference), queries by which query about its reference it is as well. Of a
    behaviour, queries know its answer and its reply.
    """

    behaviour: str
    kind: Literal["", "query"] | Kind = ""
    token_prefix: str = ""
    account: str = ""
    probability: float = 1.0
    count: int | None = None
    calls_max: int | None = None

    def __post_init__(self) -> None:
        _check_behaviour(self.behaviour)
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError("probability must lie between 0 and 1")


class FaultScript:
    """The fault rules in force; the first that matches wins."""

    RULES_MAX = 100

    def __init__(self, rules: list[FaultRule], seed: int) -> None:
        self._seed = seed
        self._queries: dict[str, int] = {}
        self.rules = rules

    def choose(self, kind: str, account: str, token: str, reference: str) -> Behaviour | None:
        """The behaviour that a rule forces on this call, or None."""
        number = self._number(reference) if kind == "query" else 0
        return next(
            (
                self._fired(rule)
                for index, rule in enumerate(self.rules)
                if (rule.kind == kind or (not rule.kind and kind != "query"))
                and token.startswith(rule.token_prefix)
                and self._hits(index, rule, account, reference, number)
            ),
            None,
        )

    def choose_unread(self, kind: str, account: str, key: str) -> Behaviour | None:
        """As ``choose``, of an order of which nothing but its idempotency key was read: whether it is cut off there."""
        return next(
            (
                self._fired(rule)
                for index, rule in enumerate(self.rules)
                if BEHAVIOURS[rule.behaviour].reply == "drop_unread"
                and rule.kind in ("", kind)
                and self._hits(index, rule, account, key, 0)
            ),
            None,
        )

    def _hits(self, index: int, rule: FaultRule, account: str, reference: str, number: int) -> bool:
        if rule.count == 0 or (rule.account and rule.account != account):
            return False
        if rule.calls_max is not None and number >= rule.calls_max:
            return False
        which = (str(index), reference, str(number)) if number else (str(index), reference)
        return rule.probability >= 1.0 or roll(self._seed, *which) < rule.probability

    def _fired(self, rule: FaultRule) -> Behaviour:
        if rule.count is not None:
            rule.count -= 1
        return BEHAVIOURS[rule.behaviour]

    def _number(self, reference: str) -> int:
        """How many queries about a reference came before this one, as far as it is remembered."""
        number = self._queries.pop(reference, 0)
        self._queries[reference] = number + 1
        if len(self._queries) > COUNTED_MAX:
            del self._queries[next(iter(self._queries))]
        return number


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time in which all calls, or those of an account or of some operations, go one way: maintenance, or a storm.

    From ``from_ms`` until before ``until_ms`` (Unix milliseconds; None: until it is taken away); with ``every_ms``,
    again and again in that time, for ``lasts_ms`` each.
    """

    behaviour: str = "maintenance"
    account: str = ""
    operations: frozenset[Operation] = frozenset()
    from_ms: int = 0
    until_ms: int | None = None
    every_ms: int = 0
    lasts_ms: int = 0

    def __post_init__(self) -> None:
        _check_behaviour(self.behaviour)
        if self.every_ms < 0 or self.lasts_ms < 0 or bool(self.every_ms) != bool(self.lasts_ms):
            raise ValueError("every_ms and lasts_ms come together, and are not negative")

    def left_ms(self, now_ms: int) -> int | None:
        """How long it still lasts, 0 where it is not open; None where it has no end."""
        if now_ms < self.from_ms or (self.until_ms is not None and now_ms >= self.until_ms):
            return 0
        until_ms = self.until_ms
        if self.every_ms:
            began_ms = now_ms - (now_ms - self.from_ms) % self.every_ms
            ends_ms = began_ms + self.lasts_ms
            until_ms = ends_ms if until_ms is None else min(until_ms, ends_ms)
        return None if until_ms is None else max(0, until_ms - now_ms)

    def concerns(self, operation: Operation, account: str) -> bool:
        """Whether such a call falls under it."""
        return (not self.account or self.account == account) and (not self.operations or operation in self.operations)


class Forced(msgspec.Struct, frozen=True):
    """What a window makes of a call, and after how many seconds it may be tried again."""

    behaviour: Behaviour
    retry_after_s: int


def in_window(windows: list[Window], operation: Operation, account: str, now_ms: int) -> Forced | None:
    """What the first open window makes of a call; None where none concerns it."""
    for window in windows:
        if window.concerns(operation, account):
            left_ms = window.left_ms(now_ms)
            if left_ms != 0:
                after_s = RETRY_AFTER_S if left_ms is None else -(-left_ms // 1000)
                return Forced(BEHAVIOURS[window.behaviour], after_s)
    return None


def _check_behaviour(name: str) -> None:
    if name not in BEHAVIOURS:
        raise ValueError(f"unknown behaviour {name[:40]!r}")
