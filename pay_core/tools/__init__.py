"""Payment tools: each carries out instructions of its kind. All of them stand in ``TOOLS``."""

from __future__ import annotations

from pay_core.chart import AccountKind
from pay_core.payment import COUPON_ACCOUNT, ESCROW, FEES, SUSPENSE
from pay_core.tools.balance import BalanceTool
from pay_core.tools.base import Begun, PaymentTool
from pay_core.tools.channel import ChannelTool
from pay_core.tools.coupon import CouponTool
from pay_core.tools.internal import InternalTool
from pay_core.tools.points import PointsTool

_TOOLS: list[PaymentTool] = [
    BalanceTool(),
    ChannelTool(),
    CouponTool(),
    PointsTool(),
    InternalTool(FEES, AccountKind.FEES),
    InternalTool(ESCROW, AccountKind.ESCROW),
    InternalTool(SUSPENSE, AccountKind.SUSPENSE),
    InternalTool(COUPON_ACCOUNT, AccountKind.COUPON),
]
TOOLS: dict[str, PaymentTool] = {tool.name: tool for tool in _TOOLS}

__all__ = ["TOOLS", "Begun", "PaymentTool"]
