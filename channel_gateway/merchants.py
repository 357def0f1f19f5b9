"""Which merchant an order is for: the first part of its business code, "merchant/trade type/scene/channel"."""

from __future__ import annotations

from channel_gateway.tables import ChannelOrder
from paykit.context import BusinessContext, unpack

NO_MERCHANT = "-"  # whoever names none shares the limits of one merchant


def merchant_in(context: BusinessContext) -> str:
    """The merchant that a business context names."""
    return context.biz_code.partition("/")[0] or NO_MERCHANT


def merchant_of(order: ChannelOrder) -> str:
    """The merchant that an order is for."""
    return merchant_in(unpack(order.context))
