"""Which merchant an order is for: the first part of its business code, "merchant/trade type/scene/channel"."""

from __future__ import annotations

import re

from channel_gateway.tables import ChannelOrder
from paykit.context import BusinessContext

NO_MERCHANT = "-"  # whoever names none shares the limits of one merchant

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def named_merchant(context: BusinessContext) -> str:
    """The merchant that a business context names; empty where it names none, or nothing that could be one."""
    named = context.biz_code.partition("/")[0]
    return named if _NAME.fullmatch(named) else ""


def merchant_of(order: ChannelOrder) -> str:
    """The merchant that an order is for."""
    return order.merchant or NO_MERCHANT
