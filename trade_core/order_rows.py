"""A whole order as trade_core has it: all trades that belong together, with what they consist of, as of one moment."""

from __future__ import annotations

import graphlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import select, union_all

from paykit.errors import FailedPrecondition
from paykit.store.queries import Query, among
from paykit.store.reads import Snapshot
from paykit.store.row import Row, RowT
from paykit.store.statements import as_rows
from paykit.store.store import Store
from trade_core.tables import PayAttempt, Trade, TradeLine, TradeRelation
from trade_core.wire import TradeView

TRADES_MAX = 500
_ROWS_MAX = {Trade: TRADES_MAX, TradeRelation: 2_000, PayAttempt: 1_000, TradeLine: 5_000}


def _limit(row_type: type[Row], times: int = 1) -> int:
    """One more than an order may have, where each row is found so many times at most."""
    return times * _ROWS_MAX[row_type] + 1


_TRADE, _RELATION = Trade.__table__, TradeRelation.__table__
_LINE, _ATTEMPT = TradeLine.__table__, PayAttempt.__table__
_NAMED = _TRADE.alias("named")

_BUSINESS = Query(select(_TRADE).where(among(_TRADE.c.biz_id)).limit(_limit(Trade)), _TRADE.c.biz_id)
# The trades named, and all others of their businesses: a round less for most orders.
_SAME_BUSINESS = Query(
    select(_TRADE).where(_TRADE.c.biz_id.in_(select(_NAMED.c.biz_id).where(among(_NAMED.c.id)))).limit(_limit(Trade)),
    _NAMED.c.id,
)
# By either end. Each half has its index; a condition with OR might use none.
_RELATIONS = Query(
    union_all(
        select(_RELATION).where(among(_RELATION.c.parent_trade_id)),
        select(_RELATION).where(among(_RELATION.c.child_trade_id)),
    ).limit(_limit(TradeRelation, times=2)),
    _RELATION.c.parent_trade_id,
    _RELATION.c.child_trade_id,
)
_LINES = Query(select(_LINE).where(among(_LINE.c.trade_id)).limit(_limit(TradeLine)), _LINE.c.trade_id)
_ATTEMPTS = Query(select(_ATTEMPT).where(among(_ATTEMPT.c.trade_id)).limit(_limit(PayAttempt)), _ATTEMPT.c.trade_id)


async def read_order(
    store: Store, slot: int, trade_ids: Collection[str], biz_ids: Collection[str], *, shadow: bool
) -> list[TradeView]:
    """The trades named, and all that belong to them: by relation, directly or through others, or by business id.

    Parents before children, ties by age. One snapshot: every trade, line, attempt and relation is of the same moment.
    FailedPrecondition (TREE_TOO_LARGE) beyond 500 trades, 1,000 attempts, 2,000 relations or 5,000 lines.
    """
    async with store.snapshot(slot, shadow=shadow) as snapshot:
        trades, relations = await _closure(snapshot, set(trade_ids), set(biz_ids))
        ids = sorted(trades)
        lines = await _found(snapshot, TradeLine, _LINES, ids)
        attempts = await _found(snapshot, PayAttempt, _ATTEMPTS, ids)
    of_trade: dict[str, TradeView] = {id_: TradeView(trade, [], [], []) for id_, trade in trades.items()}
    for line in sorted(lines, key=lambda row: row.line_no):
        of_trade[line.trade_id].lines.append(line)
    for attempt in sorted(attempts, key=lambda row: row.attempt_no):
        of_trade[attempt.trade_id].attempts.append(attempt)
    for relation in sorted(relations, key=lambda row: row.id):
        for id_ in dict.fromkeys((relation.parent_trade_id, relation.child_trade_id)):
            of_trade[id_].relations.append(relation)
    return [of_trade[id_] for id_ in _parents_first(trades.values(), relations)]


async def _closure(
    snapshot: Snapshot, ids: set[str], biz_ids: set[str]
) -> tuple[dict[str, Trade], list[TradeRelation]]:
    """Follows trades to their relatives, round by round, until nothing new is named."""
    trades: dict[str, Trade] = {}
    relations: dict[str, TradeRelation] = {}
    while ids or biz_ids:
        found = await _found(snapshot, Trade, _SAME_BUSINESS, sorted(ids)) if ids else []
        found += await _found(snapshot, Trade, _BUSINESS, sorted(biz_ids)) if biz_ids else []
        fresh = {trade.id: trade for trade in found if trade.id not in trades}
        trades |= fresh
        _refuse_more_than(len(trades), Trade)
        if not fresh:
            break
        named = sorted(fresh)
        relations |= {row.id: row for row in await _found(snapshot, TradeRelation, _RELATIONS, named, named)}
        _refuse_more_than(len(relations), TradeRelation)
        biz_ids = set()  # who was found brought all of its business along
        ids = {id_ for trade in fresh.values() for id_ in (trade.parent_trade_id, trade.group_trade_id) if id_}
        for relation in relations.values():
            ids |= {relation.parent_trade_id, relation.child_trade_id}
        ids -= set(trades)
    return trades, list(relations.values())


def _parents_first(trades: Iterable[Trade], relations: Iterable[TradeRelation]) -> list[str]:
    parents: dict[str, set[str]] = defaultdict(set)
    for trade in trades:
        parents[trade.id] |= {trade.parent_trade_id} - {""}
    for relation in relations:
        parents[relation.child_trade_id].add(relation.parent_trade_id)
    sorter = graphlib.TopologicalSorter(parents)
    sorter.prepare()
    result: list[str] = []
    while sorter.is_active():
        level = sorted(sorter.get_ready())
        result += level
        sorter.done(*level)
    return result


async def _found(snapshot: Snapshot, row_type: type[RowT], query: Query, *values: Sequence[str]) -> list[RowT]:
    """The rows that ``query`` finds."""
    found = as_rows(row_type, await snapshot.query(query, *values))
    _refuse_more_than(len({row.id for row in found}), row_type)
    return found


def _refuse_more_than(count: int, row_type: type[RowT]) -> None:
    if count > _ROWS_MAX[row_type]:
        raise FailedPrecondition(
            f"the order has more than {_ROWS_MAX[row_type]} rows of {row_type.__entity__}", reason="TREE_TOO_LARGE"
        )
