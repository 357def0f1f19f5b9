"""A payment's row: whatever the order, the repetition and the split of what is heard, it is the same in the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from recon import pair as pairing
from recon import sides
from recon.commands import by_pair
from recon.matching import Fact, MatchKind, MatchState, Side
from recon.pair import Pair, Windows
from recon.sides import Record, Sides
from recon.tables import Match

PAYMENT = "pay_00000000000000000000000000"
WINDOWS = Windows(30_000, 60_000)

_facts = st.builds(
    lambda kind, number, side, amount, currency, source, at_ms: Fact(
        kind, f"ins_{number:026}", side, amount, currency, PAYMENT, source, at_ms
    ),
    st.sampled_from([MatchKind.PAY_CHANNEL, MatchKind.PAY_LEDGER, MatchKind.TRANSIT]),
    st.integers(0, 1),
    st.sampled_from(Side),
    st.sampled_from([0, 300, 500]),
    st.sampled_from(["EUR", "USD"]),
    st.sampled_from(["", "att_1"]),
    st.sampled_from([0, 700, 900]),
)
_records = st.builds(
    Record,
    st.sampled_from(["PAYMENT", "JOURNAL"]),
    st.sampled_from(["one", "two"]),
    st.sampled_from([700, 900]),
    st.sampled_from([300, 500]),
    st.integers(-2, 2),
    st.just(7),
)
_heard = st.lists(st.tuples(st.one_of(_facts, _records), st.integers(1000, 5000)), min_size=1, max_size=8)


def blank() -> Match:
    return sides.blank(PAYMENT, 0, "biz_x")


def after(match: Match, heard: list[tuple[Fact | Record, int]]) -> Match:
    """The row once it has taken what was heard at once, each with the time it was first heard."""
    held = sides.unpack(match) if match.sides else sides.EMPTY
    pairs = {pair.match_key: pair for pair in held.pairs}
    facts = [(item, now_ms) for item, now_ms in heard if isinstance(item, Fact)]
    times = {id(fact): now_ms for fact, now_ms in facts}
    for match_key, said in by_pair(fact for fact, _ in facts).items():
        known = pairs.get(match_key) or Pair(said[0].kind.value, said[0].key)
        pairs[match_key] = pairing.fold(known, [(fact, times[id(fact)]) for fact in said], WINDOWS)
    records = sides.with_records(held.records, [item for item, _ in heard if isinstance(item, Record)])
    source_id = max([held.source_id, *[fact.source_id for fact, _ in facts]])
    return sides.pack(match, Sides(source_id, sides.in_order(pairs), records), b"context")


@given(heard=_heard, data=st.data())
def test_any_order_repetition_and_split_gives_the_same_row(
    heard: list[tuple[Fact | Record, int]], data: st.DataObject
) -> None:
    again = data.draw(st.lists(st.sampled_from(heard), max_size=5))
    other = data.draw(st.permutations(heard + again))
    one = after(blank(), heard)
    two, rest = blank(), list(other)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        two, rest = after(two, rest[:size]), rest[size:]
    assert one == two


@given(heard=_heard)
def test_the_columns_say_what_the_pairs_say(heard: list[tuple[Fact | Record, int]]) -> None:
    match = after(blank(), heard)
    pairs = list(sides.pairs_of(match).values())
    states = [pair.state for pair in pairs]
    assert sum(sides.counts_in(match.pair_counts).values()) == len(pairs)
    assert sum(sides.counts_in(match.waiting_counts).values()) == states.count(MatchState.WAITING)
    assert sum(sides.counts_in(match.broken_counts).values()) == states.count(MatchState.BROKEN)
    due = [pair.due_at_ms for pair in pairs if pair.due_at_ms is not None]
    assert match.due_at_ms == min(due, default=None)
    assert (match.context == b"") == (match.due_at_ms is None)
    assert (match.waiting_since_ms is None) == (MatchState.WAITING not in states)
    assert (match.waiting_minor == 0) == (MatchState.WAITING not in states) or 0 in {
        said.amount_minor for pair in pairs for said in (pair.unknown, pair.expected) if said
    }


def test_the_worst_pair_is_the_state_of_the_row() -> None:
    first = Fact(MatchKind.PAY_LEDGER, "ins_1", Side.FIRST, 500, "EUR", PAYMENT)
    match = after(blank(), [(first, 1000)])
    assert (match.state, match.waiting_minor, match.waiting_since_ms) == (MatchState.WAITING, 500, 1000)
    match = after(match, [(replace(first, side=Side.SECOND), 1000)])
    assert (match.state, match.pair_counts, match.waiting_counts) == (MatchState.MATCHED, "0.0.1.0", "")
    match = after(match, [(replace(first, side=Side.SECOND, amount_minor=400), 1000)])
    assert (match.state, match.broken_counts) == (MatchState.BROKEN, "0.0.1.0")


def test_a_match_is_named_after_its_payment() -> None:
    match = blank()
    assert match.id == "mat" + PAYMENT[3:]
    assert match.payment_id == PAYMENT


@pytest.mark.parametrize("text", ["", "0.0.0.0", "1.12.3.0"])
def test_counts_are_read_as_they_are_written(text: str) -> None:
    assert sum(sides.counts_in(text).values()) == sum(int(part) for part in text.split(".") if part)
