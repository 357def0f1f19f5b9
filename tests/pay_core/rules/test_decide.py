"""What the rules decide about one payment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pay_core.ledger import AccountKind
from pay_core.rules import (
    Bearer,
    Collect,
    Fallback,
    Fee,
    FundingFact,
    PayeeFact,
    PaymentFacts,
    ReversalFallback,
    ReversalPolicy,
    Route,
    RouteCandidate,
    RouteStrategy,
    RuleSet,
    ShareKind,
)
from paykit.errors import FailedPrecondition
from paykit.money import AMOUNT_MINOR_MAX
from tests.pay_core.rules.support import rules, transfer

ROUTES = """
routes:
  - {name: dear, when: "instrument == 'CARD' && amount_minor > 5000", channels: [acquirer_a, acquirer_b]}
  - {name: cards, when: "instrument == 'CARD'", channels: [acquirer_b]}
"""


def refused(rule_set: RuleSet, facts: PaymentFacts) -> FailedPrecondition:
    with pytest.raises(FailedPrecondition) as raised:
        rule_set.decide(facts)
    return raised.value


def funded(*fundings: FundingFact) -> PaymentFacts:
    return transfer(sum(funding.amount_minor for funding in fundings), fundings=fundings)


def test_the_first_tools_rule_that_holds_gives_the_order() -> None:
    head = """
version: 7
tools:
  - {name: big, when: "amount_minor > 1000", allow: [card, balance]}
  - {name: small, when: "true", allow: [balance, card]}
"""
    fundings = (FundingFact("balance", 300), FundingFact("card", 300, "x"), FundingFact("balance", 300))
    small = rules(head=head).decide(funded(*fundings))
    assert [collect.index for collect in small.collects] == [0, 2, 1]
    assert small.rules_version == 7
    big = rules(head=head).decide(funded(*fundings, FundingFact("balance", 300)))
    assert [collect.index for collect in big.collects] == [1, 0, 2, 3]


def test_a_tool_that_is_not_allowed_refuses_the_payment() -> None:
    head = "version: 1\ntools: [{name: a, when: \"scene == 'app'\", allow: [balance]}]"
    error = refused(rules(head=head), transfer(scene="app", fundings=(FundingFact("card", 10_000, "x"),)))
    assert (error.reason, error.metadata) == ("TOOL_NOT_ALLOWED", {"tool": "card"})
    assert refused(rules(head=head), transfer()).reason == "TOOL_NOT_ALLOWED"
    assert rules(head=head).decide(transfer(scene="app")).collects == (Collect(0),)


def test_an_instrument_is_routed_by_the_first_rule_and_a_named_channel_is_kept() -> None:
    fundings = (FundingFact("card", 4000), FundingFact("card", 2000, "chosen"), FundingFact("balance", 1000))
    decision = rules(ROUTES).decide(funded(*fundings))
    assert decision.collects == (
        Collect(2),
        Collect(0, "acquirer_a", Route((RouteCandidate("acquirer_a"), RouteCandidate("acquirer_b")))),
        Collect(1, "chosen"),
    )
    cheap = rules(ROUTES).decide(funded(FundingFact("card", 5000)))
    assert cheap.collects == (Collect(0, "acquirer_b"),)


def test_a_route_says_what_each_channel_costs_how_one_is_chosen_and_when_another_is_tried() -> None:
    text = """
routes:
  - name: cards
    when: "instrument == 'CARD'"
    channels: [acquirer_a, {channel: acquirer_b, fixed_minor: 10, rate_ppm: 9_000}]
    strategy: LOWEST_COST
    channels_max: 2
    switch_on: [PROVIDER_UNREACHABLE]
"""
    (collect,) = rules(text).decide(funded(FundingFact("card", 100))).collects
    candidates = (RouteCandidate("acquirer_a"), RouteCandidate("acquirer_b", 1, 10, 9_000))
    assert collect.route == Route(candidates, RouteStrategy.LOWEST_COST, 2, ("PROVIDER_UNREACHABLE",))
    assert collect.channel == "acquirer_a"


def test_an_instrument_nothing_carries_refuses_the_payment() -> None:
    error = refused(rules(ROUTES), funded(FundingFact("wallet", 100)))
    assert (error.reason, error.metadata) == ("NO_ROUTE", {"instrument": "WALLET"})


def test_limits_per_payment_are_kept_and_those_per_day_are_told() -> None:
    rule_set = rules("""
limits:
  - {name: single, when: "currency == 'EUR'", per: payment, max_amount_minor: 10000}
  - {name: yen, when: "currency == 'JPY'", per: payment, max_amount_minor: 1}
  - {name: daily, when: "true", per: day, max_amount_minor: 20000, max_count: 3}
  - {name: tiny, when: "merchant == 'm9'", per: day, max_amount_minor: 99}
""")
    assert [limit.name for limit in rule_set.decide(transfer(10_000)).limits] == ["single", "daily"]
    error = refused(rule_set, transfer(10_001))
    assert error.reason == "LIMIT_EXCEEDED"
    assert error.metadata == {"limit": "single", "per": "payment", "max_amount_minor": "10000"}
    # One payment that is larger than a whole day's limit can never be within it.
    assert refused(rule_set, transfer(100, merchant="m9")).metadata["limit"] == "tiny"


def test_a_fee_of_the_payer_is_on_top_and_one_of_the_payees_is_shared_in_proportion() -> None:
    rule_set = rules("""
fees:
  - {name: service, when: "true", borne_by: PAYER, fixed_minor: 25}
  - {name: merchant-fee, when: "true", borne_by: PAYEE, rate_ppm: 10000}
""")
    payees = (PayeeFact("a", AccountKind.MERCHANT, 7_500, "t1"), PayeeFact("b", AccountKind.MERCHANT, 2_500, "t2"))
    decision = rule_set.decide(transfer(payees=payees))
    assert decision.payer_fee_minor == 25
    assert decision.fees == (Fee("service", 25, Bearer.PAYER), Fee("merchant-fee", 100, Bearer.PAYEE))
    assert [(s.kind, s.owner_id, s.amount_minor, s.reference, s.bearer_id) for s in decision.shares] == [
        (ShareKind.PAYEE, "a", 7_425, "t1", ""),
        (ShareKind.PAYEE, "b", 2_475, "t2", ""),
        (ShareKind.FEE, "", 75, "t1", "a"),
        (ShareKind.FEE, "", 25, "t2", "b"),
    ]
    assert {share.account_kind for share in decision.shares if share.kind is ShareKind.FEE} == {AccountKind.FEES}


def test_payees_never_bear_more_than_they_get() -> None:
    rule_set = rules("""
fees:
  - {name: first, when: "true", borne_by: PAYEE, fixed_minor: 70}
  - {name: second, when: "true", borne_by: PAYEE, fixed_minor: 70}
  - {name: third, when: "true", borne_by: PAYEE, fixed_minor: 70}
""")
    decision = rule_set.decide(transfer(100))
    assert decision.fees == (Fee("first", 70, Bearer.PAYEE), Fee("second", 30, Bearer.PAYEE))
    assert [(share.rule, share.amount_minor) for share in decision.shares] == [("first", 70), ("second", 30)]


def test_the_fees_of_a_payer_do_not_carry_a_payment_past_what_the_platform_moves() -> None:
    rule_set = rules('fees: [{name: f, when: "true", borne_by: PAYER, fixed_minor: 1}]')
    error = refused(rule_set, transfer(AMOUNT_MINOR_MAX))
    assert (error.reason, error.metadata["limit"]) == ("LIMIT_EXCEEDED", "platform")
    assert rule_set.decide(transfer(AMOUNT_MINOR_MAX - 1)).payer_fee_minor == 1


@pytest.mark.parametrize("operation", ["RECHARGE", "WITHDRAW"])
def test_without_payees_the_whole_is_the_payers_own_less_what_is_borne(operation: str) -> None:
    rule_set = rules("""
fees: [{name: f, when: "true", borne_by: PAYEE, fixed_minor: 30}]
splits: [{name: s, when: "true", shares: [{owner_id: p, account_kind: MERCHANT, rate_ppm: 500000}]}]
""")
    fundings = (FundingFact("bank_account", 1000, "x"),)
    decision = rule_set.decide(transfer(1000, operation=operation, payees=(), fundings=fundings))
    assert [(s.kind, s.owner_id, s.account_kind, s.amount_minor) for s in decision.shares] == [
        (ShareKind.PAYEE, "ann", AccountKind.USER, 970),
        (ShareKind.FEE, "", AccountKind.FEES, 30),
    ]


def test_of_a_refund_only_the_limits_are_asked() -> None:
    rule_set = rules("""
fees: [{name: f, when: "true", borne_by: PAYER, fixed_minor: 30}]
limits: [{name: back, when: "operation == 'REFUND'", per: day, max_count: 5}]
""")
    decision = rule_set.decide(transfer(operation="REFUND"))
    assert (decision.collects, decision.shares, decision.fees, decision.payer_fee_minor) == ((), (), (), 0)
    assert [limit.name for limit in decision.limits] == ["back"]


def test_a_refund_that_is_refused_goes_where_the_first_rule_says() -> None:
    rule_set = rules("""
refunds:
  return_fees: "merchant == 'kind'"
  fallback:
    - {when: "channel == 'acquirer_b' && currency == 'EUR'", to: NONE}
    - {when: "failure_reason in ['CARD_EXPIRED']", to: BALANCE}
""")
    assert rule_set.refund_fallback("CARD_EXPIRED", "acquirer_a", transfer()) is Fallback.BALANCE
    assert rule_set.refund_fallback("CARD_EXPIRED", "acquirer_b", transfer()) is Fallback.NONE
    assert rule_set.refund_fallback("DECLINED", "acquirer_a", transfer()) is Fallback.NONE
    assert rule_set.refund_policy(transfer(merchant="kind")).return_fees
    assert not rule_set.refund_policy(transfer()).return_fees


def test_reversals_are_repeated_as_said_or_as_usual() -> None:
    assert rules().reversal == ReversalPolicy(5, 2, 3600, ReversalFallback.CASE)
    said = rules("reversals: {attempts_max: 1, first_pause_s: 9, fallback: BALANCE}").reversal
    assert said == ReversalPolicy(1, 9, 3600, ReversalFallback.BALANCE)


@given(st.lists(st.integers(0, 10**11), min_size=1, max_size=6), st.integers(1, 10**6), st.integers(1, 10**6))
def test_points_pay_at_least_what_they_are_worth_and_add_up_over_parts(
    parts: list[int], points: int, amount_minor: int
) -> None:
    head = f"version: 1\ntools: []\npoints: {{rate: {{points: {points}, amount_minor: {amount_minor}}}}}"
    rule_set = rules(head=head)
    whole = sum(parts)
    assert 0 <= rule_set.points_for(whole) * amount_minor - whole * points < amount_minor
    taken = below = 0
    for part in parts:
        taken += rule_set.points_for(below + part) - rule_set.points_for(below)
        below += part
    assert taken == rule_set.points_for(whole)


def test_no_amount_is_paid_with_more_points_than_an_account_holds() -> None:
    rule_set = rules(head="version: 1\ntools: []\npoints: {rate: {points: 1_000_000, amount_minor: 1}}")
    assert rule_set.points_for(2**62 // 10**6) < 2**62
    with pytest.raises(FailedPrecondition) as refused:
        rule_set.points_for(10**15)
    assert refused.value.reason == "INSUFFICIENT_POINTS"


def test_points_pay_only_in_the_currencies_that_are_listed() -> None:
    head = """
version: 1
points: {rate: {points: 1, amount_minor: 1}, currencies: [EUR]}
tools: [{name: a, when: "true", allow: [points]}]
"""
    fundings = (FundingFact("points", 10_000),)
    assert rules(head=head).decide(transfer(fundings=fundings)).collects == (Collect(0),)
    error = refused(rules(head=head), transfer(fundings=fundings, currency="JPY"))
    assert (error.reason, error.metadata) == ("TOOL_NOT_ALLOWED", {"tool": "points"})


def test_without_a_rate_nothing_is_paid_with_points() -> None:
    with pytest.raises(FailedPrecondition, match="no rate for points"):
        rules(head="version: 1\ntools: []").points_for(5)
