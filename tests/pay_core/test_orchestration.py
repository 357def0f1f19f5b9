"""Payments as chains of instructions: each operation, each way it can fail, in any order of messages."""

from __future__ import annotations

import msgspec
import pytest

from pay_core.commands import SettleInstruction
from pay_core.ledger import AccountKind
from pay_core.payment import CHANNEL, Funding
from pay_core.tables import Account, Instruction, Journal, Payment
from pay_core.tools.base import Outcome
from paykit.errors import FailedPrecondition, NotFound
from paykit.ids import slot_of
from tests.pay_core.world import World, card, origin

OWNERS = ("ann", "bob", "cid")
SHOP = AccountKind.MERCHANT
assert len({slot_of(owner) for owner in (*OWNERS, "shop", "mall")}) == 5, "the owners must lie on different slots"


def funded(amount_minor: int = 1000, owner: str = "ann") -> World:
    """A world in which an owner has a balance."""
    world = World()
    world.recharge(owner, amount_minor, "top-up")
    world.drain()
    return world


def state_of(world: World, payment_id: str) -> str:
    """The present state of a payment."""
    payment = world.rows[Payment][payment_id]
    assert isinstance(payment, Payment)
    return payment.state


def test_recharge_credits_the_balance_when_the_provider_has_charged() -> None:
    world = World()
    started = world.recharge("ann", 1000, "r1")
    assert started.payment.state == "PROCESSING"
    assert world.balance("ann") == 0
    world.drain()
    assert world.balance("ann") == 1000
    world.check()


def test_declined_recharge_moves_nothing() -> None:
    world = World()
    started = world.recharge("ann", 1000, "r1")
    world.deliver(world.calls.pop(), provider_agrees=False)
    assert state_of(world, started.payment.id) == "FAILED"
    assert not world.all(Journal)
    world.check()


def test_balance_transfer_on_one_slot_is_done_in_one_command() -> None:
    world = funded()
    done = world.transfer("ann", [Funding(300)], [("ann", SHOP, 300)], "t1")
    assert done.payment.state == "SUCCEEDED"
    assert not world.calls
    assert (world.balance("ann"), world.balance("ann", SHOP)) == (700, 300)
    world.check()


def test_balance_transfer_to_another_slot_debits_first_and_arrives_by_a_durable_call() -> None:
    world = funded()
    done = world.transfer("ann", [Funding(300)], [("bob", AccountKind.USER, 300)], "t1")
    assert done.payment.state == "SUCCEEDED"
    assert (world.balance("ann"), world.balance("bob")) == (700, 0)
    world.drain()
    assert world.balance("bob") == 300
    world.check()


def test_transfer_beyond_the_balance_fails_and_moves_nothing() -> None:
    world = funded(100)
    done = world.transfer("ann", [Funding(101)], [("shop", SHOP, 101)], "t1")
    assert (done.payment.state, done.payment.failure_reason) == ("FAILED", "INSUFFICIENT_FUNDS")
    assert world.balance("ann") == 100
    world.check()


def test_mixed_payment_takes_the_balance_first_and_gives_it_back_when_the_card_is_declined() -> None:
    world = funded()
    started = world.transfer("ann", [card(700), Funding(300)], [("shop", SHOP, 1000)], "t1")
    assert [ins.tool for ins in started.chain] == ["balance", "channel", "balance"]
    assert world.balance("ann") == 700
    world.deliver(world.calls.pop(), provider_agrees=False)
    assert state_of(world, started.payment.id) == "FAILED"
    assert world.balance("ann") == 1000
    world.check()


def test_withdrawal_is_taken_before_the_bank_is_asked_and_given_back_when_it_refuses() -> None:
    world = funded()
    started = world.withdraw("ann", 400, "w1")
    assert world.balance("ann") == 600
    world.deliver(world.calls.pop(), provider_agrees=False)
    assert state_of(world, started.payment.id) == "FAILED"
    assert world.balance("ann") == 1000
    world.check()


def test_refund_goes_back_by_its_original_route_in_proportion() -> None:
    world = funded()
    paid = world.transfer("ann", [Funding(300), card(700)], [("shop", SHOP, 1000)], "t1")
    world.drain()
    refund = world.refund(paid.payment.id, 500, "f1")
    assert [(ins.action, ins.tool, ins.amount_minor) for ins in refund.chain] == [
        ("COLLECT", "balance", 500),
        ("DISBURSE", "channel", 350),
        ("DISBURSE", "balance", 150),
    ]
    world.drain()
    assert (world.balance("ann"), world.balance("shop", SHOP)) == (850, 500)
    assert world.provider_net["card", "EUR"] == 1000 + 700 - 350
    world.check()


def test_refunds_never_exceed_the_payment_and_end_exactly_at_it() -> None:
    world = funded()
    paid = world.transfer("ann", [Funding(333), card(667)], [("shop", SHOP, 1000)], "t1")
    world.drain()
    for number in range(3):
        world.refund(paid.payment.id, 333, f"f{number}")
    with pytest.raises(FailedPrecondition) as caught:
        world.refund(paid.payment.id, 2, "too much")
    assert caught.value.reason == "REFUND_EXCEEDS_PAYMENT"
    world.refund(paid.payment.id, 1, "the rest")
    world.drain()
    assert world.balance("shop", SHOP) == 0
    assert world.balance("ann") == 1000
    world.check()


def test_refund_that_the_merchant_cannot_pay_fails_and_frees_what_it_reserved() -> None:
    world = funded()
    paid = world.transfer("ann", [Funding(1000)], [("shop", SHOP, 1000)], "t1")
    world.drain()
    account = next(a for a in world.all(Account) if a.account_key == "shop/MERCHANT/EUR")
    world.rows[Account][account.id] = msgspec.structs.replace(account, freeze_reason="COURT_ORDER")
    refund = world.refund(paid.payment.id, 1000, "f1")
    world.drain()
    assert world.payment(refund).state == "FAILED"
    assert world.payment(refund).failure_reason == "ACCOUNT_FROZEN"
    original = world.payment(paid)
    assert (original.refunding_minor, original.refunded_minor) == (0, 0)
    assert all(ins.refunded_minor == 0 for ins in world.all(Instruction))
    world.check()


def test_refund_refused_by_the_provider_gives_the_merchant_the_money_back() -> None:
    world = World()
    paid = world.transfer("ann", [card(1000)], [("shop", SHOP, 1000)], "t1")
    world.drain()
    refund = world.refund(paid.payment.id, 400, "f1")
    world.deliver(world.calls.pop())  # drawn from the merchant
    world.deliver(world.calls.pop())  # settled; the provider is asked
    world.deliver(world.calls.pop(), provider_agrees=False)
    world.drain()
    assert state_of(world, refund.payment.id) == "FAILED"
    assert world.balance("shop", SHOP) == 1000
    world.check()


def test_only_a_succeeded_transfer_can_be_refunded() -> None:
    world = World()
    recharge = world.recharge("ann", 100, "r1")
    world.drain()
    with pytest.raises(FailedPrecondition) as caught:
        world.refund(recharge.payment.id, 100, "f1")
    assert caught.value.reason == "NOT_REFUNDABLE"
    with pytest.raises(NotFound):
        world.refund("pay_065wzsb8ff15jbh0wq11qr7a8n", 100, "f2")


def test_result_that_contradicts_an_earlier_one_is_refused() -> None:
    world = World()
    world.recharge("ann", 1000, "r1")
    message = world.calls.pop()
    world.deliver(message)
    instruction = next(ins for ins in world.all(Instruction) if ins.tool == "channel")
    contradiction = SettleInstruction(
        origin("ann", "x"),
        instruction.payment_id,
        instruction.id,
        tool=CHANNEL,
        outcome=Outcome("DECLINED"),
        terms=world.terms(),
    )
    with pytest.raises(FailedPrecondition) as caught:
        world.run(contradiction)
    assert caught.value.reason == "CONTRADICTORY_RESULT"
    assert world.balance("ann") == 1000
