"""Payment tools: each carries out instructions of its kind. All of them stand in ``TOOLS``."""

from __future__ import annotations

from pay_core.payment import BALANCE, CHANNEL
from pay_core.tools.balance import BalanceTool
from pay_core.tools.base import Begun, PaymentTool
from pay_core.tools.channel import ChannelTool

TOOLS: dict[str, PaymentTool] = {
    BALANCE: BalanceTool(),
    CHANNEL: ChannelTool(),
}

__all__ = ["TOOLS", "Begun", "PaymentTool"]
