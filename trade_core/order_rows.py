"""A whole order as trade_core has it: all trades that belong together, with what they consist of, as of one moment."""

from __future__ import annotations

import graphlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Column, select

from paykit.errors import FailedPrecondition
from paykit.store.reads import Snapshot
from paykit.store.row import RowT
from paykit.store.store import Store
from trade_core.tables import PayAttempt, Trade, TradeLine, TradeRelation
from trade_core.wire import TradeView

TRADES_MAX = 500
_ROWS_MAX = {Trade: TRADES_MAX, TradeRelation: 2_000, PayAttempt: 1_000, TradeLine: 5_000}


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
        lines = await _by(snapshot, TradeLine, "trade_id", ids)
        attempts = await _by(snapshot, PayAttempt, "trade_id", ids)
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
    asked_ids: set[str] = set()
    asked_biz_ids: set[str] = set()
    while ids - asked_ids or biz_ids - asked_biz_ids:
        named, in_business = sorted(ids - asked_ids), sorted(biz_ids - asked_biz_ids)
        asked_ids |= ids
        asked_biz_ids |= biz_ids
        found = await _by(snapshot, Trade, "id", [id_ for id_ in named if id_ not in trades])
        found += await _by(snapshot, Trade, "biz_id", in_business)
        trades |= {trade.id: trade for trade in found}
        _refuse_more_than(len(trades), Trade)
        for column in ("parent_trade_id", "child_trade_id"):
            relations |= {row.id: row for row in await _by(snapshot, TradeRelation, column, named)}
        _refuse_more_than(len(relations), TradeRelation)
        ids |= set(trades)
        biz_ids |= {trade.biz_id for trade in found}
        for trade in found:
            ids |= {id_ for id_ in (trade.parent_trade_id, trade.group_trade_id) if id_}
        for relation in relations.values():
            ids |= {relation.parent_trade_id, relation.child_trade_id}
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


async def _by(snapshot: Snapshot, row_type: type[RowT], column: str, values: Sequence[str]) -> list[RowT]:
    """The rows whose ``column`` is one of ``values``."""
    if not values:
        return []
    table = row_type.__table__
    key: Column[Any] = table.c[column]
    found = await snapshot.fetch(row_type, select(table).where(key.in_(values)).limit(_ROWS_MAX[row_type] + 1))
    _refuse_more_than(len(found), row_type)
    return found


def _refuse_more_than(count: int, row_type: type[RowT]) -> None:
    if count > _ROWS_MAX[row_type]:
        raise FailedPrecondition(
            f"the order has more than {_ROWS_MAX[row_type]} rows of {row_type.__entity__}", reason="TREE_TOO_LARGE"
        )
