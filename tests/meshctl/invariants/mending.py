"""Repairs in the small system: the consumers that take them, and breaks that were repaired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import select

from channel_gateway import compensation_commands
from pay_core import adjustment_commands
from pay_core.tables import Payment
from paykit import compensation
from paykit import context as business
from paykit.context import BusinessContext
from paykit.events.consumers import Consumer
from recon import repair_due
from recon.matching import BreakType, MatchKind, match_key
from recon.rules import Rules
from tests.recon.repair_support import Desk, rules_with
from trade_core import compensation as trade_compensation
from trade_core.notify import Notifier
from trade_core.tables import Compensation

if TYPE_CHECKING:
    from tests.meshctl.invariants.small_world import SmallWorld


def consumers(rules: Rules) -> dict[str, Consumer]:
    """What services hear of repairs, and recon of what became of them."""
    return {
        "pay_core": compensation.consumer(adjustment_commands.DESK, adjustment_commands.TakeCompensation),
        "trade_core": compensation.consumer(trade_compensation.DESK, trade_compensation.TakeCompensation),
        "channel_gateway": compensation.consumer(compensation_commands.DESK, compensation_commands.TakeCompensation),
        "recon": repair_due.consumer(rules),
    }


async def mend(world: SmallWorld) -> None:
    """Breaks and their repairs: by two people against suspense, in vain by rule, and one that waits for a checker."""
    recon, rules = world.stores["recon"], rules_with(delay_s=1.0)
    desk = Desk(recon, rules, slot=7)
    adjusted = await desk.opened(BreakType.MISSING_HERE, 250, payment_id="", channel_order_id="")
    await desk.advance(await desk.approve(await desk.propose(adjusted)))
    await world.carry()
    # The trade was told of the payment long ago: there is nothing to complete.
    payment = await _a_purchase(world)
    desk = Desk(recon, rules, slot=payment.slot)
    kind = MatchKind.TRADE_PAY
    names = {"match_key": match_key(kind, payment.id), "payment_id": payment.id}
    told = await desk.opened(BreakType.MISSING_FIRST, payment.amount_minor, kind, **names)
    world.clock.advance(1_000)
    for repair in await desk.repairs(told):
        await desk.advance(repair)
    await world.carry()
    await _complete(world)
    await world.carry()
    await desk.match(await desk.broken(told))
    await desk.propose(await desk.opened(BreakType.MISSING_HERE, -30, payment_id="", channel_order_id=""))
    await world.carry()


async def _complete(world: SmallWorld) -> None:
    """trade_core asks pay_core for the results that repairs are to take."""
    store = world.stores["trade_core"]

    async def get_payment(request: Any, context: BusinessContext) -> Any:
        with business.use(context):
            return await world.apis["PayService"].GetPayment(request, None)

    completion = trade_compensation.Completion(store, world.policy, Notifier(1), get_payment)
    due = select(Compensation.__table__).where(Compensation.__table__.c.due_at_ms.is_not(None))
    for row in await store.fetch_everywhere(Compensation, due, shadow=False):
        with business.use(msgspec.structs.replace(business.unpack(row.context), caller="timer:compensation_due")):
            await completion.fire(row)


async def _a_purchase(world: SmallWorld) -> Payment:
    """A payment that SUCCEEDED and paid a trade."""
    table = Payment.__table__
    wanted = select(table).where(table.c.operation == "TRANSFER", table.c.state == "SUCCEEDED").order_by(table.c.id)
    found = await world.stores["pay_core"].fetch_everywhere(Payment, wanted.limit(1), shadow=False)
    return found[0]
