"""Matching, as pure functions: facts are folded into a match, and the match says what is wrong with it.

The fold is commutative and idempotent: any order and any repetition of the same facts gives the same match.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from msgspec.structs import replace

from paykit.state_machine import StateMachine
from recon.tables import Match


class MatchKind(StrEnum):
    """Which two records must agree: the first and the second side, in the order of the name."""

    TRADE_PAY = "TRADE_PAY"
    PAY_CHANNEL = "PAY_CHANNEL"
    PAY_LEDGER = "PAY_LEDGER"
    TRANSIT = "TRANSIT"
    STATEMENT = "STATEMENT"
    RECORD = "RECORD"


class MatchState(StrEnum):
    """Whether they do."""

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
    """Which side of a match a fact is about."""

    FIRST = "FIRST"
    SECOND = "SECOND"
    UNKNOWN = "UNKNOWN"


class CloseReason(StrEnum):
    """Why recon itself closes a break; a person gives another reason."""

    LATE_MATCH = "LATE_MATCH"  # what was missing came, and agrees
    SUPERSEDED = "SUPERSEDED"  # what was missing came, and another difference took the break's place
    RESULT_KNOWN = "RESULT_KNOWN"  # the outcome is known now; the window for the rest is open
    DISMISSED = "DISMISSED"  # asked again, the provider says what we know


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


class Fact(NamedTuple):
    """What one service says of one side of a match. ``amount_minor`` is zero where it says that nothing was moved."""

    kind: MatchKind
    key: str  # the id the two records share
    side: Side
    amount_minor: int
    currency: str
    payment_id: str
    source_id: str = ""


def match_key(kind: str, key: str) -> str:
    """The unique key of a match: ``PAY_LEDGER/ins_…``."""
    return f"{kind}/{key}"


def shared_id(key: str) -> str:
    """The id the two records share, of a ``match_key``."""
    return key.partition("/")[2]


def blank(id_: str, slot: int, biz_id: str, fact: Fact, context: bytes) -> Match:
    """The match that ``fact`` is about, before anything was said. ``id_`` is its own ("mat_…")."""
    return Match(
        id=id_,
        slot=slot,
        match_key=match_key(fact.kind, fact.key),
        kind=fact.kind.value,
        biz_id=biz_id,
        payment_id=fact.payment_id,
        source_id="",
        state=MATCH.initial.value,
        first_amount_minor=None,
        first_currency=None,
        first_seen_at_ms=None,
        second_amount_minor=None,
        second_currency=None,
        second_seen_at_ms=None,
        unknown_amount_minor=None,
        unknown_currency=None,
        unknown_seen_at_ms=None,
        conflict=0,
        due_at_ms=None,
        ask_count=0,
        break_id=None,
        mismatch_break_id=None,
        context=context,
    )


class _Said(NamedTuple):
    amount_minor: int | None
    currency: str | None
    seen_at_ms: int | None


def _join(before: _Said, fact: Fact, now_ms: int) -> tuple[_Said, bool]:
    """What a side says with ``fact`` added, and whether it contradicts itself; the larger amount stands then."""
    amount_minor, currency, seen_at_ms = before
    if amount_minor is None or currency is None or seen_at_ms is None:
        return _Said(fact.amount_minor, fact.currency, now_ms), False
    said, added = (amount_minor, currency), (fact.amount_minor, fact.currency)
    return _Said(*max(said, added), min(seen_at_ms, now_ms)), said != added


def absorb(match: Match, fact: Fact, now_ms: int) -> Match:
    """The match with ``fact`` added to what its side said; the same object where that says nothing new.

    ``now_ms`` is when the fact was heard. State and due time are left to ``judge``.
    """
    if fact.side is Side.FIRST:
        before = _Said(match.first_amount_minor, match.first_currency, match.first_seen_at_ms)
    elif fact.side is Side.SECOND:
        before = _Said(match.second_amount_minor, match.second_currency, match.second_seen_at_ms)
    else:
        before = _Said(match.unknown_amount_minor, match.unknown_currency, match.unknown_seen_at_ms)
    said, differs = _join(before, fact, now_ms)
    source_id = max(match.source_id, fact.source_id)
    conflict = 1 if differs else match.conflict
    if said == before and source_id == match.source_id and conflict == match.conflict:
        return match
    amount_minor, currency, seen_at_ms = said
    if fact.side is Side.FIRST:
        return replace(
            match,
            first_amount_minor=amount_minor,
            first_currency=currency,
            first_seen_at_ms=seen_at_ms,
            source_id=source_id,
            conflict=conflict,
        )
    if fact.side is Side.SECOND:
        return replace(
            match,
            second_amount_minor=amount_minor,
            second_currency=currency,
            second_seen_at_ms=seen_at_ms,
            source_id=source_id,
            conflict=conflict,
        )
    return replace(
        match,
        unknown_amount_minor=amount_minor,
        unknown_currency=currency,
        unknown_seen_at_ms=seen_at_ms,
        source_id=source_id,
        conflict=conflict,
    )


def problem(match: Match) -> BreakType | None:
    """What is wrong with a match as the facts stand; None where its sides agree. A silent side moved nothing."""
    first, second = match.first_amount_minor, match.second_amount_minor
    if match.conflict:
        return BreakType.AMOUNT_MISMATCH
    if first is not None and second is not None:
        agree = first == second and (first == 0 or match.first_currency == match.second_currency)
        return None if agree else BreakType.AMOUNT_MISMATCH
    if first:
        return BreakType.MISSING_SECOND
    if second:
        return BreakType.MISSING_FIRST
    return BreakType.RESULT_UNKNOWN if second is None and match.unknown_seen_at_ms is not None else None


def _window_opened_at_ms(match: Match, wrong: BreakType) -> int:
    """When the side that speaks was first heard."""
    seen_at_ms = {
        BreakType.MISSING_SECOND: match.first_seen_at_ms,
        BreakType.MISSING_FIRST: match.second_seen_at_ms,
        BreakType.RESULT_UNKNOWN: match.unknown_seen_at_ms,
    }[wrong]
    assert seen_at_ms is not None
    return seen_at_ms


def judge(match: Match, before: BreakType | None, window_ms: int) -> Match:
    """The match in the state that its facts call for. ``before`` is what was wrong before the last facts came.

    A difference in amount breaks it at once; a silent side has ``window_ms`` from the time the other was heard.
    """
    wrong = problem(match)
    if wrong is None:
        return _put(match, MatchState.MATCHED, due_at_ms=None)
    if wrong is BreakType.AMOUNT_MISMATCH:
        return _put(match, MatchState.BROKEN, due_at_ms=None)
    if wrong is before and (match.state == MatchState.BROKEN or match.ask_count):
        return match
    return _put(match, MatchState.WAITING, due_at_ms=_window_opened_at_ms(match, wrong) + window_ms, ask_count=0)


def fold(match: Match, facts: Iterable[tuple[Fact, int]], window_ms: int) -> Match:
    """The match after ``facts``, each with the time it was heard."""
    before = problem(match)
    for fact, now_ms in facts:
        match = absorb(match, fact, now_ms)
    return judge(match, before, window_ms)


def postpone(match: Match, due_at_ms: int | None) -> Match:
    """The match after its silent side was asked and did not settle it; asked again at ``due_at_ms``."""
    return replace(match, due_at_ms=due_at_ms, ask_count=match.ask_count + 1)


def give_up(match: Match, due_at_ms: int | None) -> Match:
    """The match after its window passed and the answer was no. Asked again at ``due_at_ms``: the answer may change."""
    return replace(MATCH.move(match, MatchState.BROKEN), due_at_ms=due_at_ms, ask_count=match.ask_count + 1)


def age_ms(match: Match, now_ms: int) -> int:
    """How long ago the window of a match opened, whose sides do not agree."""
    wrong = problem(match)
    assert wrong is not None
    return now_ms - _window_opened_at_ms(match, wrong)


def at_risk(match: Match) -> tuple[int, str]:
    """The amount at risk (minor units) and its currency: the difference, where one can be taken, else the larger."""
    sides = [
        (amount_minor, currency)
        for amount_minor, currency in (
            (match.first_amount_minor, match.first_currency),
            (match.second_amount_minor, match.second_currency),
        )
        if amount_minor and currency
    ]
    if not sides:
        return match.unknown_amount_minor or 0, match.unknown_currency or match.first_currency or ""
    if len(sides) == 2 and sides[0][1] == sides[1][1] and not match.conflict:
        return abs(sides[0][0] - sides[1][0]), sides[0][1]
    return max(sides)


def _put(match: Match, state: MatchState, *, due_at_ms: int | None, ask_count: int | None = None) -> Match:
    asked = match.ask_count if ask_count is None else ask_count
    if match.state != state:
        return MATCH.move(match, state, due_at_ms=due_at_ms, ask_count=asked)
    if (match.due_at_ms, match.ask_count) == (due_at_ms, asked):
        return match
    return replace(match, due_at_ms=due_at_ms, ask_count=asked)
