"""Rows as tests want them, put into a store without the commands that would make them."""

from __future__ import annotations

from collections.abc import Sequence

from paykit.ids import new_id
from paykit.store.command import Command, Work
from paykit.store.row import Row
from paykit.store.store import Store
from tests.trade_core.support import NOW_MS, SLOT, a_trade_row, an_origin
from trade_core.tables import PayAttempt, Trade, TradeRelation


class Plant(Command[None]):
    """Inserts rows of one slot."""

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__(rows[0].slot, an_origin())
        self.rows = rows

    def decide(self, work: Work) -> None:
        for row in self.rows:
            work.insert(row, audit=False)


async def plant(store: Store, *rows: Row) -> None:
    """Puts rows of one slot into a store."""
    await store.run(Plant(rows))


def trade_at(time_ms: int, **changes: object) -> Trade:
    """A trade made ``time_ms`` after NOW_MS."""
    id_ = new_id("trd", SLOT, NOW_MS + time_ms)
    return a_trade_row(**({"id": id_, "order_key": id_, "created_at_ms": NOW_MS + time_ms} | changes))


def related(parent: Trade, child: Trade, kind: str) -> TradeRelation:
    """A relation of two trades."""
    return TradeRelation(
        id=new_id("rel", SLOT, NOW_MS),
        slot=SLOT,
        biz_id=child.biz_id,
        root_trade_id=parent.id,
        parent_trade_id=parent.id,
        child_trade_id=child.id,
        kind=kind,
    )


def attempted(trade: Trade, attempt_no: int = 1, payment_id: str = "") -> PayAttempt:
    """An attempt to pay a trade."""
    return PayAttempt(
        id=new_id("att", SLOT, NOW_MS),
        slot=SLOT,
        biz_id=trade.biz_id,
        trade_id=trade.id,
        attempt_no=attempt_no,
        attempt_key=f"{trade.id}/{attempt_no}",
        state="EFFECTIVE" if payment_id else "PAYING",
        payment_id=payment_id,
        failure_reason="",
        created_at_ms=NOW_MS,
        finished_at_ms=None,
    )
