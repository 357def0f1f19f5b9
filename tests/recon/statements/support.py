"""Files of every format, orders that they are matched with, and imports of them."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterable, Sequence

from sqlalchemy import select

from paykit.context import BusinessContext, mint
from paykit.ids import new_id
from paykit.settings import ShardSettings
from paykit.store.command import Command, Origin, Work
from paykit.store.store import Store
from recon.rules import Rules
from recon.settings import ReconSettings
from recon.statements.importing import Header, Importer, Progress
from recon.statements.model import Format
from recon.statements.settings import ChannelStatements, CsvSettings, StatementsSettings
from recon.tables import Break, RecordedOrder, StatementLine

CHANNEL = "sandbox_card"
DAY = "2026-11-29"
NOW_MS = 1_700_000_000_000

CSV = CsvSettings(
    columns={
        "kind": "type",
        "line_id": "line_id",
        "date": "date",
        "amount": "amount",
        "currency": "currency",
        "reference": "reference",
        "provider_reference": "provider_reference",
    },
    kinds={
        "OPENING": "OPENING",
        "CLOSING": "CLOSING",
        "CHARGE": "MOVEMENT",
        "CAPTURE": "MOVEMENT",
        "AUTHORIZE": "MOVEMENT",
        "REFUND": "MOVEMENT",
        "PAYOUT": "MOVEMENT",
        "FEE": "FEE",
    },
)
HEADING = "type,line_id,date,amount,currency,reference,provider_reference"


def statements(**changes: object) -> StatementsSettings:
    """The settings of CHANNEL, whose files are CSV."""
    channels = {CHANNEL: ChannelStatements(format=Format.CSV, csv=CSV)}
    return StatementsSettings.model_validate({"channels": channels, **changes})


def rules() -> Rules:
    """The default rules."""
    shards = {"s0": ShardSettings(live="sqlite+aiosqlite:///unused.db")}
    return ReconSettings(listen="127.0.0.1:0", shards=shards).rules()


def order(slot: int, amount_minor: int = 1_000, **changes: object) -> RecordedOrder:
    """A charge that succeeded on DAY, on a slot."""
    id_ = new_id("chn", slot, NOW_MS)
    fields: dict[str, object] = {
        "id": id_,
        "slot": slot,
        "biz_id": new_id("biz", slot, NOW_MS),
        "payment_id": new_id("pay", slot, NOW_MS),
        "instruction_id": new_id("ins", slot, NOW_MS),
        "channel": CHANNEL,
        "merchant": "m-1",
        "kind": "CHARGE",
        "state": "SUCCEEDED",
        "currency": "EUR",
        "amount_minor": amount_minor,
        "provider_reference": f"ref-{id_[4:]}",
        "failure_reason": "",
        "finished_at_ms": NOW_MS,
        "business_date": DAY,
        "settlement": "OPEN",
        "statement_line_id": None,
        "break_id": None,
    }
    return RecordedOrder(**(fields | changes))  # type: ignore[arg-type]


class Plant(Command[None]):
    """Stores orders of one slot."""

    def __init__(self, context: BusinessContext, orders: Sequence[RecordedOrder]) -> None:
        super().__init__(orders[0].slot, Origin.timer(context))
        self.orders = orders

    def decide(self, work: Work) -> None:
        for one in self.orders:
            work.insert(one, audit=False)


async def plant(store: Store, orders: Iterable[RecordedOrder], *, shadow: bool = False) -> None:
    """Stores orders, as recon records them from events."""
    for one in orders:
        await store.run(Plant(mint(one.slot, NOW_MS, shadow=shadow), [one]))


def row(kind: str, line_id: str, amount: str, reference: str = "", provider_reference: str = "", **more: str) -> str:
    """One row of CSV."""
    day, currency = more.get("day", DAY), more.get("currency", "EUR")
    return f"{kind},{line_id},{day},{amount},{currency},{reference},{provider_reference}"


def of_order(one: RecordedOrder, line_id: str, amount_minor: int | None = None, **more: str) -> str:
    """The row that a provider should have for an order, or one of another amount."""
    sign = -1 if one.kind in ("REFUND", "PAYOUT") else 1
    moved = sign * one.amount_minor if amount_minor is None else amount_minor
    return row(one.kind, line_id, decimal(moved), one.id, **more)


def decimal(amount_minor: int) -> str:
    """An amount of two places: ``decimal(-1050) == "-10.50"``."""
    return f"{'-' if amount_minor < 0 else ''}{abs(amount_minor) // 100}.{abs(amount_minor) % 100:02d}"


def csv_file(rows: Iterable[str]) -> bytes:
    """A file of CSV."""
    return ("\n".join([HEADING, *rows]) + "\n").encode()


async def chunks(data: bytes, size: int = 1_000) -> AsyncIterator[bytes]:
    """The bytes of a file, in pieces."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def header(context: BusinessContext | None = None, **changes: object) -> Header:
    """What is said of a file of CHANNEL and DAY."""
    own = context or mint(0, NOW_MS, caller="test")
    fields: dict[str, object] = {
        "origin": lambda size_bytes, digest: Origin(trigger="rpc", key="", context=own),
        "context": own,
        "channel": CHANNEL,
        "account": "",
        "business_date": DAY,
        "format": None,
        "file_name": "file.csv",
        "size_bytes": 0,
        "sha256": "",
        "replaces_id": "",
    }
    return Header(**(fields | changes))  # type: ignore[arg-type]


async def import_file(importer: Importer, data: bytes, **changes: object) -> Progress:
    """Imports a file to the end."""
    last: Progress | None = None
    async for progress in importer.run(header(**changes), chunks(data)):  # type: ignore[arg-type]
        last = progress
    assert last is not None
    return last


async def orders_in(store: Store, *, shadow: bool = False) -> dict[str, RecordedOrder]:
    """All orders by id."""
    rows = await store.fetch_everywhere(RecordedOrder, select(RecordedOrder.__table__), shadow=shadow)
    return {one.id: one for one in rows}


async def lines_in(store: Store, *, shadow: bool = False) -> list[StatementLine]:
    """All lines, in the order of their files."""
    rows = await store.fetch_everywhere(StatementLine, select(StatementLine.__table__), shadow=shadow)
    return sorted(rows, key=lambda line: (line.statement_id, line.line_no))


async def open_breaks(store: Store) -> list[tuple[str, str, int]]:
    """(type, what it is about, amount at risk) of the open breaks."""
    rows = await store.fetch_everywhere(Break, select(Break.__table__), shadow=False)
    found = [(one.type, one.match_key.partition("/")[2], one.amount_minor) for one in rows if one.state == "OPEN"]
    return sorted(found)


class Dribble(io.RawIOBase):
    """A stream that gives its bytes in pieces of whatever sizes."""

    def __init__(self, data: bytes, sizes: Sequence[int]) -> None:
        super().__init__()
        self._data, self._sizes, self._at, self._turn = data, list(sizes) or [1], 0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        size = min(len(view), self._sizes[self._turn % len(self._sizes)])
        self._turn += 1
        piece = self._data[self._at : self._at + size]
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
