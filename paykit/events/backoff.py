"""How long to wait before the next attempt, and which errors deserve one."""

from __future__ import annotations

import random

from paykit.errors import DEFINITE_CODES, Aborted, DeadlineExceeded, MeshError, ResourceExhausted, Unavailable

# What passes by itself: no attempt bound applies, because giving up would lose work that nothing is wrong with.
_TRANSIENT = (Unavailable, ResourceExhausted, Aborted, DeadlineExceeded)


def delay_s(attempt: int, first_s: float, max_s: float, retry_after_ms: int | None = None) -> float:
    """Seconds before attempt ``attempt + 1``: doubled each time, capped, jittered down to a half.

    A callee's own ``retry_after_ms`` is a lower bound, itself capped at ``max_s``.
    """
    # The exponent is bounded: 2.0**2000 would overflow for a row that has been failing for days.
    full = min(max_s, first_s * 2.0 ** min(attempt - 1, 32))
    wait = full * random.uniform(0.5, 1.0)
    return max(wait, min(max_s, retry_after_ms / 1000)) if retry_after_ms is not None else wait


def is_transient(error: Exception) -> bool:
    """Whether trying again unchanged is likely to help, so that the number of attempts says nothing."""
    return isinstance(error, _TRANSIENT)


def is_definite(error: Exception) -> bool:
    """Whether a callee has refused for good. Whatever else happened (INTERNAL, CANCELLED, …) it may have done it."""
    return isinstance(error, MeshError) and error.code in DEFINITE_CODES


def is_outage(error: Exception) -> bool:
    """Whether it says that something is away or slow, and nothing about the message: it never gets a ticket."""
    return isinstance(error, (*_TRANSIENT, TimeoutError))


def is_worth_a_line(attempt: int) -> bool:
    """Whether this attempt's failure is logged: the 1st, 2nd, 4th, 8th … An outage must not drown the log."""
    return attempt & (attempt - 1) == 0
