"""Whether the provider's book, the ledger and recon agree to the cent, and what open breaks account for the rest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from channel_gateway.channel_order import moved_minor as order_moved_minor
from channel_gateway.sandbox.client import BookEntry, moved_minor, read_book
from channel_gateway.tables import ChannelOrder
from meshctl.invariants.book import accounts_of
from meshctl.invariants.databases import Snapshot
from meshctl.settings import MeshSettings
from pay_core.chart import AccountKind
from pay_core.tables import Account, Adjustment, Instruction
from paykit.ids import is_id
from paykit.store.row import Row
from recon.statements.judging import Settlement
from recon.tables import Break, RecordedOrder, StatementLine
from trade_core.tables import Trade

SIGN = {"CHARGE": 1, "CAPTURE": 1, "REFUND": -1, "PAYOUT": -1}
_TERMINAL_ORDER = ("SUCCEEDED", "FAILED")
_UNDER_WAY_TRADE = ("CREATED", "PAYING", "AUTHORIZED", "SETTLING")

Key = tuple[str, str]  # (channel, currency)
R = TypeVar("R", bound=Row)


class Books(msgspec.Struct, frozen=True):
    """Everything that is compared, as it stands when nothing is under way any more."""

    entries: list[BookEntry]
    channel_of: Mapping[str, str]  # the provider's account -> our channel
    orders: dict[str, ChannelOrder]
    instructions: dict[str, Instruction]
    accounts: list[Account]
    adjustments: list[Adjustment]
    recorded: dict[str, RecordedOrder]
    breaks: list[Break]
    trades: list[Trade]
    lines: dict[str, StatementLine]

    @property
    def open_breaks(self) -> list[Break]:
        """Those that nobody has explained yet."""
        return [one for one in self.breaks if one.state == "OPEN"]


async def read(settings: MeshSettings) -> Books:
    """Reads all live databases and the provider's book."""
    assert settings.sandbox is not None
    base_url = f"http://{settings.sandbox.host}:{settings.sandbox.port}"
    entries = [entry async for entry in read_book(base_url, settings.sandbox.admin_key.get_secret_value())]
    return Books(
        entries=[entry for entry in entries if entry.livemode],
        channel_of={account: channel for account, (channel, _) in accounts_of(settings).items()},
        orders={row.id: row for row in await _rows(settings, "channel_gateway", ChannelOrder)},
        instructions={row.id: row for row in await _rows(settings, "pay_core", Instruction)},
        accounts=await _rows(settings, "pay_core", Account),
        adjustments=await _rows(settings, "pay_core", Adjustment),
        recorded={row.id: row for row in await _rows(settings, "recon", RecordedOrder)},
        breaks=await _rows(settings, "recon", Break),
        trades=await _rows(settings, "trade_core", Trade),
        lines={row.id: row for row in await _rows(settings, "recon", StatementLine)},
    )


async def _rows(settings: MeshSettings, service: str, row_type: type[R]) -> list[R]:
    found: list[R] = []
    for shard, urls in settings.service(service).shards.items():
        snapshot = Snapshot(service, shard, "live", urls.live)
        await snapshot.open()
        try:
            found += [row async for row in snapshot.rows(row_type) if isinstance(row, row_type)]
        finally:
            await snapshot.close()
    return found


class Verdict(msgspec.Struct):
    """What was found. ``totals``: per channel and currency, what each side says came in, minor units."""

    totals: dict[Key, dict[str, int]] = {}
    differences: dict[str, int] = {}  # channel order -> by how much more the provider has moved than the ledger says
    breaks: Counter[str] = msgspec.field(default_factory=Counter)  # open ones, by type
    returned: int = 0  # charges that should not be, and were given back
    problems: list[str] = []


def judge(books: Books) -> Verdict:
    """Compares everything."""
    verdict = Verdict(breaks=Counter(one.type for one in books.open_breaks))
    named = _named(books.open_breaks)
    _terminal(books, verdict)
    there, here = _by_order(books)
    for root in sorted(there.keys() | here.keys()):
        for key in {*there[root], *here[root]}:
            difference = there[root][key] - here[root][key]
            if difference:
                verdict.differences[root] = difference
                _explained(books, root, difference, key, named, verdict)
    _sums(books, there, here, verdict)
    _statements(books, verdict)
    _standing_once(books, named, verdict)
    return verdict


def compare_report(report: Mapping[Key, Counter[str]], verdict: Verdict) -> None:
    """recon's daily report has the sums of the rows that it is made of."""
    for key in report.keys() | verdict.totals.keys():
        sums, totals = report.get(key, Counter()), verdict.totals.get(key, {})
        for said, side in (("orders", "recon"), ("lines", "statements")):
            rows_minor = totals.get(side, 0)
            if sums[said] != rows_minor:
                verdict.problems.append(f"{key}: the report says {sums[said]} of {said}, the rows {rows_minor}")


def _terminal(books: Books, verdict: Verdict) -> None:
    """Every order is at its end, or an open break is about it."""
    in_break = {one.biz_id for one in books.open_breaks}
    for trade in books.trades:
        if trade.state in _UNDER_WAY_TRADE and trade.biz_id not in in_break:
            verdict.problems.append(f"{trade.id} is {trade.state} and no open break is about it")
    for order in books.orders.values():
        if order.state not in _TERMINAL_ORDER and order.biz_id not in in_break:
            verdict.problems.append(f"{order.id} is {order.state} and no open break is about it")


def _root(books: Books, order_id: str) -> str:
    """The order that a stray one's return belongs to: a refund that no payment asked for is a part of its charge."""
    order = books.orders.get(order_id)
    if order is None or order.instruction_id in books.instructions or not order.original_channel_order_id:
        return order_id
    return order.original_channel_order_id


def _by_order(books: Books) -> tuple[dict[str, Counter[Key]], dict[str, Counter[Key]]]:
    """What moved at the provider, and in the ledger, by channel order; per channel and currency."""
    there: dict[str, Counter[Key]] = defaultdict(Counter)
    here: dict[str, Counter[Key]] = defaultdict(Counter)
    for entry in books.entries:
        key = (books.channel_of[entry.account], entry.currency)
        there[_root(books, entry.reference)][key] += moved_minor(entry)
    for instruction in books.instructions.values():
        order = books.orders.get(instruction.channel_order_id or "")
        if order is None or instruction.state != "SUCCEEDED":
            continue
        moved = SIGN.get(order.kind, 0) * (instruction.moved_minor or instruction.amount_minor)
        here[order.id][order.channel, instruction.currency] += moved
    about = {one.id: one for one in books.breaks}
    for adjustment in books.adjustments:
        one = about.get(adjustment.break_id)
        order_id = one.channel_order_id if one is not None else adjustment.break_id
        if adjustment.kind == "ADJUST":
            here[_root(books, order_id)][adjustment.channel, adjustment.currency] += adjustment.amount_minor
    return there, here


def _named(breaks: Iterable[Break]) -> dict[str, list[Break]]:
    """Open breaks by each id that they name."""
    named: dict[str, list[Break]] = defaultdict(list)
    for one in breaks:
        for id_ in {one.match_key.rpartition("/")[2], one.channel_order_id, one.payment_id, one.subject_id} - {""}:
            named[id_].append(one)
    return named


def _explained(
    books: Books, root: str, difference: int, key: Key, named: Mapping[str, list[Break]], verdict: Verdict
) -> None:
    """An open break is about the order, and has at least the difference at risk."""
    order = books.orders.get(root)
    ids = [root] if order is None else [root, order.instruction_id, order.payment_id]
    found = [one for id_ in ids for one in named.get(id_, [])]
    # Of what is unknown still, the risk is what was asked for, whatever the provider says.
    is_unknown = order is not None and order.state not in _TERMINAL_ORDER
    if not any(is_unknown or one.amount_minor >= abs(difference) for one in found):
        what = [f"{one.type} {one.amount_minor}" for one in found]
        state = "unknown here" if order is None else order.state
        verdict.problems.append(f"{root} ({state}): {difference} {key} more there, open breaks: {what or 'none'}")


def _sums(books: Books, there: dict[str, Counter[Key]], here: dict[str, Counter[Key]], verdict: Verdict) -> None:
    """Totals per channel and currency; the ledger's accounts are what its instructions and adjustments make."""
    totals: dict[Key, Counter[str]] = defaultdict(Counter)
    for name, by_order in (("book", there), ("instructions", here)):
        for moved in by_order.values():
            for key, amount_minor in moved.items():
                totals[key][name] += amount_minor
    for account in books.accounts:
        if account.kind == AccountKind.EXTERNAL:
            channel = account.account_key.partition(":")[2].partition("/")[0]
            totals[channel, account.currency]["ledger"] -= account.balance_minor
    for order in books.orders.values():
        if order.state == "SUCCEEDED":
            totals[order.channel, order.currency]["gateway"] += SIGN.get(order.kind, 0) * order_moved_minor(order)
    for recorded in books.recorded.values():
        if recorded.state == "SUCCEEDED":
            moved_here = SIGN.get(recorded.kind, 0) * recorded.amount_minor
            totals[recorded.channel, recorded.currency]["recon"] += moved_here
    for key, by_side in totals.items():
        verdict.totals[key] = dict(by_side)
        if by_side["ledger"] != by_side["instructions"]:
            verdict.problems.append(f"{key}: the ledger has {by_side['ledger']}, its orders {by_side['instructions']}")
        if by_side["gateway"] != by_side["recon"]:
            verdict.problems.append(f"{key}: the gateway has {by_side['gateway']}, recon {by_side['recon']}")


def _statements(books: Books, verdict: Verdict) -> None:
    """What the statements say and recon's orders do not is what the breaks between the two make that are open or
    repaired, to the cent.

    An order whose outcome is not known has no row in recon yet: its line is missing there, and a break.
    """
    apart: Counter[Key] = Counter()
    for line in books.lines.values():
        if line.kind == "MOVEMENT" and line.state == "CURRENT":
            apart[line.channel, line.currency] += line.amount_minor
            totals = verdict.totals.setdefault((line.channel, line.currency), {})
            totals["statements"] = totals.get("statements", 0) + line.amount_minor
    for order in books.recorded.values():
        # What the statements have shown to be astray was given back after them.
        is_later = order.settlement == Settlement.OPEN and is_id(order.instruction_id, "rpr")
        if order.state == "SUCCEEDED" and not is_later:
            apart[order.channel, order.currency] -= SIGN.get(order.kind, 0) * order.amount_minor
    for one in books.breaks:
        # What a repair has made good differs still: a stray charge is no order of ours, and what is adjusted stays one.
        if one.kind == "STATEMENT" and (one.state == "OPEN" or one.repair_id):
            for key, amount_minor in _apart(books, one).items():
                apart[key] -= amount_minor
    for key, left_minor in apart.items():
        if left_minor:
            verdict.problems.append(f"{key}: statements have {left_minor} more than recon, and no break says so")


def _apart(books: Books, one: Break) -> Counter[Key]:
    """By how much more a statement has than recon, as a break between the two has it."""
    apart: Counter[Key] = Counter()
    if one.type == "CURRENCY_MISMATCH":
        line, order = books.lines[one.subject_id], books.recorded[one.channel_order_id]
        apart[line.channel, line.currency] += line.amount_minor
        apart[order.channel, order.currency] -= SIGN[order.kind] * order.amount_minor
    elif one.type != "LATE":
        apart[one.channel, one.currency] += one.difference_minor
    return apart


def _standing_once(books: Books, named: Mapping[str, list[Break]], verdict: Verdict) -> None:
    """At most one charge stands for each instruction: what is beyond it was given back, or is in an open break."""
    charged: dict[str, list[BookEntry]] = defaultdict(list)
    returned: Counter[str] = Counter()
    for entry in books.entries:
        order = books.orders.get(entry.reference)
        if entry.status != "succeeded" or order is None:
            continue
        if entry.kind in ("charge", "capture", "payout"):
            charged[order.instruction_id].append(entry)
        elif entry.kind == "refund" and order.instruction_id not in books.instructions:
            original = books.orders.get(order.original_channel_order_id)
            returned[original.instruction_id if original is not None else ""] += 1
    for instruction_id, entries in charged.items():
        instruction = books.instructions.get(instruction_id)
        wanted = 1 if instruction is not None and instruction.state == "SUCCEEDED" else 0
        over = len(entries) - returned[instruction_id] - wanted
        verdict.returned += min(returned[instruction_id], len(entries))
        ids = [instruction_id, *(entry.reference for entry in entries)]
        ids += [instruction.payment_id] if instruction is not None else []
        if over > 0 and not any(named.get(id_) for id_ in ids):
            verdict.problems.append(f"{instruction_id}: {over} charges too many stand, and no open break says so")
