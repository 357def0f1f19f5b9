"""A charge that strays in the small system: declined, taken after all, and given back by two people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from sqlalchemy import select

from channel_gateway.channel_order import ProviderResult, ResultStatus, Source
from channel_gateway.commands import ApplyResult, MarkSending
from channel_gateway.compensation_commands import GiveBack, LookAtRefund
from channel_gateway.doubt_commands import AnswerDoubt
from channel_gateway.tables import ChannelDoubt, ChannelOrder, Compensation
from paykit import context as business
from paykit.context import BusinessContext
from paykit.store.command import Origin
from paykit.store.row import Row
from recon.tables import Break
from tests.recon.repair_support import Desk, rules_with

if TYPE_CHECKING:
    from tests.meshctl.invariants.small_world import SmallWorld

_DECLINED = ProviderResult(status=ResultStatus.FAILED, failure_reason="CARD_DECLINED")


async def go_astray(world: SmallWorld) -> None:
    """Takes the charge that is not answered yet for declined, until the provider says that it has taken it."""
    gateway, clock = world.stores["channel_gateway"], world.clock
    order = await _one(world, "channel_gateway", ChannelOrder, state="UNKNOWN")
    context = replace(business.unpack(order.context), caller="worker")
    origin, policy = Origin.timer(context), world.policy_of(order.channel)
    await gateway.run(ApplyResult(origin, order.id, policy, _DECLINED, Source.QUERY, clock.now_ms()))
    await world.carry()
    charged = await world.provider(replace(order, token="tok_ok"), context)
    await gateway.run(ApplyResult(origin, order.id, policy, charged, Source.NOTIFICATION))
    await world.carry()
    doubt = await _one(world, "channel_gateway", ChannelDoubt, state="OPEN", channel_order_id=order.id)
    doubt = await gateway.run(AnswerDoubt(origin, doubt, policy, charged, clock.now_ms()))
    await world.carry()
    await _give_back(world, doubt, context)


async def _give_back(world: SmallWorld, doubt: ChannelDoubt, context: BusinessContext) -> None:
    gateway, origin = world.stores["channel_gateway"], Origin.timer(context)
    late = await _one(world, "recon", Break, type="LATE", subject_id=doubt.id)
    desk = Desk(world.stores["recon"], rules_with(), slot=late.slot)
    repair = await desk.advance(await desk.approve(await desk.propose(late)))
    await world.carry()
    row = await _one(world, "channel_gateway", Compensation, repair_id=repair.id)
    await gateway.run(GiveBack(origin, row, doubt))
    refund = await _one(world, "channel_gateway", ChannelOrder, instruction_id=repair.id)
    policy = world.policy_of(refund.channel)
    await gateway.run(MarkSending(origin, refund.id, policy))
    done = await world.provider(refund, context)
    await gateway.run(ApplyResult(origin, refund.id, policy, done, Source.REPLY))
    row = await _one(world, "channel_gateway", Compensation, repair_id=repair.id)
    await gateway.run(LookAtRefund(origin, row))
    await world.carry()
    assert (await desk.repair(repair)).state == "DONE"


async def _one(world: SmallWorld, service: str, row_type: type[Row], **values: str) -> Any:
    table = row_type.__table__
    wanted = select(table)
    for column, value in values.items():
        wanted = wanted.where(table.c[column] == value)
    (found,) = await world.stores[service].fetch_everywhere(row_type, wanted, shadow=False)
    return found
