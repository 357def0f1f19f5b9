"""Which variables an expression may name, of which type, and samples of their values."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from pay_core.rules.model import INSTRUMENT_OF_TOOL, OPERATIONS, SETTLEMENT_MODES
from paykit.money import AMOUNT_MINOR_MAX, EXPONENT

# A text nobody thinks of: not a number, not a regular expression, not a name.
_ODD_TEXT = "(é '\""


class Kind(StrEnum):
    """The type of a variable."""

    TEXT = "text"
    INTEGER = "a whole number"
    TEXTS = "a list of texts"


class Variable(NamedTuple):
    """A variable: ``domain`` are all values it (or an element of it) can have, None where that is open.

    ``samples`` are tried at load. ``is_cached``: it has so few values that results are worth keeping by them.
    """

    kind: Kind
    domain: frozenset[str] | None
    samples: tuple[Any, ...]
    is_cached: bool = True


Scope = Mapping[str, Variable]


def _open_text(*samples: str, is_cached: bool = True) -> Variable:
    return Variable(Kind.TEXT, None, ("", *samples, _ODD_TEXT), is_cached)


def _closed_text(*values: str) -> Variable:
    return Variable(Kind.TEXT, frozenset(values), values)


def payment_scope(tools: frozenset[str]) -> Scope:
    """The variables every expression may name."""
    some_tools = tuple((tool,) for tool in sorted(tools))
    return {
        "operation": _closed_text(*OPERATIONS),
        "currency": Variable(Kind.TEXT, frozenset(EXPONENT), ("EUR", "JPY")),
        "amount_minor": Variable(Kind.INTEGER, None, (1, 2, 99, 100, 12_345, AMOUNT_MINOR_MAX), is_cached=False),
        "payer_id": _open_text("payer", is_cached=False),
        "payee_ids": Variable(Kind.TEXTS, None, ((), ("payee",), ("payee", _ODD_TEXT)), is_cached=False),
        "tools": Variable(Kind.TEXTS, tools, ((), *some_tools, tuple(sorted(tools)))),
        "settlement_mode": _closed_text(*SETTLEMENT_MODES),
        "merchant": _open_text("merchant"),
        "trade_type": _open_text("PURCHASE"),
        "scene": _open_text("shop"),
    }


def route_scope(tools: frozenset[str]) -> Scope:
    """The variables of a route: also which instrument is to be carried."""
    return {**payment_scope(tools), "instrument": _closed_text(*INSTRUMENT_OF_TOOL.values())}


def split_scope(tools: frozenset[str]) -> Scope:
    """The variables of a split: also whose share is to be split."""
    return {**payment_scope(tools), "payee_id": _open_text("payee", is_cached=False)}


def fallback_scope(tools: frozenset[str]) -> Scope:
    """The variables of a refund's fallback: also why which channel refused."""
    return {
        **payment_scope(tools),
        "failure_reason": _open_text("CARD_EXPIRED"),
        "channel": _open_text("sandbox_card"),
    }
