"""The invariants of the whole system, a module for each of their groups; ``INVARIANTS`` lists all of them."""

from __future__ import annotations

from meshctl.invariants import answers, audit, ledger, liveness, messages, placement, provider, states
from meshctl.invariants.base import Invariant

INVARIANTS: tuple[Invariant, ...] = (
    *ledger.INVARIANTS,
    *provider.INVARIANTS,
    *states.INVARIANTS,
    *liveness.INVARIANTS,
    *answers.INVARIANTS,
    *messages.INVARIANTS,
    *placement.INVARIANTS,
    *audit.INVARIANTS,
)
