"""Reads that decide nothing: trades as they are now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy import Column, ColumnElement, or_, select
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from paykit import context as business_context
from paykit.context import BusinessContext
from paykit.ids import first_id, slot_in, slot_of
from paykit.store.store import Store
from trade_core import trade as domain
from trade_core.tables import MerchantTrade, PayAttempt, Trade, TradeLine, TradeRelation
from trade_core.wire import TradeView

_HOMES_MAX = 65_536
_PARTS_MAX = 1_000

_SCANNED_MAX = 2_000  # trades looked at for one page that has filters

_TRADE = Trade.__table__
_LINE = TradeLine.__table__
_ATTEMPT = PayAttempt.__table__
_RELATION = TradeRelation.__table__

ListedT = TypeVar("ListedT", Trade, MerchantTrade)


class TradeFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which trades are wanted: of a buyer, or of a payee where ``is_payee``. What is empty or None limits nothing."""

    owner_id: str
    is_payee: bool
    states: tuple[str, ...] = ()
    trade_types: tuple[str, ...] = ()
    created_from_ms: int | None = None
    created_before_ms: int | None = None
    scene: str = ""
    merchant_order_no: str = ""

    @property
    def scope(self) -> str:
        """What a page token is bound to: another list, or other filters, refuse it."""
        return f"trades/{msgspec.json.encode(self).decode()}"

    def conditions(self, columns: ReadOnlyColumnCollection[str, Column[Any]]) -> list[ColumnElement[bool]]:
        """What no index finds."""
        found: list[ColumnElement[bool]] = []
        if self.states:
            found.append(columns.state.in_(self.states))
        if self.trade_types:
            found.append(columns.trade_type.in_(self.trade_types))
        if self.scene:
            found.append(columns.scene == self.scene)
        if self.merchant_order_no:
            found.append(columns.merchant_order_no == self.merchant_order_no)
        return found


class Page(NamedTuple):
    """Some trades of a list; ``next_before_id`` is where the next page begins, empty on the last one."""

    rows: Sequence[Trade | MerchantTrade]
    next_before_id: str


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

    async def page(self, wanted: TradeFilter, before_id: str | None, limit: int, shadow: bool) -> Page:
        """Trades of a buyer or a payee, newest first, older than ``before_id`` where that is given; at most ``limit``.

        Looks at no more than 2,000 trades of the owner: a page that finds little among them is short, or empty, and
        says where the next begins. Cut by the trade's id, which never changes: paging to the end meets each trade that
        was listed when it began, and has what is wanted when it is met, exactly once.
        """
        if wanted.is_payee:
            return await self._page(MerchantTrade, "payee_id", "trade_id", wanted, before_id, limit, shadow)
        return await self._page(Trade, "buyer_id", "id", wanted, before_id, limit, shadow)

    async def _page(
        self,
        row_type: type[ListedT],
        owner_column: str,
        id_column: str,
        wanted: TradeFilter,
        before_id: str | None,
        limit: int,
        shadow: bool,
    ) -> Page:
        columns = row_type.__table__.c
        id_, slot = columns[id_column], slot_of(wanted.owner_id)
        within = [columns[owner_column] == wanted.owner_id]
        if wanted.created_from_ms is not None:
            within.append(id_ >= first_id("trd", wanted.created_from_ms))
        if wanted.created_before_ms is not None:
            within.append(id_ < first_id("trd", wanted.created_before_ms))
        if before_id is not None:
            within.append(id_ < before_id)
        conditions = wanted.conditions(columns)
        last_scanned = await self._scan_end(id_, within, slot, shadow) if conditions else ""
        if last_scanned:
            conditions.append(id_ >= last_scanned)
        statement = select(row_type.__table__).where(*within, *conditions).order_by(id_.desc()).limit(limit + 1)
        rows = await self._store.fetch(row_type, statement, slot=slot, shadow=shadow)
        if len(rows) > limit:
            return Page(rows[:limit], getattr(rows[limit - 1], id_column))
        return Page(rows, last_scanned)

    async def _scan_end(
        self, id_: ColumnElement[str], within: list[ColumnElement[bool]], slot: int, shadow: bool
    ) -> str:
        """The last id that one page looks at; empty where there are not so many. Reads the index alone."""
        statement = select(id_).where(*within).order_by(id_.desc()).limit(1).offset(_SCANNED_MAX - 1)
        shard = self._store.map.shard_of(slot)
        found = await self._store.aggregate("shadow" if shadow else "live", shard, statement)
        return str(found[0][0]) if found else ""

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
