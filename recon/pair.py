"""Two records that must agree, as pure functions: facts are folded into the pair, and it says what is wrong with it.

The fold is commutative and idempotent: any order and any repetition of the same facts gives the same pair.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from recon.matching import MATCH, BreakType, Fact, MatchKind, MatchState, Side, match_key


class Said(msgspec.Struct, frozen=True, array_like=True):
    """What a side says. An amount of zero says that nothing was moved."""

    amount_minor: int
    currency: str
    heard_at_ms: int  # when it was first heard here: what windows are counted from
    at_ms: int  # when it became so, by the service's clock: what the watermark goes by


class Pair(msgspec.Struct, frozen=True, array_like=True):
    """Two records of one payment that must agree, each as the services said of it; None until they did."""

    kind: str  # a MatchKind
    key: str  # the id that both records share
    state: str = MATCH.initial.value
    first: Said | None = None
    second: Said | None = None
    unknown: Said | None = None  # the amount of a channel order whose outcome nobody knows yet
    expected: Said | None = None  # what was sent
    conflict: int = 0  # 1 where one side said two different amounts
    due_at_ms: int | None = None  # when the side that is silent is asked
    ask_count: int = 0  # how often it was asked since the window opened
    break_id: str | None = None  # the break of this pair as it stands
    mismatch_break_id: str | None = None  # the last break that a provider's contradiction opened

    @property
    def match_key(self) -> str:
        """``PAY_LEDGER/ins_…``"""
        return match_key(self.kind, self.key)

    @property
    def id(self) -> str:
        """Names it in errors."""
        return self.match_key


class Windows(NamedTuple):
    """How long is waited before a silent side is asked, in milliseconds."""

    silent_ms: int  # once the other side has spoken
    expected_ms: int  # once something was sent, and nobody has spoken


class Problem(NamedTuple):
    """What is wrong with a pair, and which side's word opened the window."""

    type: BreakType
    side: Side | None


_CONTRADICTION = Problem(BreakType.AMOUNT_MISMATCH, None)
_MISSING_SECOND = Problem(BreakType.MISSING_SECOND, Side.FIRST)
_MISSING_FIRST = Problem(BreakType.MISSING_FIRST, Side.SECOND)
_UNKNOWN = Problem(BreakType.RESULT_UNKNOWN, Side.UNKNOWN)
_EXPECTED = Problem(BreakType.RESULT_UNKNOWN, Side.EXPECTED)

_FIELD = {Side.FIRST: "first", Side.SECOND: "second", Side.UNKNOWN: "unknown", Side.EXPECTED: "expected"}


def _join(before: Said | None, fact: Fact, now_ms: int) -> tuple[Said, bool]:
    """What a side says with ``fact`` added, and whether it contradicts itself; the larger amount stands then."""
    at_ms = fact.at_ms or now_ms
    if before is None:
        return Said(fact.amount_minor, fact.currency, now_ms, at_ms), False
    said, added = (before.amount_minor, before.currency), (fact.amount_minor, fact.currency)
    heard_at_ms, at_ms = min(before.heard_at_ms, now_ms), min(before.at_ms, at_ms)
    if said == added and (heard_at_ms, at_ms) == (before.heard_at_ms, before.at_ms):
        return before, False
    return Said(*max(said, added), heard_at_ms, at_ms), said != added


def absorb(pair: Pair, fact: Fact, now_ms: int) -> Pair:
    """The pair with ``fact`` added to what its side said; the same object where that says nothing new.

    ``now_ms`` is when the fact was heard. State and due time are left to ``judge``.
    """
    field = _FIELD[fact.side]
    before: Said | None = getattr(pair, field)
    said, differs = _join(before, fact, now_ms)
    conflict = 1 if differs else pair.conflict
    if said is before and conflict == pair.conflict:
        return pair
    return replace(pair, **{field: said, "conflict": conflict})


def problem(pair: Pair) -> Problem | None:
    """What is wrong with a pair as the facts stand; None where its sides agree. A silent side moved nothing."""
    first, second = pair.first, pair.second
    if pair.conflict:
        return _CONTRADICTION
    if first is not None and second is not None:
        agree = first.amount_minor == second.amount_minor and (
            first.amount_minor == 0 or first.currency == second.currency
        )
        return None if agree else _CONTRADICTION
    if first is not None and first.amount_minor:
        return _MISSING_SECOND
    if second is not None:
        return _MISSING_FIRST if second.amount_minor else None
    if pair.unknown is not None:
        return _UNKNOWN
    return _EXPECTED if pair.expected is not None and first is None else None


def _opened_by(pair: Pair, wrong: Problem) -> Said:
    """What the side said that opened the window."""
    assert wrong.side is not None
    said: Said | None = getattr(pair, _FIELD[wrong.side])
    assert said is not None
    return said


def since_ms(pair: Pair) -> int:
    """The service's own time of what waits for the other side, of a pair that is not matched."""
    wrong = problem(pair)
    if wrong is not None and wrong.side is not None:
        return _opened_by(pair, wrong).at_ms
    return min(said.at_ms for said in (pair.first, pair.second, pair.unknown, pair.expected) if said is not None)


def judge(pair: Pair, before: Problem | None, windows: Windows) -> Pair:
    """The pair in the state that its facts call for. ``before`` is what was wrong before the last facts came.

    A difference in amount breaks it at once; a silent side has its window from the time the other was heard.
    """
    wrong = problem(pair)
    if wrong is None:
        return _put(pair, MatchState.MATCHED, due_at_ms=None)
    if wrong.side is None:
        return _put(pair, MatchState.BROKEN, due_at_ms=None)
    if wrong == before and (pair.state == MatchState.BROKEN or pair.ask_count):
        return pair
    window_ms = windows.expected_ms if wrong.side is Side.EXPECTED else windows.silent_ms
    return _put(pair, MatchState.WAITING, due_at_ms=_opened_by(pair, wrong).heard_at_ms + window_ms, ask_count=0)


def fold(pair: Pair, facts: Iterable[tuple[Fact, int]], windows: Windows) -> Pair:
    """The pair after ``facts``, each with the time it was heard."""
    before = problem(pair)
    for fact, now_ms in facts:
        pair = absorb(pair, fact, now_ms)
    return judge(pair, before, windows)


def postpone(pair: Pair, due_at_ms: int | None) -> Pair:
    """The pair after its silent side was asked and did not settle it; asked again at ``due_at_ms``."""
    return replace(pair, due_at_ms=due_at_ms, ask_count=pair.ask_count + 1)


def give_up(pair: Pair, due_at_ms: int | None) -> Pair:
    """The pair after its window passed and the answer was no. Asked again at ``due_at_ms``: the answer may change."""
    return replace(MATCH.move(pair, MatchState.BROKEN), due_at_ms=due_at_ms, ask_count=pair.ask_count + 1)


def age_ms(pair: Pair, now_ms: int) -> int:
    """How long ago the window of a pair opened, whose sides do not agree."""
    wrong = problem(pair)
    assert wrong is not None
    return now_ms - _opened_by(pair, wrong).heard_at_ms


def at_risk(pair: Pair) -> tuple[int, str]:
    """The amount at risk (minor units) and its currency: the difference, where one can be taken, else the larger."""
    sides = [
        (said.amount_minor, said.currency)
        for said in (pair.first, pair.second)
        if said is not None and said.amount_minor and said.currency
    ]
    if not sides:
        speaking = pair.unknown or pair.expected or pair.first or pair.second
        return (0, "") if speaking is None else (speaking.amount_minor, speaking.currency)
    if len(sides) == 2 and sides[0][1] == sides[1][1] and not pair.conflict:
        return abs(sides[0][0] - sides[1][0]), sides[0][1]
    return max(sides)


def kind_of(pair: Pair) -> MatchKind:
    """Which two records."""
    return MatchKind(pair.kind)


def _put(pair: Pair, state: MatchState, *, due_at_ms: int | None, ask_count: int | None = None) -> Pair:
    asked = pair.ask_count if ask_count is None else ask_count
    if pair.state != state:
        return MATCH.move(pair, state, due_at_ms=due_at_ms, ask_count=asked)
    if (pair.due_at_ms, pair.ask_count) == (due_at_ms, asked):
        return pair
    return replace(pair, due_at_ms=due_at_ms, ask_count=asked)
