"""The route of an instruction that is only previewed: asked of channel_gateway, which alone knows how channels fare."""

from __future__ import annotations

import structlog

from pay_core import routes
from pay_core.tables import Instruction
from pay_core.tools.channel import SERVICE, kind_of
from paykit.errors import MeshError
from paykit.rpc.channels import Channels
from paymesh.channel.v1 import channel_service_pb2, channel_service_pb2_grpc
from paymesh.common.v1 import money_pb2
from paymesh.pay.v1 import pay_service_pb2

log = structlog.get_logger(__name__)

ASK_TIMEOUT_S = 1.0


async def preview_route(channels: Channels, instruction: Instruction) -> pay_service_pb2.PreviewRoute:
    """The channels it may take. Where channel_gateway does not answer, the reason stands in their place."""
    route = routes.route_of(instruction.route)
    assert route is not None
    shown = pay_service_pb2.PreviewRoute(instruction_id=instruction.id, channel=instruction.channel)
    request = channel_service_pb2.PreviewRouteRequest(
        kind=kind_of(instruction),
        amount=money_pb2.Money(currency_code=instruction.currency, amount_minor=instruction.amount_minor),
        instruction_id=instruction.id,
        **routes.asked(route),
    )
    try:
        stub = channel_service_pb2_grpc.ChannelServiceStub(channels.get(SERVICE))
        answer = await stub.PreviewRoute(request, timeout=ASK_TIMEOUT_S)
    except MeshError as error:
        log.info("route_not_previewed", reason=error.reason)
        shown.unavailable_reason = error.reason
        return shown
    shown.channel = answer.channel
    shown.candidates.extend(answer.candidates)
    return shown
