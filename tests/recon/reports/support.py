"""Rows of every kind by lot, and reports of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from paykit.context import mint
from paykit.ids import new_id
from paykit.store.command import Command, Origin, Work
from paykit.store.row import Row
from paykit.store.store import Store
from recon.matching import BreakType, MatchKind
from recon.statements.judging import Settlement
from recon.tables import Break, RecordedOrder, StatementLine
from tests.recon.statements.support import order

DAYS = ("2026-11-27", "2026-11-28", "2026-11-29", "2026-11-30")
DAY_MS = 86_400_000
FIRST_MS = 1_795_737_600_000  # 2026-11-27, 00:00 UTC
HOSTILE = "<b>&\"'=1"


class PlantRows(Command[None]):
    """Stores rows of one slot."""

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__(rows[0].slot, Origin.timer(mint(rows[0].slot, FIRST_MS)))
        self.rows = rows

    def decide(self, work: Work) -> None:
        for row in self.rows:
            work.insert(row, audit=False)


async def plant(store: Store, rows: Sequence[Row]) -> None:
    """Stores rows, those of a slot together."""
    by_slot: dict[int, list[Row]] = {}
    for row in rows:
        by_slot.setdefault(row.slot, []).append(row)
    for some in by_slot.values():
        await store.run(PlantRows(some))


def rows(seed: int, count: int) -> tuple[list[RecordedOrder], list[StatementLine], list[Break]]:
    """``count`` orders, and lines and breaks of some of them and of none."""
    draw = random.Random(seed)
    orders = [_order(draw) for _ in range(count)]
    lines = [_line(draw, draw.choice([*orders, None])) for _ in range(count)]
    breaks = [_break(draw, draw.choice([*orders, None])) for _ in range(count // 2)]
    return orders, lines, breaks


def _order(draw: random.Random) -> RecordedOrder:
    return order(
        draw.choice((0, 3, 511, 512, 1023)),
        draw.randrange(1, 10**12),
        channel=draw.choice(("card", "bank")),
        currency=draw.choice(("EUR", "JPY")),
        merchant=draw.choice(("", "m-1", HOSTILE)),
        kind=draw.choice(("CHARGE", "REFUND")),
        state=draw.choice(("SUCCEEDED", "FAILED")),
        business_date=draw.choice(DAYS),
        settlement=draw.choice(list(Settlement)).value,
    )


def _line(draw: random.Random, of: RecordedOrder | None) -> StatementLine:
    slot = draw.choice((1, 600)) if of is None else of.slot
    id_ = new_id("stl", slot, FIRST_MS, draw.getrandbits)
    return StatementLine(
        id=id_,
        slot=slot,
        statement_id=new_id("stm", 0, FIRST_MS, draw.getrandbits),
        channel=draw.choice(("card", "bank")) if of is None else of.channel,
        account="a",
        line_no=1,
        provider_line_id="",
        kind=draw.choice(("MOVEMENT", "FEE", "TRANSFER")),
        match_ref=id_ if of is None else of.id,
        provider_reference="",
        amount_minor=draw.randrange(-(10**12), 10**12),
        fee_minor=draw.randrange(0, 1000),
        currency=draw.choice(("EUR", "JPY")),
        business_date=draw.choice(DAYS),
        is_reversal=0,
        state=draw.choice(("CURRENT", "CURRENT", "REPLACED")),
        difference=draw.choice(("", "", BreakType.AMOUNT_MISMATCH.value)),
        break_id=None,
    )


def _break(draw: random.Random, of: RecordedOrder | None) -> Break:
    slot = draw.choice((1, 600)) if of is None else of.slot
    at_ms = FIRST_MS + draw.randrange(-40 * DAY_MS, 4 * DAY_MS)
    is_open = draw.random() < 0.6
    return Break(
        id=new_id("brk", slot, at_ms, draw.getrandbits),
        slot=slot,
        biz_id=new_id("biz", slot, at_ms, draw.getrandbits),
        type=draw.choice((BreakType.AMOUNT_MISMATCH, BreakType.UNEXPLAINED)).value,
        state="OPEN" if is_open else "CLOSED",
        kind=draw.choice((MatchKind.STATEMENT, MatchKind.PAY_LEDGER)).value,
        match_key=f"STATEMENT/{slot}",
        amount_minor=draw.randrange(0, 10**12),
        currency=draw.choice(("EUR", "JPY", "")),
        owner="x",
        evidence="",
        close_reason="" if is_open else "OVER",
        opened_at_ms=at_ms,
        closed_at_ms=None if is_open else at_ms + 1,
        channel=draw.choice(("", "card")),
        channel_order_id="" if of is None else of.id,
        difference_minor=draw.randrange(-1000, 1000),
    )
