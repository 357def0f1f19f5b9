"""The invariants of the whole system, a module for each of their groups; ``INVARIANTS`` lists all of them."""

from __future__ import annotations

from operator import attrgetter

from meshctl.invariants import (
    answers,
    audit,
    books,
    channels,
    keeping,
    ledger,
    liveness,
    messages,
    orders,
    payments,
    placement,
    provider,
    repairs,
    statements,
    states,
)
from meshctl.invariants.base import Invariant

_MODULES = (
    ledger,
    keeping,
    books,
    provider,
    channels,
    states,
    liveness,
    answers,
    payments,
    orders,
    messages,
    placement,
    audit,
    repairs,
    statements,
)
INVARIANTS: tuple[Invariant, ...] = tuple(
    sorted([invariant for module in _MODULES for invariant in module.INVARIANTS], key=attrgetter("id"))
)
