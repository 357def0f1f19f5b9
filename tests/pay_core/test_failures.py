"""What becomes of money whose way is barred: reversals tried again, cases, fallbacks, wrong amounts."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pay_core.case import CaseResolution
from pay_core.ledger import AccountKind
from pay_core.orchestration import PaymentView
from pay_core.payment import COUPON, Funding, SettlementMode
from pay_core.rules import load
from pay_core.tables import Coupon, Payment, PaymentCase
from paykit.errors import FailedPrecondition
from paykit.store.system import Outbox
from tests.pay_core.world import NOW_MS, RULES, World, card

SHOP = AccountKind.MERCHANT
TO_BALANCE = load(
    RULES.text.replace("version: 1", "version: 2").replace(
        "max_pause_s: 3600, fallback: CASE", "max_pause_s: 3600, fallback: BALANCE"
    ),
    "to balance",
)


def two_cards(world: World) -> PaymentView:
    """A purchase by two cards, the first of which was charged and the second declined."""
    view = world.transfer("ann", [card(600, "card"), card(400, "other")], [("shop", SHOP, 1000)], "t1")
    world.deliver(world.calls.pop())
    world.deliver(world.calls.pop(), provider_agrees=False)
    assert world.payment(view).state == "REVERSING"
    return view


def refuse_until_nothing_waits(world: World, reason: str = "PROVIDER_REFUSED") -> list[int]:
    """The provider refuses whatever it is asked; the times at which it was asked."""
    asked = []
    for _ in range(50):
        while world.calls:
            asked.append(world.now_ms)
            world.deliver(world.calls.pop(0), provider_agrees=False, reason=reason)
        due = [payment for payment in world.all(Payment) if payment.due_at_ms is not None]
        if not due:
            return asked
        world.now_ms = min(payment.due_at_ms for payment in due)
        for payment in due:
            if payment.due_at_ms <= world.now_ms:
                world.fire(payment)
    raise AssertionError("it never comes to an end")


def open_case(world: World) -> PaymentCase:
    """The one case that is open."""
    (case,) = [case for case in world.all(PaymentCase) if case.state == "OPEN"]
    assert isinstance(case, PaymentCase)
    return case


def subjects(events: list[Outbox]) -> list[str]:
    """The subjects of events about cases."""
    return [event.destination for event in events if event.destination.startswith("pay.case")]


def test_a_card_that_was_charged_is_refunded_when_the_next_one_is_declined() -> None:
    world = World()
    view = two_cards(world)
    world.drain()
    assert [(ins.direction, ins.action, ins.channel, ins.state) for ins in world.chain(view)] == [
        ("FORWARD", "COLLECT", "card", "SUCCEEDED"),
        ("FORWARD", "COLLECT", "other", "FAILED"),
        ("FORWARD", "DISBURSE", "", "FAILED"),
        ("REVERSE", "DISBURSE", "card", "SUCCEEDED"),
    ]
    assert (world.payment(view).state, world.payment(view).failure_reason) == ("FAILED", "CARD_DECLINED")
    assert world.provider_net["card", "EUR"] == 0
    world.check()


def test_a_reversal_that_fails_is_tried_again_with_growing_pauses_and_ends_in_a_case() -> None:
    world = World()
    view = two_cards(world)
    asked = refuse_until_nothing_waits(world)
    assert [later - earlier for earlier, later in pairwise(asked)] == [2000, 4000, 8000, 16000]
    attempts = [ins.attempt_no for ins in world.chain(view) if ins.direction == "REVERSE"]
    assert attempts == [1, 2, 3, 4, 5]
    payment, case = world.payment(view), open_case(world)
    assert (payment.state, payment.due_at_ms) == ("REVERSING", None)
    assert (case.type, case.amount_minor, case.evidence) == ("REVERSAL_FAILED", 600, "PROVIDER_REFUSED")
    assert case.owner == "payment-operations"
    assert world.total(AccountKind.CLEARING) == 600
    assert subjects(world.events) == ["pay.case_opened"]
    world.check()


@pytest.mark.parametrize(
    ("resolution", "balance", "suspense", "provider"),
    [
        (CaseResolution.RETRY, 0, 0, 0),
        (CaseResolution.TO_BALANCE, 600, 0, 600),
        (CaseResolution.ACCEPT, 0, 600, 600),
    ],
)
def test_a_person_decides_what_becomes_of_a_reversal(
    resolution: CaseResolution, balance: int, suspense: int, provider: int
) -> None:
    world = World()
    view = two_cards(world)
    refuse_until_nothing_waits(world)
    case = open_case(world)
    resolved = world.resolve(case.id, resolution, "x1")
    assert (resolved.state, resolved.resolution, resolved.resolved_by) == ("RESOLVED", resolution, "tester")
    world.drain()
    assert world.payment(view).state == "FAILED"
    assert world.balance("ann") == balance
    assert world.total(AccountKind.SUSPENSE) == suspense
    assert world.provider_net["card", "EUR"] == provider
    assert subjects(world.events) == ["pay.case_opened", "pay.case_resolved"]
    with pytest.raises(FailedPrecondition):
        world.resolve(case.id, resolution, "x2")
    world.check()


def test_a_decision_to_retry_that_is_refused_again_opens_another_case() -> None:
    world = World()
    two_cards(world)
    refuse_until_nothing_waits(world)
    first = open_case(world)
    world.resolve(first.id, CaseResolution.RETRY, "x1")
    refuse_until_nothing_waits(world)
    assert open_case(world).id != first.id
    world.check()


def test_a_reversal_goes_to_the_balance_where_the_rules_say_so() -> None:
    world = World(TO_BALANCE)
    view = two_cards(world)
    refuse_until_nothing_waits(world)
    assert world.payment(view).state == "FAILED"
    assert not world.all(PaymentCase)
    assert world.balance("ann") == 600
    world.check()


def test_a_reserve_that_cannot_be_given_up_is_a_case_that_moves_no_money() -> None:
    world = World()
    view = world.transfer("ann", [card(500)], [("shop", SHOP, 500)], "t1", SettlementMode.AUTHORIZE)
    world.drain()
    world.void(view.payment.id, "v1", "CANCELLED")
    refuse_until_nothing_waits(world)
    case = open_case(world)
    assert (case.type, world.payment(view).state) == ("RELEASE_FAILED", "PROCESSING")
    with pytest.raises(FailedPrecondition) as caught:
        world.resolve(case.id, CaseResolution.TO_BALANCE, "x1")
    assert caught.value.reason == "RESOLUTION_NOT_POSSIBLE"
    world.resolve(case.id, CaseResolution.ACCEPT, "x2")
    assert (world.payment(view).state, world.payment(view).failure_reason) == ("VOIDED", "CANCELLED")
    world.check()


def test_an_over_payment_pays_what_was_asked_and_the_excess_waits_in_suspense() -> None:
    world = World()
    view = world.transfer("ann", [card(1000)], [("shop", SHOP, 1000)], "t1")
    world.deliver(world.calls.pop(), settled_minor=1200)
    world.drain()
    assert world.payment(view).state == "SUCCEEDED"
    assert world.chain(view)[0].moved_minor == 1200
    assert (world.balance("shop", SHOP), world.total(AccountKind.SUSPENSE)) == (1000, 200)
    case = open_case(world)
    assert (case.type, case.amount_minor, case.owner) == ("OVERPAYMENT", 200, "customer-refunds")
    world.check()


@pytest.mark.parametrize(
    ("resolution", "balance", "suspense", "provider"),
    [
        (CaseResolution.RETRY, 0, 0, 1000),
        (CaseResolution.TO_BALANCE, 200, 0, 1200),
        (CaseResolution.ACCEPT, 0, 200, 1200),
    ],
)
def test_an_excess_goes_where_a_person_says_by_a_payment_of_its_own(
    resolution: CaseResolution, balance: int, suspense: int, provider: int
) -> None:
    world = World()
    view = world.transfer("ann", [card(1000)], [("shop", SHOP, 1000)], "t1")
    world.deliver(world.calls.pop(), settled_minor=1200)
    world.drain()
    case = world.resolve(open_case(world).id, resolution, "x1")
    world.drain()
    assert (world.balance("ann"), world.total(AccountKind.SUSPENSE)) == (balance, suspense)
    assert world.provider_net["card", "EUR"] == provider
    payment = world.payment(view)
    assert (payment.refunded_minor, payment.refunding_minor) == (0, 0), "the excess was never a part of it"
    if resolution == CaseResolution.ACCEPT:
        assert not case.resolution_payment_id
    else:
        own = world.rows[Payment][case.resolution_payment_id]
        assert isinstance(own, Payment)
        assert (own.operation, own.state, own.source_id) == ("REFUND", "SUCCEEDED", case.id)
    world.refund(view.payment.id, 1000, "all of it")
    world.drain()
    assert world.balance("shop", SHOP) == 0
    world.check()


def test_an_under_payment_fails_and_what_came_goes_back() -> None:
    world = World()
    view = world.transfer("ann", [card(1000)], [("shop", SHOP, 1000)], "t1")
    world.deliver(world.calls.pop(), settled_minor=900)
    assert world.total(AccountKind.CLEARING) == 900
    world.drain()
    assert (world.payment(view).state, world.payment(view).failure_reason) == ("FAILED", "UNDERPAID")
    assert world.provider_net["card", "EUR"] == 0
    world.check()


def paid_by_two_cards(world: World) -> PaymentView:
    """A purchase by two cards."""
    view = world.transfer("ann", [card(600, "card"), card(400, "other")], [("shop", SHOP, 1000)], "t1")
    world.drain()
    return view


def to_provider(world: World) -> Outbox:
    """Delivers what moves money inside until a provider is asked."""
    while "SubmitChannelOrder" not in world.calls[0].destination:
        world.deliver(world.calls.pop(0))
    return world.calls.pop(0)


def test_a_refund_to_an_expired_card_goes_to_the_balance_by_rule() -> None:
    world = World()
    paid = paid_by_two_cards(world)
    refund = world.refund(paid.payment.id, 500, "f1")
    world.deliver(to_provider(world), provider_agrees=False, reason="CARD_EXPIRED")
    world.drain()
    assert world.payment(refund).state == "SUCCEEDED"
    assert (world.balance("ann"), world.balance("shop", SHOP)) == (300, 500)
    assert (world.payment(paid).refunded_minor, world.payment(paid).refunding_minor) == (500, 0)
    world.check()


def test_a_refund_that_the_first_provider_refuses_fails_and_the_payee_has_the_money_again() -> None:
    world = World()
    paid = paid_by_two_cards(world)
    refund = world.refund(paid.payment.id, 500, "f1")
    world.deliver(to_provider(world), provider_agrees=False)
    world.drain()
    assert (world.payment(refund).state, world.payment(refund).failure_reason) == ("FAILED", "CARD_DECLINED")
    assert world.balance("shop", SHOP) == 1000
    assert (world.payment(paid).refunded_minor, world.payment(paid).refunding_minor) == (0, 0)
    world.check()


def test_a_refund_that_has_begun_to_pay_out_is_carried_through() -> None:
    world = World()
    paid = paid_by_two_cards(world)
    refund = world.refund(paid.payment.id, 500, "f1")
    world.deliver(to_provider(world))
    world.deliver(to_provider(world), provider_agrees=False)
    world.drain()
    assert world.payment(refund).state == "SUCCEEDED"
    assert world.balance("ann") == 200
    assert world.provider_net["card", "EUR"] == 300
    world.check()


def test_a_refund_that_fails_behind_a_fallback_frees_what_it_reserved_once() -> None:
    world = World()
    paid = paid_by_two_cards(world)
    refund = world.refund(paid.payment.id, 500, "f1")
    world.deliver(to_provider(world), provider_agrees=False, reason="CARD_EXPIRED")
    world.deliver(to_provider(world), provider_agrees=False, reason="CARD_DECLINED")
    world.drain()
    assert (world.payment(refund).state, world.balance("ann"), world.balance("shop", SHOP)) == ("FAILED", 0, 1000)
    assert all(ins.refunded_minor == 0 for ins in world.chain(paid))
    world.refund(paid.payment.id, 1000, "f2")
    world.drain()
    assert world.balance("shop", SHOP) == 0
    world.check()


def test_a_refund_fails_where_the_rules_cannot_say_where_refused_money_goes() -> None:
    world = World()
    paid = paid_by_two_cards(world)
    broken = RULES.text.replace("version: 1", "version: 2").replace(
        "failure_reason in ['CARD_EXPIRED', 'ACCOUNT_CLOSED']", "amount_minor / (size(payer_id) - 3) > 0"
    )
    world.rules = load(broken, "broken for ann")
    refund = world.refund(paid.payment.id, 500, "f1")
    world.deliver(to_provider(world), provider_agrees=False, reason="CARD_EXPIRED")
    world.drain()
    assert (world.payment(refund).state, world.payment(refund).failure_reason) == ("FAILED", "CARD_EXPIRED")
    assert world.balance("shop", SHOP) == 1000
    world.check()


def test_a_repair_never_fails_for_a_providers_refusal() -> None:
    world = World()
    paid = paid_by_two_cards(world)
    refund = world.refund(paid.payment.id, 1000, "f1", is_repair=True)
    while world.calls:
        world.deliver(world.calls.pop(0), provider_agrees=False)
    assert world.payment(refund).state == "SUCCEEDED"
    assert world.balance("ann") == 1000
    world.check()


def test_a_refund_of_one_payee_takes_from_nobody_else() -> None:
    world = World()
    world.recharge("ann", 1000, "r1")
    world.drain()
    payees = [("shop", SHOP, 600, "one"), ("mall", SHOP, 400, "two")]
    paid = world.transfer("ann", [Funding(300), card(700)], payees, "t1")
    world.drain()
    with pytest.raises(FailedPrecondition) as caught:
        world.refund(paid.payment.id, 401, "f0", "two")
    assert caught.value.reason == "REFUND_EXCEEDS_PAYMENT"
    with pytest.raises(FailedPrecondition) as caught:
        world.refund(paid.payment.id, 1, "f1", "three")
    assert caught.value.reason == "PAYEE_NOT_FOUND"
    world.refund(paid.payment.id, 400, "f2", "two")
    world.drain()
    assert (world.balance("shop", SHOP), world.balance("mall", SHOP)) == (600, 0)
    assert (world.balance("ann"), world.provider_net["card", "EUR"]) == (820, 1000 + 420)
    world.check()


def test_a_refund_of_three_tools_is_in_proportion_and_the_last_brings_the_rest() -> None:
    world = World()
    world.recharge("ann", 1000, "r1")
    world.drain()
    coupon_id = world.coupon("ann", 100, "coupon", "shop")
    fundings = [Funding(233), card(667), Funding(100, COUPON, token=coupon_id)]
    paid = world.transfer("ann", fundings, [("shop", SHOP, 1000)], "t1")
    world.drain()
    assert world.balance("shop", SHOP) == 900
    for number, amount in enumerate((333, 333, 334)):
        world.refund(paid.payment.id, amount, f"f{number}")
        world.drain()
        world.check()
        state = "AVAILABLE" if number == 2 else "USED"
        assert world.rows[Coupon][coupon_id].state == state  # type: ignore[attr-defined]
    assert (world.balance("ann"), world.balance("shop", SHOP)) == (1000, 0)
    assert world.provider_net["card", "EUR"] == 1000


def test_the_next_question_comes_later_each_time_and_a_late_answer_is_taken() -> None:
    world = World()
    view = world.recharge("ann", 100, "r1")
    message = world.calls.pop()
    pauses = []
    for _ in range(10):
        before = world.now_ms
        world.now_ms = world.payment(view).due_at_ms or 0
        pauses.append(world.now_ms - before)
        world.fire(world.payment(view))
    assert pauses[:4] == [15_000, 30_000, 60_000, 120_000]
    assert pauses[-1] == 3_600_000
    world.accept(message)
    world.results.clear()
    world.fire(world.payment(view))
    assert world.payment(view).state == "SUCCEEDED", "the timer asked, as no event came"
    assert world.now_ms > NOW_MS
    world.check()
