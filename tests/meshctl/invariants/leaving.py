"""An order of the small system that leaves a channel for another, and a charge there that nobody counts on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import select

from channel_gateway.channels.base import ReceivedNotification
from channel_gateway.commands import Submission, TakeNotification
from channel_gateway.doubt_commands import AnswerDoubt
from channel_gateway.requests import submission
from channel_gateway.routing import Judged, onward
from channel_gateway.tables import ChannelDoubt, ChannelOrder
from paykit import context as business
from paykit.store.command import Origin
from paymesh.channel.v1 import channel_service_pb2

if TYPE_CHECKING:
    from tests.meshctl.invariants.small_world import SmallWorld

FIRST = "sandbox_card"


def submitted(request: channel_service_pb2.SubmitChannelOrderRequest) -> Submission:
    """What is asked for, on the first of its channels, all of which are well."""
    asked, route = submission(request)
    if route is None:
        return asked
    way = onward(route, [Judged(one, True) for one in route.candidates])
    return msgspec.structs.replace(asked, candidates=frozenset([one.channel for one in route.candidates]), onward=way)


async def charge_twice(world: SmallWorld) -> None:
    """The channel that the one order has left turns out to have charged too: a stray charge, in an open break."""
    store, table = world.stores["channel_gateway"], ChannelOrder.__table__
    (order,) = await store.fetch_everywhere(ChannelOrder, select(table).where(table.c.attempt_no == 2), shadow=False)
    said = await world.booked(msgspec.structs.replace(order, channel=FIRST), "live")
    context = msgspec.structs.replace(business.unpack(order.context), caller=f"provider:{FIRST}")
    received = ReceivedNotification(notification_id=f"late-{order.id}", channel_order_id=order.id, result=said)
    origin = Origin.event(context, context.caller, received.notification_id)
    await store.run(TakeNotification(origin, FIRST, world.policy_of(FIRST), received, b"{}"))
    (doubt,) = await store.fetch_everywhere(ChannelDoubt, select(ChannelDoubt.__table__), shadow=False)
    asked_at_ms = world.clock.now_ms()
    await store.run(AnswerDoubt(Origin.timer(context), doubt, world.policy_of(FIRST), said, asked_at_ms))
    await world.carry()
