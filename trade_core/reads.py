"""Reads that decide nothing: trades as they are now."""

from __future__ import annotations

import asyncio

from sqlalchemy import or_, select

from paykit import context as business_context
from paykit.context import BusinessContext
from paykit.ids import slot_in, slot_of
from paykit.store.store import Store
from trade_core import trade as domain
from trade_core.tables import PayAttempt, Trade, TradeLine, TradeRelation
from trade_core.wire import TradeView

_HOMES_MAX = 65_536
_PARTS_MAX = 1_000

_TRADE = Trade.__table__
_LINE = TradeLine.__table__
_ATTEMPT = PayAttempt.__table__
_RELATION = TradeRelation.__table__


class TradeReads:
    """Reads of one service's trades. NotFound (TRADE_NOT_FOUND) where there is no such trade."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._homes: dict[tuple[bool, str], tuple[str, str]] = {}

    async def trade(self, trade_id: str, shadow: bool) -> Trade:
        """The trade alone."""
        statement = select(_TRADE).where(_TRADE.c.id == trade_id)
        found = await self._store.fetch(Trade, statement, slot=slot_in(trade_id), shadow=shadow)
        if not found:
            raise domain.no_such_trade(trade_id)
        return found[0]

    async def attempts(self, trade_id: str, shadow: bool) -> list[PayAttempt]:
        """All attempts to pay it, the first one first."""
        statement = (
            select(_ATTEMPT).where(_ATTEMPT.c.trade_id == trade_id).order_by(_ATTEMPT.c.attempt_no).limit(_PARTS_MAX)
        )
        return await self._store.fetch(PayAttempt, statement, slot=slot_in(trade_id), shadow=shadow)

    async def with_attempts(self, trade_id: str, shadow: bool) -> TradeView:
        """The trade and the attempts to pay it."""
        trade = await self.trade(trade_id, shadow)
        return TradeView(trade, attempts=await self.attempts(trade_id, shadow) if trade.attempt_count else [])

    async def whole(self, trade_id: str, shadow: bool) -> TradeView:
        """The trade with lines, attempts and relations."""
        slot = slot_in(trade_id)
        lines = select(_LINE).where(_LINE.c.trade_id == trade_id).order_by(_LINE.c.line_no).limit(_PARTS_MAX)
        relations = (
            select(_RELATION)
            .where(or_(_RELATION.c.parent_trade_id == trade_id, _RELATION.c.child_trade_id == trade_id))
            .order_by(_RELATION.c.id)
            .limit(_PARTS_MAX)
        )
        view, line_rows, relation_rows = await asyncio.gather(
            self.with_attempts(trade_id, shadow),
            self._store.fetch(TradeLine, lines, slot=slot, shadow=shadow),
            self._store.fetch(TradeRelation, relations, slot=slot, shadow=shadow),
        )
        return TradeView(view.trade, line_rows, view.attempts, relation_rows)

    async def page(self, buyer_id: str, before_id: str | None, limit: int, shadow: bool) -> list[Trade]:
        """A buyer's trades, newest first, older than ``before_id`` where that is given; at most ``limit``."""
        statement = select(_TRADE).where(_TRADE.c.buyer_id == buyer_id).order_by(_TRADE.c.id.desc()).limit(limit)
        if before_id is not None:
            statement = statement.where(_TRADE.c.id < before_id)
        return await self._store.fetch(Trade, statement, slot=slot_of(buyer_id), shadow=shadow)

    async def home(self, context: BusinessContext, trade_id: str) -> tuple[str, str]:
        """The business id and code of the order a trade belongs to. They never change, so they are kept."""
        key = (context.shadow, trade_id)
        found = self._homes.get(key)
        if found is None:
            found = self.remember(await self.trade(trade_id, context.shadow), context.shadow)
        return found

    def remember(self, trade: Trade, shadow: bool) -> tuple[str, str]:
        """Keeps what ``home`` answers; the oldest is forgotten."""
        if len(self._homes) >= _HOMES_MAX:
            del self._homes[next(iter(self._homes))]
        found = (trade.biz_id, business_context.unpack(trade.context).biz_code)
        self._homes[shadow, trade.id] = found
        return found
