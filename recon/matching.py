"""The names of matching: what is compared, what can be wrong, in which states, and what a service says of it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from paykit.state_machine import StateMachine


class MatchKind(StrEnum):
    """Which two records must agree: the first and the second side, in the order of the name."""

    TRADE_PAY = "TRADE_PAY"
    PAY_CHANNEL = "PAY_CHANNEL"
    PAY_LEDGER = "PAY_LEDGER"
    TRANSIT = "TRANSIT"
    STATEMENT = "STATEMENT"
    RECORD = "RECORD"


# Those that are compared in real time, in the order in which a match counts its pairs.
REAL_TIME = (MatchKind.TRADE_PAY, MatchKind.PAY_CHANNEL, MatchKind.PAY_LEDGER, MatchKind.TRANSIT)


class MatchState(StrEnum):
    """Whether they do; of all the pairs of a payment the worst: BROKEN, WAITING, MATCHED."""

    WAITING = "WAITING"
    MATCHED = "MATCHED"
    BROKEN = "BROKEN"


class BreakType(StrEnum):
    """What is wrong."""

    MISSING_FIRST = "MISSING_FIRST"
    MISSING_SECOND = "MISSING_SECOND"
    AMOUNT_MISMATCH = "AMOUNT_MISMATCH"
    RESULT_UNKNOWN = "RESULT_UNKNOWN"
    NOTIFICATION_MISMATCH = "NOTIFICATION_MISMATCH"
    MISSING_HERE = "MISSING_HERE"
    MISSING_THERE = "MISSING_THERE"
    CURRENCY_MISMATCH = "CURRENCY_MISMATCH"
    STATUS_MISMATCH = "STATUS_MISMATCH"
    DUPLICATE = "DUPLICATE"
    LATE = "LATE"
    UNEXPLAINED = "UNEXPLAINED"


class BreakState(StrEnum):
    """Where a break is."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"


class Side(StrEnum):
    """Which side of a pair a fact is about."""

    FIRST = "FIRST"
    SECOND = "SECOND"
    UNKNOWN = "UNKNOWN"  # the outcome of a channel order that nobody knows
    EXPECTED = "EXPECTED"  # what was sent, before either side has said anything


class CloseReason(StrEnum):
    """Why recon itself closes a break; a person gives another reason."""

    LATE_MATCH = "LATE_MATCH"  # what was missing came, and agrees
    SUPERSEDED = "SUPERSEDED"  # what was missing came, and another difference took the break's place
    RESULT_KNOWN = "RESULT_KNOWN"  # the outcome is known now; the window for the rest is open
    DISMISSED = "DISMISSED"  # asked again, the provider says what we know
    CORRECTED = "CORRECTED"  # a corrected statement does not say so any more
    TAKEN_BACK = "TAKEN_BACK"  # the provider took back what should not have been


# MATCHED may be left: a channel order can become unknown after its payment failed, and a second voice can contradict.
MATCH = StateMachine(
    "match",
    MatchState,
    MatchState.WAITING,
    {
        MatchState.WAITING: frozenset({MatchState.MATCHED, MatchState.BROKEN}),
        MatchState.MATCHED: frozenset({MatchState.WAITING, MatchState.BROKEN}),
        MatchState.BROKEN: frozenset({MatchState.WAITING, MatchState.MATCHED}),
    },
)

BREAK = StateMachine(
    "break",
    BreakState,
    BreakState.OPEN,
    {BreakState.OPEN: frozenset({BreakState.CLOSED}), BreakState.CLOSED: frozenset()},
)


class Fact(msgspec.Struct, frozen=True):
    """What one service says of one side of a pair. ``amount_minor`` is zero where it says that nothing was moved."""

    kind: MatchKind
    key: str  # the id the two records share
    side: Side
    amount_minor: int
    currency: str
    payment_id: str
    source_id: str = ""
    at_ms: int = 0  # when it became so, as the service says; 0 where it does not


def match_key(kind: str, key: str) -> str:
    """What names a pair everywhere: ``PAY_LEDGER/ins_…``."""
    return f"{kind}/{key}"


def shared_id(key: str) -> str:
    """The id the two records share, of a ``match_key``."""
    return key.partition("/")[2]
