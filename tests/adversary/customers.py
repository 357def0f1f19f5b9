"""Customers who do not wait for ever: an order whose provider takes too long is left, and looked at in the end."""

from __future__ import annotations

import asyncio

from paykit.rpc.channels import Channels
from paymesh.trade.v1 import trade_pb2
from tests.faults.client import UNDER_WAY, Client

PATIENCE_S = 45.0
LOOK_INTERVAL_S = 2.0


class ImpatientClient(Client):
    """As the client of the fault run. ``left``: the orders that it did not wait for."""

    def __init__(self, channels: Channels) -> None:
        super().__init__(channels)
        self.left: set[str] = set()

    async def followed(self, trade_id: str) -> trade_pb2.Trade:
        """The trade once no payment of it is under way, or as it is when patience is at an end."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await super().followed(trade_id)
        except TimeoutError:
            self.left.add(trade_id)
            return await self.trade(trade_id)

    async def close_left(self) -> None:
        """Closes each order that was left as soon as it can be paid again, and lets money go that is held for it by
        then; goes on until there are none, or it is cancelled."""
        waiting = set(self.left)
        while waiting:
            for trade_id in sorted(waiting):
                trade = await self.trade(trade_id)
                if trade.state == trade_pb2.TRADE_STATE_CREATED:
                    await self.close(trade_id)
                if trade.state == trade_pb2.TRADE_STATE_AUTHORIZED:
                    await self.void(trade_id)
                if trade.state not in UNDER_WAY:
                    waiting.discard(trade_id)
            await asyncio.sleep(LOOK_INTERVAL_S)
