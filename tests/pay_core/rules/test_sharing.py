"""An amount is shared out to the last minor unit: what payees, splits and fees get is what was paid."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pay_core.ledger import AccountKind
from pay_core.rules import Bearer, PayeeFact, Share, ShareKind
from tests.pay_core.rules.support import HEAD, rules, transfer

ROUNDINGS = st.sampled_from(["HALF_EVEN", "HALF_UP", "UP", "DOWN"])
CONDITIONS = st.sampled_from(["true", "false", "amount_minor > 5000", "currency == 'EUR'", "size(payee_ids) > 1"])
SPLIT_CONDITIONS = st.one_of(CONDITIONS, st.sampled_from(["payee_id == 'p0'", "payee_id != 'p1'"]))
MINOR = st.one_of(st.integers(1, 300), st.integers(1, 10**10))
PPM = st.one_of(st.integers(1, 50_000), st.integers(1, 1_000_000))


@st.composite
def fees(draw: st.DrawFn) -> dict[str, Any]:
    fee: dict[str, Any] = {
        "when": draw(CONDITIONS),
        "borne_by": draw(st.sampled_from(["PAYER", "PAYEE"])),
        "rounding": draw(ROUNDINGS),
    }
    if draw(st.booleans()):
        bounds = sorted(draw(st.sets(MINOR, max_size=3)))
        tiers = [{"up_to_minor": bound, "rate_ppm": draw(PPM), "fixed_minor": draw(MINOR)} for bound in bounds]
        mode = draw(st.sampled_from(["WHOLE", "MARGINAL"]))
        return fee | {"tiers": [*tiers, {"rate_ppm": draw(PPM)}], "tier_mode": mode}
    low, high = sorted((draw(MINOR), draw(MINOR)))
    return fee | {"rate_ppm": draw(PPM), "fixed_minor": draw(MINOR), "min_minor": low, "max_minor": high}


@st.composite
def splits(draw: st.DrawFn) -> dict[str, Any]:
    rates = [draw(st.integers(1, 300_000)) for _ in range(draw(st.integers(0, 3)))]
    shares = [{"owner_id": f"r{i}", "account_kind": "MERCHANT", "rate_ppm": rate} for i, rate in enumerate(rates)]
    shares.append({"owner_id": "p0", "account_kind": "MERCHANT", "fixed_minor": draw(st.integers(1, 400))})
    return {"when": draw(SPLIT_CONDITIONS), "rounding": draw(ROUNDINGS), "shares": draw(st.permutations(shares))}


def named(prefix: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": f"{prefix}{i}", **rule} for i, rule in enumerate(found)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(fees(), max_size=4),
    st.lists(splits(), max_size=3),
    st.lists(st.integers(1, 10**9), min_size=1, max_size=5),
)
def test_shares_add_up_to_the_amount_whatever_the_rules(
    fee_rules: list[dict[str, Any]], split_rules: list[dict[str, Any]], amounts: list[int]
) -> None:
    # JSON is YAML.
    sections = {"fees": named("f", fee_rules), "splits": named("s", split_rules)}
    rule_set = rules("".join(f"{key}: {json.dumps(value)}\n" for key, value in sections.items()))
    payees = tuple(PayeeFact(f"p{i}", AccountKind.MERCHANT, amount, f"t{i}") for i, amount in enumerate(amounts))
    facts = transfer(sum(amounts), payees=payees)
    decision = rule_set.decide(facts)
    shares = decision.shares
    assert sum(share.amount_minor for share in shares) == facts.amount_minor
    assert all(share.amount_minor > 0 for share in shares)
    # Each payee's part, by its reference, is shared out by itself.
    for payee in payees:
        assert sum(s.amount_minor for s in shares if s.reference == payee.reference) == payee.amount_minor
    by_payer = [fee.amount_minor for fee in decision.fees if fee.borne_by is Bearer.PAYER]
    assert sum(by_payer) == decision.payer_fee_minor
    by_payees = [fee.amount_minor for fee in decision.fees if fee.borne_by is Bearer.PAYEE]
    assert sum(by_payees) == sum(share.amount_minor for share in shares if share.kind is ShareKind.FEE)
    assert rule_set.decide(facts) == decision


def shares_of(text: str, *payees: PayeeFact) -> list[Share]:
    amount_minor = sum(payee.amount_minor for payee in payees)
    return list(rules(text).decide(transfer(amount_minor, payees=payees)).shares)


def payee(owner_id: str, amount_minor: int) -> PayeeFact:
    return PayeeFact(owner_id, AccountKind.MERCHANT, amount_minor, f"for-{owner_id}")


MARKETPLACE = """
splits:
  - name: own-goods
    when: "payee_id == 'house'"
    shares: [{owner_id: charity, account_kind: USER, rate_ppm: 10000}]
  - name: marketplace
    when: "true"
    shares:
      - {owner_id: house, account_kind: MERCHANT, fixed_minor: 30}
      - {owner_id: partner, account_kind: MERCHANT, rate_ppm: 50000}
    rounding: DOWN
"""


def test_every_payees_share_is_split_by_the_first_rule_that_holds_for_it() -> None:
    shares = shares_of(MARKETPLACE, payee("shop", 1_019), payee("house", 1_000))
    assert [(s.kind, s.owner_id, s.amount_minor, s.bearer_id, s.reference) for s in shares] == [
        (ShareKind.PAYEE, "shop", 939, "", "for-shop"),
        (ShareKind.PAYEE, "house", 990, "", "for-house"),
        (ShareKind.SPLIT, "house", 30, "shop", "for-shop"),
        (ShareKind.SPLIT, "partner", 50, "shop", "for-shop"),
        (ShareKind.SPLIT, "charity", 10, "house", "for-house"),
    ]


def test_a_share_takes_at_most_what_is_left_in_the_order_of_the_file() -> None:
    text = """
splits:
  - name: s
    when: "true"
    shares:
      - {owner_id: a, account_kind: MERCHANT, fixed_minor: 30}
      - {owner_id: b, account_kind: MERCHANT, rate_ppm: 500000}
      - {owner_id: c, account_kind: MERCHANT, fixed_minor: 30}
"""
    assert [(s.owner_id, s.amount_minor) for s in shares_of(text, payee("shop", 50))] == [("a", 30), ("b", 20)]


def test_a_payees_share_of_its_own_stays_where_it_is() -> None:
    text = 'splits: [{name: s, when: "true", shares: [{owner_id: house, account_kind: MERCHANT, rate_ppm: 10000}]}]'
    (share,) = shares_of(text, payee("house", 100))
    assert (share.kind, share.amount_minor) == (ShareKind.PAYEE, 100)


def test_splits_come_before_fees() -> None:
    text = MARKETPLACE + 'fees: [{name: f, when: "true", borne_by: PAYEE, rate_ppm: 1000000}]'
    shares = shares_of(text, payee("shop", 1_000))
    assert [(s.kind, s.owner_id, s.amount_minor) for s in shares] == [
        (ShareKind.SPLIT, "house", 30),
        (ShareKind.SPLIT, "partner", 50),
        (ShareKind.FEE, "", 920),
    ]


def test_two_parts_of_one_payee_stay_apart() -> None:
    parts = tuple(PayeeFact("shop", AccountKind.MERCHANT, 500, reference) for reference in ("t1", "t2"))
    decision = rules('fees: [{name: f, when: "true", borne_by: PAYEE, fixed_minor: 3}]', HEAD).decide(
        transfer(1_000, payees=parts)
    )
    assert [(s.kind, s.amount_minor, s.reference) for s in decision.shares] == [
        (ShareKind.PAYEE, 498, "t1"),
        (ShareKind.PAYEE, 499, "t2"),
        (ShareKind.FEE, 2, "t1"),
        (ShareKind.FEE, 1, "t2"),
    ]
