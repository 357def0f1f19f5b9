"""What the rules decide when a payment is accepted: order, routes, fees, splits, limits, and what is stamped on it."""

from __future__ import annotations

import pytest

from pay_core import facts
from pay_core.chains import Order
from pay_core.commands import StartPayment
from pay_core.ledger import AccountKind
from pay_core.payment import CHANNEL, COUPON, POINTS, Funding, Operation, Payee, SettlementMode
from pay_core.rule_versions import KeepRules
from pay_core.rules import load
from pay_core.tables import Coupon, LimitUsage, Payment, RuleVersion
from paykit.errors import FailedPrecondition, NotFound
from paykit.store.store import Store
from tests.pay_core.world import DAY_MS, RULES, World, bank, card, origin

SHOP = AccountKind.MERCHANT

STRICT = load(
    """
version: 3
points:
  rate: {points: 10, amount_minor: 1}
tools:
  - {name: kiosk, when: "scene == 'KIOSK'", allow: [card]}
  - {name: all, when: "true", allow: [card, balance, points, coupon, bank_account]}
routes:
  - {name: big, when: "instrument == 'CARD' && amount_minor > 500", channels: [safe_card, other_card]}
  - {name: small, when: "instrument == 'CARD'", channels: [cheap_card]}
limits:
  - {name: daily, when: "operation == 'WITHDRAW'", per: day, max_amount_minor: 300, max_count: 3}
fees:
  - {name: service, when: "operation == 'TRANSFER'", rate_ppm: 100_000, borne_by: PAYEE}
  - {name: payout, when: "operation == 'WITHDRAW'", fixed_minor: 5, borne_by: PAYER}
  - {name: express, when: "trade_type == 'EXPRESS'", fixed_minor: 20, borne_by: PAYER}
splits:
  - name: agency
    when: "payee_id == 'shop' && merchant == 'shop'"
    shares: [{owner_id: agent, account_kind: MERCHANT, rate_ppm: 250_000}]
refunds:
  return_fees: "amount_minor == 400"
""",
    "strict",
)


def funded(amount_minor: int = 1000) -> World:
    """A world in which ann has a balance."""
    world = World(STRICT)
    world.recharge("ann", amount_minor, "top-up")
    world.drain()
    return world


def instrument(amount_minor: int) -> Funding:
    """A card whose channel the rules choose."""
    return Funding(amount_minor, CHANNEL, "", "tok", "CARD")


def purchase(fundings: list[Funding], amount_minor: int) -> Order:
    """A purchase of ann's at the shop."""
    payees = (Payee("shop", SHOP, amount_minor, "line-1"),)
    return Order(Operation.TRANSFER, "ann", "EUR", amount_minor, tuple(fundings), payees)


def test_the_rules_say_in_which_order_tools_collect_and_by_which_channel() -> None:
    world = funded()
    world.points("ann", 1000, "p1")
    coupon_id = world.coupon("ann", 50, "c1")
    fundings = [Funding(50, COUPON, token=coupon_id), Funding(50, POINTS), Funding(100), instrument(300)]
    view = world.start(purchase(fundings, 500), "t1")
    assert [(ins.tool, ins.channel) for ins in view.chain[:4]] == [
        ("channel", "cheap_card"),
        ("balance", ""),
        ("points", ""),
        ("coupon", ""),
    ]
    assert view.chain[2].unit_count == 500
    big = world.start(purchase([instrument(501)], 501), "t2")
    assert big.chain[0].channel == "safe_card"
    world.drain()
    world.check()


def test_what_the_rules_do_not_allow_is_refused_before_anything_is_written() -> None:
    world = funded()
    before = len(world.all(Payment))
    for biz_code, order, reason in [
        ("shop/PURCHASE/KIOSK", purchase([Funding(100)], 100), "TOOL_NOT_ALLOWED"),
        (
            "",
            Order(Operation.WITHDRAW, "ann", "EUR", 100, (Funding(100, CHANNEL, "", "tok", "BANK_ACCOUNT"),)),
            "NO_ROUTE",
        ),
        ("", Order(Operation.WITHDRAW, "ann", "EUR", 301, (bank(301),)), "LIMIT_EXCEEDED"),
        ("shop/EXPRESS", purchase([Funding(100, POINTS)], 100), "PAYER_FEE_UNFUNDED"),
    ]:
        with pytest.raises(FailedPrecondition) as caught:
            world.start(order, reason, biz_code)
        assert caught.value.reason == reason
    with pytest.raises(NotFound):
        world.start(purchase([Funding(100, COUPON, token="cpn_065wzsb8ff15jbh0wq11qr7a8n")], 100), "no such coupon")
    assert len(world.all(Payment)) == before
    assert not world.all(LimitUsage)


def test_fees_and_splits_are_shares_of_the_payee_and_are_stamped_with_the_version() -> None:
    world = funded()
    view = world.start(purchase([Funding(400)], 400), "t1", "shop/PURCHASE/WEB")
    world.drain()
    assert {(ins.tool, ins.owner_id): ins.amount_minor for ins in view.chain[1:]} == {
        ("balance", "shop"): 260,
        ("balance", "agent"): 100,
        ("fees", "shop"): 40,
    }
    assert {ins.reference for ins in view.chain[1:]} == {"line-1"}
    payment = world.payment(view)
    assert (payment.rules_version, payment.payee_fee_minor, payment.payer_fee_minor) == (3, 40, 0)
    assert payment.accounting_date == "2023-11-14"
    assert world.balance("agent", SHOP) == 100
    world.check()


@pytest.mark.parametrize(("amount", "fees_after", "shop_after"), [(400, 0, 0), (390, 39, -39)])
def test_a_refund_returns_fees_where_the_rules_say_so_and_else_their_bearer_pays_them(
    amount: int, fees_after: int, shop_after: int
) -> None:
    world = funded()
    world.start(purchase([Funding(100)], 100), "other", "x/PURCHASE")
    view = world.start(purchase([Funding(amount)], amount), "t1", "x/PURCHASE")
    world.drain()
    fees, shop = world.total(AccountKind.FEES) - amount // 10, world.balance("shop", SHOP) - amount * 9 // 10
    world.refund(view.payment.id, amount, "f1")
    world.drain()
    assert world.total(AccountKind.FEES) - fees == fees_after
    assert world.balance("shop", SHOP) - shop == shop_after
    assert world.balance("ann") == 900
    world.check()


def test_a_payers_fee_comes_on_top_of_the_funding_that_takes_the_rest_and_is_kept() -> None:
    world = funded()
    fundings = [instrument(100), Funding(300, takes_rest=True)]
    view = world.start(purchase(fundings, 400), "t1", "x/EXPRESS")
    world.drain()
    assert [ins.amount_minor for ins in view.chain[:2]] == [100, 320]
    assert world.payment(view).payer_fee_minor == 20
    world.refund(view.payment.id, 400, "f1")
    world.drain()
    assert (world.balance("ann"), world.provider_net["cheap_card", "EUR"]) == (1000 - 320 + 300, 0)
    assert world.total(AccountKind.FEES) == 20
    world.check()


def test_a_payers_fee_keeps_no_coupon_and_no_points_from_coming_back_whole() -> None:
    world = funded()
    world.start(purchase([Funding(100)], 100), "what the shop pays the service fee of", "x/PURCHASE")
    world.points("ann", 500, "p1")
    coupon_id = world.coupon("ann", 20, "c1")
    fundings = [Funding(20, COUPON, token=coupon_id), Funding(50, POINTS), Funding(30)]
    view = world.start(purchase(fundings, 100), "t1", "x/EXPRESS")
    world.drain()
    for amount in (33, 67):
        world.refund(view.payment.id, amount, f"f{amount}")
        world.drain()
    assert world.rows[Coupon][coupon_id].state == "AVAILABLE"  # type: ignore[attr-defined]
    assert world.balance("ann", AccountKind.POINTS, "PTS") == 500
    assert world.balance("ann") == 1000 - 100 - 20
    world.check()


def test_a_fee_is_borne_by_the_account_it_was_taken_from() -> None:
    world = funded()
    payees = (Payee("bob", AccountKind.USER, 100), Payee("bob", SHOP, 300))
    order = Order(Operation.TRANSFER, "ann", "EUR", 400, (Funding(400),), payees)
    view = world.start(order, "t1")
    fees = [ins for ins in view.chain if ins.tool == "fees"]
    assert [(ins.owner_id, ins.account_kind, ins.amount_minor) for ins in fees] == [
        ("bob", "USER", 10),
        ("bob", "MERCHANT", 30),
    ]


def test_a_withdrawal_takes_the_payers_fee_from_the_balance_and_pays_out_the_amount() -> None:
    world = funded()
    view = world.withdraw("ann", 200, "w1")
    world.drain()
    assert [(ins.action, ins.tool, ins.amount_minor) for ins in view.chain] == [
        ("COLLECT", "balance", 205),
        ("DISBURSE", "channel", 200),
        ("DISBURSE", "fees", 5),
    ]
    assert world.balance("ann") == 795
    world.check()


def test_a_days_limit_counts_what_was_accepted_and_forgets_what_failed_and_what_is_over() -> None:
    world = funded()
    world.withdraw("ann", 200, "w1")
    with pytest.raises(FailedPrecondition) as caught:
        world.withdraw("ann", 101, "w2")
    assert caught.value.reason == "LIMIT_EXCEEDED"
    assert caught.value.metadata == {
        "limit": "daily",
        "per": "day",
        "max_amount_minor": "300",
        "max_count": "3",
        "used_minor": "200",
        "used_count": "1",
    }
    failing = world.withdraw("ann", 100, "w3")
    world.deliver(world.calls.pop(), provider_agrees=False)
    assert world.payment(failing).state == "FAILED"
    world.withdraw("ann", 100, "w4")
    (usage,) = world.all(LimitUsage)
    assert (usage.amount_minor, usage.payment_count) == (300, 2)
    world.drain()
    world.withdraw("bob", 300, "somebody else's")
    world.next_date()
    world.withdraw("ann", 300, "the next day")
    usages = {usage.owner_id: usage for usage in world.all(LimitUsage)}
    assert (usages["ann"].amount_minor, usages["ann"].payment_count) == (300, 1)


def test_a_version_that_was_active_is_kept_once_and_never_with_another_text() -> None:
    world = World()
    for number in range(2):
        world.run(KeepRules(origin("ann", f"r{number}"), RULES))
    (kept,) = world.all(RuleVersion)
    assert (kept.rules_version, kept.sha256, kept.text) == (RULES.version, RULES.sha256, RULES.text)
    other = load(RULES.text + "\n# changed", "changed")
    with pytest.raises(FailedPrecondition) as caught:
        world.run(KeepRules(origin("ann", "other"), other))
    assert caught.value.reason == "RULES_VERSION_REUSED"


def test_the_rules_see_an_accepted_payment_as_they_saw_it_when_it_was_asked_for() -> None:
    world = World()
    world.recharge("ann", 1000, "r1")
    world.drain()
    order = Order(
        Operation.TRANSFER,
        "ann",
        "EUR",
        500,
        (card(300), Funding(200)),
        (Payee("shop", SHOP, 350, "one"), Payee("mall", SHOP, 150, "two")),
        SettlementMode.AUTHORIZE,
        DAY_MS,
    )
    view = world.start(order, "t1", "shop/PURCHASE/WEB")
    world.drain()
    world.capture(view.payment.id, 0, "c1")
    world.drain()
    asked = facts.facts_of_order(order, "shop/PURCHASE/WEB")
    seen = facts.facts_of(world.payment(view), world.chain(view))
    assert sorted(seen.fundings) == sorted(asked.fundings)
    assert (seen.payees, seen.merchant, seen.trade_type, seen.scene) == (
        asked.payees,
        "shop",
        "PURCHASE",
        "WEB",
    )


async def test_what_was_accepted_is_answered_again_though_the_rules_refuse_it_now(store: Store) -> None:
    before, after = World().terms(), World(STRICT).terms()
    order = Order(Operation.WITHDRAW, "ann", "EUR", 301, (bank(301),))
    first = await store.run(StartPayment(origin("ann", "w1"), order, "w1", before))
    assert await store.run(StartPayment(origin("ann", "w1"), order, "w1", after)) == first
    with pytest.raises(FailedPrecondition) as refused:
        await store.run(StartPayment(origin("ann", "w2"), order, "w2", after))
    assert refused.value.reason == "LIMIT_EXCEEDED"
