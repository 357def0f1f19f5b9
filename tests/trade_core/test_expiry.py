"""Trades whose time is up are closed by the thousand, in transactions that hold many."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, func, select

from paykit.context import BusinessContext
from paykit.events.timers import Timer, TimerRunner
from paykit.settings import TimerSettings
from paykit.store.system import CommandRecord
from tests.paykit.events.waits import until
from tests.trade_core.support import POLICY, Bench, an_order, an_origin
from trade_core.commands import CreateTrade
from trade_core.consumers import PaymentNews
from trade_core.notify import Notifier
from trade_core.tables import Trade
from trade_core.types import TradeType

TRADES = 3_000
TRADES_PER_TRANSACTION = 20  # at least, on average; a batch holds 128

_TRADE = Trade.__table__
_RECORD = CommandRecord.__table__


async def counts(bench: Bench, columns: Sequence[ColumnElement[int]], where: ColumnElement[bool]) -> list[int]:
    """Some counts over the live shards, added up."""
    totals = [0] * len(columns)
    for shard in bench.store.shards("live"):
        async with bench.store.executor("live", shard).engines.reader.connect() as connection:
            row = (await connection.execute(select(*columns).where(where))).one()
            totals = [total + value for total, value in zip(totals, row, strict=True)]
    return totals


async def pay_core_is_not_asked(request: Any, context: BusinessContext) -> Any:
    """What never was paid has no payment to ask about."""
    raise AssertionError(f"asked for {request}")


async def test_thousands_of_trades_expire_in_few_transactions(bench: Bench) -> None:
    kind = TradeType.TOP_UP
    orders = [an_order(buyer_id=f"user.{n}", trade_type=kind, payee_id="", lines=()) for n in range(TRADES)]
    for start in range(0, TRADES, 1_000):
        page = orders[start : start + 1_000]
        await asyncio.gather(*(bench.store.run(CreateTrade(an_origin(), POLICY, order)) for order in page))
    news = PaymentNews(bench.store, POLICY, Notifier(1), pay_core_is_not_asked)
    timers = TimerRunner(bench.store, bench.clock, [Timer("trade_due", Trade, news.on_due)], TimerSettings())
    bench.clock.advance(1_800_000)
    timers.start()

    async def is_done() -> bool:
        return await counts(bench, [func.count()], _TRADE.c.state == "CLOSED") == [TRADES]

    try:
        await until(is_done, timeout_s=60)
    finally:
        await timers.stop()
    columns = [func.count(), func.count(func.distinct(_RECORD.c.commit_id))]
    expired, transactions = await counts(bench, columns, _RECORD.c.name == "ExpireTrade")
    assert expired == TRADES, "each was closed by one command"
    assert transactions <= TRADES / TRADES_PER_TRANSACTION
