"""What the timer of a payment does where several of its instructions wait for an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from sqlalchemy import select

from pay_core.chains import Order
from pay_core.commands import SettleInstruction, StartPayment
from pay_core.consumers import DuePayments
from pay_core.ledger import AccountKind
from pay_core.payment import CHANNEL, Operation, Payee
from pay_core.queries import payment_by_id
from pay_core.rules.book import RuleBook
from pay_core.tables import Instruction, Payment
from pay_core.terms import TermsBook
from pay_core.tools.base import Outcome
from paykit import context as business_context
from paykit.clock import ManualClock
from paykit.errors import FailedPrecondition, Unavailable
from paykit.ids import new_id, slot_of
from paykit.rpc.channels import Channels
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2
from paymesh.common.v1 import money_pb2
from tests.pay_core.ledger_desk import NOON_MS
from tests.pay_core.world import card

SLOT = slot_of("ann")
CONTEXT = business_context.mint(SLOT, NOON_MS, caller="tester")
TERMS = TermsBook(RuleBook(), 15, 3600)
SUCCEEDED = channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED


class Gateway:
    """Answers questions for channel orders: what it has none of it cannot be asked for."""

    def __init__(self) -> None:
        self.orders: dict[str, channel_order_pb2.ChannelOrder] = {}

    def knows(self, instruction: Instruction, amount_minor: int) -> None:
        """It has carried the instruction out over an amount."""
        self.orders[instruction.id] = channel_order_pb2.ChannelOrder(
            channel_order_id=new_id("chn", SLOT, NOON_MS),
            state=SUCCEEDED,
            amount=money_pb2.Money(currency_code="EUR", amount_minor=amount_minor),
        )

    def batch(self, service: str, method: str) -> Callable[..., Awaitable[Any]]:
        """As ``Channels.batch``."""
        return self._ask

    async def _ask(self, request: Any, context: Any) -> Any:
        if request.instruction_id not in self.orders:
            raise Unavailable("not now")
        return channel_service_pb2.GetChannelOrderResponse(channel_order=self.orders[request.instruction_id])


async def settle(store: Store, instruction: Instruction, failure_reason: str = "") -> None:
    """A channel's result arrives."""
    outcome = Outcome(failure_reason, new_id("chn", SLOT, NOON_MS), (instruction.amount_minor, "EUR"))
    command = SettleInstruction(
        Origin.timer(CONTEXT), instruction.payment_id, instruction.id, tool=CHANNEL, outcome=outcome, terms=TERMS.now()
    )
    await store.run(command)


async def two_being_given_back(store: Store) -> tuple[Payment, dict[str, Instruction]]:
    """A payment by three cards, the last of which was declined; what gives the others back, by channel."""
    fundings, payees = (card(300, "one"), card(400, "two"), card(500, "three")), (Payee("bob", AccountKind.USER, 1200),)
    order = Order(Operation.TRANSFER, "ann", "EUR", 1200, fundings, payees)
    view = await store.run(StartPayment(Origin.timer(CONTEXT), order, "", TERMS.now()))
    for instruction, reason in zip(view.chain, ("", "", "CARD_DECLINED"), strict=False):
        await settle(store, instruction, reason)
    view = await payment_by_id(store, view.payment.id, shadow=False)
    reverse = {ins.channel: ins for ins in view.chain if ins.direction == "REVERSE"}
    assert {ins.state for ins in reverse.values()} == {"PROCESSING"}
    return view.payment, reverse


async def fire(store: Store, clock: ManualClock, gateway: Gateway, payment_id: str) -> None:
    """The timer finds the payment due."""
    (payment,) = await store.fetch(
        Payment, select(Payment.__table__).where(Payment.__table__.c.id == payment_id), slot=SLOT, shadow=False
    )
    assert payment.due_at_ms is not None
    clock.advance(payment.due_at_ms - clock.now_ms())
    with business_context.use(CONTEXT):
        await DuePayments(store, cast(Channels, gateway), TERMS).timer().fire(payment)


@pytest.mark.parametrize(("wrong", "right"), [("one", "two"), ("two", "one")])
async def test_a_result_for_a_person_does_not_keep_the_others_from_being_asked(
    store: Store, clock: ManualClock, wrong: str, right: str
) -> None:
    payment, reverse = await two_being_given_back(store)
    gateway = Gateway()
    gateway.knows(reverse[wrong], 1)
    gateway.knows(reverse[right], reverse[right].amount_minor)
    with pytest.raises(FailedPrecondition) as refused:
        await fire(store, clock, gateway, payment.id)
    assert refused.value.reason == "AMOUNT_MISMATCH"
    found = await payment_by_id(store, payment.id, shadow=False)
    assert {ins.channel: ins.state for ins in found.chain if ins.direction == "REVERSE"} == {
        wrong: "PROCESSING",
        right: "SUCCEEDED",
    }


async def test_a_result_for_a_person_does_not_keep_what_is_due_beside_it_from_being_tried_again(
    store: Store, clock: ManualClock
) -> None:
    payment, reverse = await two_being_given_back(store)
    gateway = Gateway()
    gateway.knows(reverse["one"], 1)
    await settle(store, reverse["two"], "PROVIDER_REFUSED")
    with pytest.raises(FailedPrecondition):
        await fire(store, clock, gateway, payment.id)
    found = await payment_by_id(store, payment.id, shadow=False)
    again = [ins for ins in found.chain if ins.direction == "REVERSE" and ins.attempt_no == 2]
    assert [(ins.channel, ins.state) for ins in again] == [("two", "PROCESSING")]
    assert found.payment.due_at_ms == clock.now_ms() + 15_000
