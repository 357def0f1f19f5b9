"""Transfers whose money waits: reserved at the payer's tools, or held in escrow, until a capture or a void."""

from __future__ import annotations

import msgspec
import pytest

from pay_core.ledger import AccountKind
from pay_core.orchestration import PaymentView
from pay_core.payment import COUPON, POINTS, Funding, SettlementMode
from pay_core.rules import RuleSet, load
from pay_core.tables import Account, Coupon, Hold, Journal, Payment
from paykit.errors import FailedPrecondition
from paykit.store.system import Outbox
from tests.pay_core.world import DAY_MS, RULES, World, card

SHOP = AccountKind.MERCHANT
AUTHORIZE, ESCROW = SettlementMode.AUTHORIZE, SettlementMode.ESCROW
WITH_FEES = load(
    RULES.text.replace("version: 1", "version: 2")
    + """
fees:
  - {name: service, when: "true", rate_ppm: 100_000, borne_by: PAYEE}
  - {name: handling, when: "true", fixed_minor: 7, borne_by: PAYER}
""",
    "with fees",
)


def funded(rules: RuleSet = RULES) -> World:
    """A world in which ann has 1000 cents, less the fees of her top-up, and 1000 points."""
    world = World(rules)
    world.recharge("ann", 1000, "top-up")
    world.drain()
    world.points("ann", 1000, "points")
    return world


def authorized(world: World, fundings: list[Funding], mode: SettlementMode = AUTHORIZE) -> PaymentView:
    """A payment to the shop that waits for its capture."""
    total = sum(funding.amount_minor for funding in fundings)
    view = world.transfer("ann", fundings, [("shop", SHOP, total, "one")], "auth", mode)
    world.drain()
    assert world.payment(view).state == "AUTHORIZED"
    assert world.payment(view).due_at_ms == world.payment(view).expires_at_ms
    world.check()
    return view


def subjects(events: list[Outbox]) -> list[str]:
    """The subjects of payment events, in order."""
    return [event.destination for event in events if event.destination.startswith("pay.")]


def test_a_reserve_moves_nothing_and_keeps_the_money_from_others() -> None:
    world = funded()
    journals = len(world.all(Journal))
    authorized(world, [Funding(600), card(400)])
    assert len(world.all(Journal)) == journals
    assert world.balance("ann") == 1000
    other = world.transfer("ann", [Funding(401)], [("shop", SHOP, 401)], "other")
    assert other.payment.failure_reason == "INSUFFICIENT_FUNDS"
    assert subjects(world.events)[-2:] == ["pay.payment_authorized", "pay.payment_failed"]


@pytest.mark.parametrize("mode", [AUTHORIZE, ESCROW])
def test_a_capture_of_all_pays_the_payee(mode: SettlementMode) -> None:
    world = funded()
    view = authorized(world, [Funding(600), card(400)], mode)
    world.capture(view.payment.id, 0, "c1")
    world.drain()
    payment = world.payment(view)
    assert (payment.state, payment.captured_minor) == ("SUCCEEDED", 1000)
    assert (world.balance("ann"), world.balance("shop", SHOP)) == (400, 1000)
    assert world.provider_net["card", "EUR"] == 1000 + 400
    assert subjects(world.events)[-1] == "pay.payment_succeeded"
    world.check()


@pytest.mark.parametrize("mode", [AUTHORIZE, ESCROW])
def test_a_capture_of_a_part_gives_the_rest_up_at_once(mode: SettlementMode) -> None:
    world = funded()
    view = authorized(world, [Funding(600), card(400)], mode)
    world.capture(view.payment.id, 500, "c1")
    world.drain()
    assert world.payment(view).state == "SUCCEEDED"
    assert world.payment(view).captured_minor == 500
    assert (world.balance("ann"), world.balance("shop", SHOP)) == (700, 500)
    assert world.provider_net["card", "EUR"] == 1000 + 200
    world.check()


@pytest.mark.parametrize("mode", [AUTHORIZE, ESCROW])
def test_captures_that_keep_the_rest_add_up_and_end_with_a_void_of_it(mode: SettlementMode) -> None:
    world = funded()
    view = authorized(world, [Funding(700), Funding(99, POINTS)], mode)
    for number, amount in enumerate((333, 1, 332)):
        world.capture(view.payment.id, amount, f"c{number}", keep_rest=True)
        world.drain()
        assert world.payment(view).state == "AUTHORIZED"
    with pytest.raises(FailedPrecondition) as caught:
        world.capture(view.payment.id, 134, "too much")
    assert caught.value.reason == "CAPTURE_EXCEEDS_PAYMENT"
    world.void(view.payment.id, "v1", "DONE")
    world.drain()
    payment = world.payment(view)
    assert (payment.state, payment.captured_minor, payment.failure_reason) == ("SUCCEEDED", 666, "")
    assert world.balance("shop", SHOP) == 666
    world.check()
    world.refund(view.payment.id, 666, "all of it")
    world.drain()
    assert world.balance("ann") == 1000
    assert world.balance("ann", AccountKind.POINTS, "PTS") == 1000
    world.check()


def test_a_card_is_captured_once_so_no_rest_of_it_can_be_kept() -> None:
    world = funded()
    view = authorized(world, [card(400)])
    with pytest.raises(FailedPrecondition) as caught:
        world.capture(view.payment.id, 100, "c1", keep_rest=True)
    assert (caught.value.reason, caught.value.metadata["tool"]) == ("KEEP_REST_NOT_POSSIBLE", "channel")
    world.capture(view.payment.id, 100, "c2")
    world.drain()
    assert [ins.action for ins in world.chain(view)] == ["RESERVE", "COLLECT", "DISBURSE"]
    assert world.payment(view).state == "SUCCEEDED"


@pytest.mark.parametrize("mode", [AUTHORIZE, ESCROW])
def test_a_void_restores_everything(mode: SettlementMode) -> None:
    world = funded()
    coupon_id = world.coupon("ann", 50, "coupon", "shop")
    fundings = [Funding(300), card(200), Funding(90, POINTS), Funding(50, COUPON, token=coupon_id)]
    view = authorized(world, fundings, mode)
    world.void(view.payment.id, "v1", "CUSTOMER_LEFT")
    world.drain()
    payment = world.payment(view)
    assert (payment.state, payment.failure_reason, payment.captured_minor) == ("VOIDED", "CUSTOMER_LEFT", 0)
    assert subjects(world.events)[-1] == "pay.payment_voided"
    assert world.balance("ann") == 1000
    assert world.balance("ann", AccountKind.POINTS, "PTS") == 1000
    assert world.rows[Coupon][coupon_id].state == "AVAILABLE"  # type: ignore[attr-defined]
    assert not any(account.held_minor for account in world.all(Account))
    world.check()


def test_time_voids_what_nobody_captures_and_nothing_else() -> None:
    world = funded()
    view = authorized(world, [Funding(600)])
    world.fire(world.payment(view))
    assert world.payment(view).state == "AUTHORIZED"
    world.now_ms += 7 * DAY_MS
    world.fire(world.payment(view))
    assert (world.payment(view).state, world.payment(view).failure_reason) == ("VOIDED", "EXPIRED")
    assert {hold.state for hold in world.all(Hold)} == {"RELEASED"}
    with pytest.raises(FailedPrecondition) as caught:
        world.capture(view.payment.id, 0, "late")
    assert caught.value.reason == "NOT_AUTHORIZED"
    world.check()


def test_a_declined_authorisation_gives_the_other_reserves_up() -> None:
    world = funded()
    view = world.transfer("ann", [Funding(600), card(400)], [("shop", SHOP, 1000)], "auth", AUTHORIZE)
    world.deliver(world.calls.pop(), provider_agrees=False)
    world.drain()
    assert (world.payment(view).state, world.payment(view).failure_reason) == ("FAILED", "CARD_DECLINED")
    assert [hold.state for hold in world.all(Hold)] == ["RELEASED"]
    world.check()


def test_a_capture_that_the_provider_refuses_undoes_itself_and_fails() -> None:
    world = funded()
    view = authorized(world, [Funding(600), card(400)])
    world.capture(view.payment.id, 500, "c1")
    world.deliver(world.calls.pop(), provider_agrees=False, reason="AUTHORIZATION_EXPIRED")
    world.drain()
    assert (world.payment(view).state, world.payment(view).failure_reason) == ("FAILED", "AUTHORIZATION_EXPIRED")
    assert world.balance("ann") == 1000
    world.check()


def test_a_capture_that_fails_leaves_an_earlier_one_as_it_is() -> None:
    world = funded()
    view = authorized(world, [Funding(600)])
    world.capture(view.payment.id, 200, "c1", keep_rest=True)
    account = next(a for a in world.all(Account) if a.account_key == "ann/USER/EUR")
    world.rows[Account][account.id] = msgspec.structs.replace(account, freeze_reason="COURT_ORDER")
    world.capture(view.payment.id, 100, "c2", keep_rest=True)
    world.drain()
    payment = world.payment(view)
    assert (payment.state, payment.failure_reason, payment.captured_minor) == ("SUCCEEDED", "ACCOUNT_FROZEN", 200)
    assert world.balance("shop", SHOP) == 200
    world.check()


@pytest.mark.parametrize("mode", [AUTHORIZE, ESCROW])
def test_fees_are_scaled_to_what_is_captured_and_the_payers_is_taken_with_the_first(mode: SettlementMode) -> None:
    world = funded(WITH_FEES)
    before = world.balance("ann"), world.total(AccountKind.FEES)
    view = authorized(world, [Funding(500)], mode)
    world.capture(view.payment.id, 100, "c1", keep_rest=True)
    world.drain()
    assert world.balance("shop", SHOP) == 90
    assert world.total(AccountKind.FEES) - before[1] == 10 + 7
    world.capture(view.payment.id, 200, "c2")
    world.drain()
    assert world.balance("shop", SHOP) == 270
    assert world.total(AccountKind.FEES) - before[1] == 30 + 7
    assert before[0] - world.balance("ann") == 300 + 7
    payment = world.payment(view)
    assert (payment.payer_fee_minor, payment.payee_fee_minor, payment.captured_minor) == (7, 50, 300)
    world.check()


@pytest.mark.parametrize("mode", [AUTHORIZE, ESCROW])
def test_a_merchants_coupon_is_borne_by_the_merchant_in_proportion_to_the_capture(mode: SettlementMode) -> None:
    world = funded()
    coupon_id = world.coupon("ann", 100, "coupon", "shop")
    view = authorized(world, [Funding(400), Funding(100, COUPON, token=coupon_id)], mode)
    world.capture(view.payment.id, 250, "c1")
    world.drain()
    assert world.balance("shop", SHOP) == 200
    assert world.balance("ann") == 800
    assert world.total(AccountKind.COUPON) == 0
    world.check()


@pytest.mark.parametrize("captured", range(1, 178))
def test_whatever_is_captured_a_coupon_gets_back_exactly_what_its_bearer_has_not_borne(captured: int) -> None:
    world = funded()
    coupon_id = world.coupon("ann", 11, "coupon", "shop")
    view = authorized(world, [Funding(11, COUPON, token=coupon_id), Funding(49), card(118)], ESCROW)
    world.capture(view.payment.id, captured, "c1")
    world.drain()
    assert world.total(AccountKind.COUPON) == 0
    world.check()


def test_a_refund_of_a_capture_in_part_gives_back_no_more_than_was_captured() -> None:
    world = funded()
    view = authorized(world, [Funding(300), card(200)], ESCROW)
    world.capture(view.payment.id, 250, "c1")
    world.drain()
    with pytest.raises(FailedPrecondition) as caught:
        world.refund(view.payment.id, 251, "too much")
    assert caught.value.reason == "REFUND_EXCEEDS_PAYMENT"
    world.refund(view.payment.id, 250, "all")
    world.drain()
    assert world.balance("ann") == 1000
    assert world.provider_net["card", "EUR"] == 1000
    assert {payment.state for payment in world.all(Payment)} == {"SUCCEEDED"}
    world.check()
