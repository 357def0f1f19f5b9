"""Which channel carries an order, and where it may go from there."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channel_gateway.routing import (
    PPM,
    Ask,
    Bounds,
    Candidate,
    Declared,
    Health,
    Judged,
    Reason,
    Route,
    Strategy,
    judge,
    next_channel,
    onward,
    onward_of,
    stored,
)
from paymesh.channel.v1 import route_pb2

NAMES = ("a", "b", "c", "d")
ASK = Ask("CHARGE", "EUR", 10_000, "ins_1")
CARDS = Declared(frozenset({"CHARGE", "REFUND"}))


def route(*candidates: Candidate | str, **changes: Any) -> Route:
    made = tuple(Candidate(channel=one) if isinstance(one, str) else one for one in candidates)
    return Route(candidates=made, **changes)


def chosen(wanted: Route, ask: Ask = ASK, declared: Any = None, health: Any = None) -> list[str]:
    """The channels that are in, in order."""
    judged = judge(wanted, ask, dict.fromkeys(NAMES, CARDS) if declared is None else declared, health or {})
    return [one.candidate.channel for one in judged if one.is_in]


def test_strategies_have_the_names_of_the_protocol() -> None:
    names = {name.removeprefix("ROUTE_STRATEGY_") for name in route_pb2.RouteStrategy.keys()}  # noqa: SIM118
    assert names - {"UNSPECIFIED"} == {strategy.value for strategy in Strategy}


def test_the_first_of_the_rule_goes_first() -> None:
    assert chosen(route("b", "a", "c")) == ["b", "a", "c"]


def test_the_lowest_cost_is_exact_to_a_millionth_of_a_minor_unit() -> None:
    dear = Candidate(channel="a", rate_ppm=15_000)  # 150 of 10,000
    fixed = Candidate(channel="b", fixed_minor=149, rate_ppm=100)  # 150 of 10,000, as exactly
    less = Candidate(channel="c", fixed_minor=149, rate_ppm=99)  # 149.99
    wanted = route(dear, fixed, less, strategy=Strategy.LOWEST_COST)
    assert chosen(wanted) == ["c", "a", "b"]
    assert chosen(wanted, ASK._replace(amount_minor=100)) == ["a", "c", "b"]  # 1.5 against 149 and more


@pytest.mark.parametrize(("amount_minor", "cost_minor"), [(100, 0), (101, 1), (300, 2), (500, 2), (700, 4)])
def test_a_cost_is_shown_rounded_half_to_even(amount_minor: int, cost_minor: int) -> None:
    assert Candidate(channel="a", rate_ppm=5_000).cost_minor(amount_minor) == cost_minor


def test_the_best_success_goes_first_and_what_is_not_known_is_tried() -> None:
    health = {"a": Health(success_ppm=900_000), "b": Health(success_ppm=990_000)}
    assert chosen(route("a", "b", "c", strategy=Strategy.BEST_SUCCESS), health=health) == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (Declared(frozenset({"PAYOUT"})), Reason.OPERATION_UNSUPPORTED),
        (CARDS._replace(currencies={"USD"}), Reason.CURRENCY_UNSUPPORTED),
        (CARDS._replace(bounds={"EUR": Bounds(1, 9_999)}), Reason.AMOUNT_OUT_OF_BOUNDS),
        (CARDS._replace(bounds={"EUR": Bounds(10_001, 10**15)}), Reason.AMOUNT_OUT_OF_BOUNDS),
        (Reason.SHADOW_UNAVAILABLE, Reason.SHADOW_UNAVAILABLE),
        (None, Reason.CHANNEL_UNKNOWN),
    ],
)
def test_what_cannot_carry_it_is_out_and_says_why(declared: Declared | Reason | None, reason: Reason) -> None:
    known = {"b": CARDS} | ({} if declared is None else {"a": declared})
    judged = judge(route("a", "b"), ASK, known, {})
    assert judged == [
        Judged(Candidate(channel="b"), True), Judged(Candidate(channel="a"), False, reason)
    ]  # fmt: skip


def test_bounds_of_another_currency_bind_nothing() -> None:
    assert chosen(route("a"), declared={"a": CARDS._replace(bounds={"USD": Bounds(1, 2)})}) == ["a"]


def test_a_channel_that_is_not_well_stands_behind_and_is_taken_where_nothing_is_left() -> None:
    health = {"a": Health(is_open=True), "b": Health(is_full=True)}
    judged = judge(route("a", "b", "c"), ASK, dict.fromkeys(NAMES, CARDS), health)
    assert [(one.candidate.channel, one.is_in, one.reason) for one in judged] == [
        ("c", True, None), ("a", True, Reason.BREAKER_OPEN), ("b", True, Reason.CHANNEL_BUSY),
    ]  # fmt: skip
    assert chosen(route("a", "b"), health=health) == ["a", "b"]


def test_weights_are_honoured_in_the_large() -> None:
    candidates = [Candidate(channel=name, weight=weight) for name, weight in zip("abcd", (70, 20, 10, 0), strict=True)]
    wanted = route(*candidates, strategy=Strategy.WEIGHTED)
    number = 4_000
    first = Counter(chosen(wanted, ASK._replace(lot=f"ins_{i}"))[0] for i in range(number))
    assert first["d"] == 0
    for name, share in (("a", 0.7), ("b", 0.2), ("c", 0.1)):
        assert abs(first[name] / number - share) < 0.03, first  # four standard deviations


def test_without_one_of_them_the_odds_of_the_others_are_as_they_were() -> None:
    candidates = [Candidate(channel=name, weight=weight) for name, weight in zip("abc", (60, 30, 10), strict=True)]
    wanted, number = route(*candidates, strategy=Strategy.WEIGHTED), 3_000
    health = {"a": Health(is_open=True)}
    first = Counter(chosen(wanted, ASK._replace(lot=f"ins_{i}"), health=health)[0] for i in range(number))
    assert first["a"] == 0
    assert abs(first["b"] / number - 0.75) < 0.035, first


_CANDIDATES = st.lists(
    st.builds(
        Candidate,
        channel=st.sampled_from(NAMES),
        weight=st.integers(0, 100),
        fixed_minor=st.integers(0, 100),
        rate_ppm=st.integers(0, PPM),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda one: one.channel,
)
_DECLARED = st.one_of(
    st.builds(
        Declared,
        operations=st.sets(st.sampled_from(["CHARGE", "PAYOUT"])),
        currencies=st.sets(st.sampled_from(["EUR", "USD"])),
        bounds=st.dictionaries(st.just("EUR"), st.builds(Bounds, st.integers(0, 500), st.integers(500, 1_000))),
    ),
    st.sampled_from([Reason.SHADOW_UNAVAILABLE, Reason.CHANNEL_UNKNOWN]),
)
_HEALTH = st.builds(Health, st.booleans(), st.booleans(), st.integers(0, PPM))


@settings(max_examples=300)
@given(
    candidates=_CANDIDATES,
    strategy=st.sampled_from(list(Strategy)),
    declared=st.dictionaries(st.sampled_from(NAMES), _DECLARED),
    health=st.dictionaries(st.sampled_from(NAMES), _HEALTH),
    amount_minor=st.integers(1, 1_200),
    lot=st.text(max_size=5),
)
def test_every_candidate_is_judged_once_alike_and_never_is_one_in_that_cannot_carry_it(
    candidates: list[Candidate], strategy: Strategy, declared: Any, health: Any, amount_minor: int, lot: str
) -> None:
    wanted, ask = route(*candidates, strategy=strategy), Ask("CHARGE", "EUR", amount_minor, lot)
    judged = judge(wanted, ask, declared, health)
    assert judged == judge(wanted, ask, declared, health)
    assert sorted(one.candidate.channel for one in judged) == sorted(one.channel for one in candidates)
    for one in judged:
        found = declared.get(one.candidate.channel, Reason.CHANNEL_UNKNOWN)
        can = isinstance(found, Declared) and found.refusal(ask) is None
        assert one.is_in == can
        assert one.is_in or one.reason is not None
    # First those that are well, then those that are not, then those that cannot.
    ranks = [(not one.is_in, one.reason is not None) for one in judged]
    assert ranks == sorted(ranks)


def test_an_order_goes_on_only_where_the_rule_lets_it() -> None:
    judged = judge(route("a", "b", "c"), ASK, {"a": CARDS, "b": CARDS, "c": Reason.CHANNEL_UNKNOWN}, {})
    allowed = route("a", "b", "c", channels_max=2, switch_on=("DECLINED",))
    way = onward(allowed, judged)
    assert way is not None
    assert (way.channels, way.channels_max, way.switch_on) == (("b",), 2, ("DECLINED",))
    text = stored(way)
    assert text is not None
    assert onward_of(text) == way
    assert onward(route("a", "b", switch_on=("DECLINED",)), judged) is None  # one channel in all
    assert onward(route("a", "b", channels_max=2), judged) is None  # on no reason
    assert onward(allowed, judged[:1]) is None  # nowhere to go


def test_the_next_channel_is_the_best_that_is_well_within_the_number_and_the_reasons() -> None:
    judged = judge(route("a", "b", "c"), ASK, dict.fromkeys(NAMES, CARDS), {})
    way = onward(route("a", "b", "c", channels_max=3, switch_on=("DECLINED",)), judged)
    assert way is not None
    assert next_channel(way, 1, "DECLINED") == "b"
    assert next_channel(way, 1, "DECLINED", avoid={"b"}) == "c"
    assert next_channel(way, 1, "DECLINED", avoid={"b", "c"}) == "b"
    assert next_channel(way, 1, "EXPIRED") is None
    assert next_channel(way, 3, "DECLINED") is None
