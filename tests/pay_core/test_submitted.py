"""What leaves for a channel is announced in the same decision that makes the call, once, and nothing else is."""

from __future__ import annotations

from pay_core.ledger import AccountKind
from pay_core.orchestration import PAYMENT_SUBMITTED
from pay_core.payment import Funding
from pay_core.tables import Instruction
from paymesh.event.v1 import events_pb2
from tests.pay_core.world import World, card

SHOP = AccountKind.MERCHANT


def submitted(world: World) -> list[events_pb2.PaymentSubmittedEvent]:
    """All that was announced, in order."""
    events = [event for event in world.events if event.destination == PAYMENT_SUBMITTED]
    return [events_pb2.PaymentSubmittedEvent.FromString(event.body) for event in events]


def test_an_instruction_that_leaves_for_a_channel_is_announced_with_its_amount() -> None:
    world = World()
    view = world.transfer("ann", [card(400)], [("shop", SHOP, 400, "one")], "by card")
    (event,) = submitted(world)
    assert (event.payment_id, event.submit_time.ToMilliseconds()) == (view.payment.id, world.now_ms)
    (instruction,) = event.instructions
    (collect,) = [ins for ins in world.all(Instruction) if ins.id == instruction.instruction_id]
    assert (collect.tool, collect.state) == ("channel", "PROCESSING")
    assert (instruction.amount_minor, instruction.currency_code) == (400, "EUR")
    world.drain()
    assert len(submitted(world)) == 1, "the disbursement to a balance leaves for no channel"


def test_a_payment_that_ends_in_its_own_decision_announces_nothing() -> None:
    world = World()
    world.recharge("ann", 1000, "top-up")
    world.drain()
    before = len(submitted(world))
    view = world.transfer("ann", [Funding(600)], [("shop", SHOP, 600, "one")], "by balance")
    assert world.payment(view).state == "SUCCEEDED"
    assert len(submitted(world)) == before
