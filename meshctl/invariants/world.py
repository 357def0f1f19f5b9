"""What invariants look at: the rows of all services that belong to one range of slots, in one mode.

Whatever belongs to one business order lies on one slot in every service, so a range of slots can be judged alone. What
crosses slots is brought to the slot of what it names: legs of a transit to their instruction, the provider's orders to
their channel order, what payees list to the trade, business ids and the ids that open messages name to their own slot.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from channel_gateway.sandbox.client import BookEntry
from channel_gateway.tables import ChannelAttempt, ChannelDoubt, ChannelOrder, ChannelOverride, Notification
from channel_gateway.tables import Compensation as GatewayCompensation
from pay_core.tables import (
    Account,
    Adjustment,
    BalanceSnapshot,
    Book,
    Closing,
    Compensation,
    Coupon,
    Entry,
    Hold,
    Instruction,
    Journal,
    LimitUsage,
    Payment,
    PaymentCase,
    RuleVersion,
)
from paykit.compensation import CompensationRow
from paykit.ids import SLOT_COUNT, is_id, slot_in
from paykit.store.command import Change
from paykit.store.row import Row
from paykit.store.system import CommandRecord, DeadLetter, Outbox, ShardEpoch
from recon.tables import (
    Break,
    LateRecord,
    Match,
    RecordedOrder,
    Repair,
    Statement,
    StatementBalance,
    StatementLine,
    Sweep,
)
from trade_core.tables import Compensation as TradeCompensation
from trade_core.tables import MerchantTrade, PayAttempt, Trade, TradeLine, TradeRelation

T = TypeVar("T", bound=msgspec.Struct)

SYSTEM_TABLES: tuple[type[Row], ...] = (CommandRecord, Outbox, DeadLetter, ShardEpoch)
TABLES: Mapping[str, tuple[type[Row], ...]] = {
    "recon": (
        Match,
        Break,
        RecordedOrder,
        LateRecord,
        Sweep,
        Repair,
        Statement,
        StatementBalance,
        StatementLine,
        *SYSTEM_TABLES,
    ),
    "trade_core": (Trade, TradeLine, TradeRelation, PayAttempt, MerchantTrade, TradeCompensation, *SYSTEM_TABLES),
    "pay_core": (
        Account,
        Journal,
        Entry,
        Payment,
        Instruction,
        Hold,
        Book,
        Closing,
        BalanceSnapshot,
        LimitUsage,
        Coupon,
        PaymentCase,
        RuleVersion,
        Adjustment,
        Compensation,
        *SYSTEM_TABLES,
    ),
    "channel_gateway": (
        ChannelOrder,
        ChannelAttempt,
        ChannelDoubt,
        Notification,
        ChannelOverride,
        GatewayCompensation,
        *SYSTEM_TABLES,
    ),
}

# Where each service keeps the repairs that it was asked for.
COMPENSATIONS: Mapping[str, type[CompensationRow]] = {
    "trade_core": TradeCompensation,
    "pay_core": Compensation,
    "channel_gateway": GatewayCompensation,
}

_HOLDING_UP = ("REVERSAL_FAILED", "RELEASE_FAILED")  # a payment waits for the decision of such a case

SKEW_MS = 10_000  # the databases are not read at the same instant: what is younger may be known to one of them only


class Leg(msgspec.Struct, frozen=True):
    """That a journal books an instruction: the whole of it (LOCAL), or one end of a transit (SENT, RECEIVED)."""

    instruction_id: str
    leg: str
    amount_minor: int
    currency: str
    journal_id: str
    posted_at_ms: int


class Named(msgspec.Struct, frozen=True):
    """An id that a message names which has not taken effect yet: unacknowledged, or a ticket that is open."""

    id: str


class BizUse(msgspec.Struct, frozen=True):
    """That a record carries a business id."""

    biz_id: str


class Listed(msgspec.Struct, frozen=True):
    """A trade as its payee lists it, brought to the trade's own slot. ``told`` is what the list says of it."""

    trade_id: str
    trade_version: int
    told: tuple[str, int, int, int, int]  # state, amount, paid, refunded and refundable


class Flaw(msgspec.Struct, frozen=True):
    """What the text of a row must not hold, or cannot be read: ``what`` is CARD, SECRET, RESULT,
    CHANGES or BOOKINGS."""

    what: str
    table: str
    id: str


DERIVED: tuple[type[msgspec.Struct], ...] = (Leg, Named, BizUse, Listed, Flaw, BookEntry)


class Scope(msgspec.Struct, frozen=True):
    """What holds for a whole run. Times are Unix milliseconds.

    ``settled``: nothing is under way any more. ``databases``: (service, shard, mode) -> epoch, as configured.
    ``accounts``: the provider's account -> (channel, mode). ``slots``: (service, shard) -> the slots it holds.
    """

    now_ms: int
    settled: bool
    stated_ms: int
    databases: Mapping[tuple[str, str, str], int]
    slots: Mapping[tuple[str, str], range]
    accounts: Mapping[str, tuple[str, str]]

    def has_book_of(self, channel: str, mode: str) -> bool:
        """Whether the provider's book that is read here is that of a channel. Of other providers statements tell."""
        return (channel, mode) in self.accounts.values()

    def may_be_open(self, since_ms: int) -> bool:
        """Whether what began at ``since_ms`` may still be under way."""
        return not self.settled and since_ms > self.now_ms - self.stated_ms

    def may_be_unseen(self, since_ms: int) -> bool:
        """Whether what was written at ``since_ms`` may be missing in a database that was read earlier."""
        return not self.settled and since_ms > self.now_ms - SKEW_MS


class Slice:
    """Rows of one range of slots and one mode. ``other`` is the same range in the other mode, where there is one."""

    def __init__(self, mode: str, number: int, scope: Scope) -> None:
        self.mode, self.number, self.scope = mode, number, scope
        self.other: Slice | None = None
        self._rows: dict[tuple[str, type[msgspec.Struct]], list[Any]] = defaultdict(list)
        self._shards: dict[tuple[str, type[msgspec.Struct]], list[str]] = defaultdict(list)

    def add(self, service: str, shard: str, row: msgspec.Struct) -> None:
        """One more row; ``service`` and ``shard`` are empty for what was derived."""
        self._rows[service, type(row)].append(row)
        self._shards[service, type(row)].append(shard)

    def rows(self, row_type: type[T], service: str = "") -> list[T]:
        """The rows of a table: of one service, or of all that have it."""
        if service:
            return self._rows.get((service, row_type), [])
        return [row for (_, kind), rows in self._rows.items() if kind is row_type for row in rows]

    def placed(self) -> Iterable[tuple[str, str, Row]]:
        """(service, shard, row) of every stored row."""
        for (service, kind), rows in self._rows.items():
            if service:
                for shard, row in zip(self._shards[service, kind], rows, strict=True):
                    yield service, shard, row

    # What most invariants look things up by

    @cached_property
    def trades(self) -> dict[str, Trade]:
        return {row.id: row for row in self.rows(Trade)}

    @cached_property
    def attempts(self) -> dict[str, PayAttempt]:
        return {row.id: row for row in self.rows(PayAttempt)}

    @cached_property
    def attempts_of(self) -> dict[str, list[PayAttempt]]:
        """By trade."""
        return grouped(self.rows(PayAttempt), "trade_id")

    @cached_property
    def payments(self) -> dict[str, Payment]:
        return {row.id: row for row in self.rows(Payment)}

    @cached_property
    def payments_for(self) -> dict[str, list[Payment]]:
        """By what they were made for."""
        return grouped(self.rows(Payment), "source_id")

    @cached_property
    def instructions(self) -> dict[str, Instruction]:
        return {row.id: row for row in self.rows(Instruction)}

    @cached_property
    def chains(self) -> dict[str, list[Instruction]]:
        """By payment."""
        return grouped(self.rows(Instruction), "payment_id")

    @cached_property
    def orders(self) -> dict[str, ChannelOrder]:
        return {row.id: row for row in self.rows(ChannelOrder)}

    @cached_property
    def orders_for(self) -> dict[str, list[ChannelOrder]]:
        """By instruction."""
        return grouped(self.rows(ChannelOrder), "instruction_id")

    @cached_property
    def booked(self) -> dict[str, list[BookEntry]]:
        """The provider's orders by reference: the id of our channel order."""
        return grouped(self.rows(BookEntry), "reference")

    @cached_property
    def legs(self) -> dict[str, list[Leg]]:
        """By instruction."""
        return grouped(self.rows(Leg), "instruction_id")

    @cached_property
    def changes(self) -> dict[str, list[Change]]:
        """The changes on record, by the record they changed; audit rows that cannot be read are flaws."""
        changes: dict[str, list[Change]] = {}
        for record in self.rows(CommandRecord):
            for change in decode_changes(record.changes) or ():
                changes.setdefault(change.id, []).append(change)
        return changes

    @cached_property
    def moved_at_ms(self) -> dict[str, int]:
        """By id of a record, when it last came into another state."""
        return self._latest(lambda change: change.from_state != change.to_state)

    @cached_property
    def changed_at_ms(self) -> dict[str, int]:
        """By id of a record, when anything about it was last put on record."""
        return self._latest(lambda change: True)

    def _latest(self, counts: Callable[[Change], bool]) -> dict[str, int]:
        times: dict[str, int] = {}
        for record in self.rows(CommandRecord):
            for change in decode_changes(record.changes) or ():
                if counts(change):
                    times[change.id] = max(times.get(change.id, 0), record.created_at_ms)
        return times

    @cached_property
    def explained(self) -> frozenset[str]:
        """Ids that an open break names: of the shared record, and of the payment and channel order it belongs to."""
        return frozenset().union(*(named_by_break(row) for row in self.rows(Break) if row.state == "OPEN"))

    @cached_property
    def repairs(self) -> dict[str, Repair]:
        return {row.id: row for row in self.rows(Repair)}

    @cached_property
    def repaired(self) -> frozenset[str]:
        """Ids that a break names which a repair has closed."""
        return frozenset().union(*(named_by_break(row) for row in self.rows(Break) if row.repair_id))

    @cached_property
    def in_case(self) -> dict[str, int]:
        """Payment id -> minor units that lie in its clearing because a person has not decided yet where to put them."""
        found: dict[str, int] = {}
        for case in self.rows(PaymentCase):
            if case.state == "OPEN" and case.type in _HOLDING_UP:
                amount_minor = case.amount_minor if case.type == "REVERSAL_FAILED" else 0
                found[case.payment_id] = found.get(case.payment_id, 0) + amount_minor
        return found

    @cached_property
    def entries_of(self) -> dict[str, list[Entry]]:
        """By account."""
        return grouped(self.rows(Entry), "account_id")

    @cached_property
    def relations_of(self) -> dict[str, list[TradeRelation]]:
        """By parent."""
        return grouped(self.rows(TradeRelation), "parent_trade_id")

    def is_paid_alone(self, trade: Trade) -> bool:
        """Whether a PAID trade is paid by an attempt of its own: not by parts, and not together with others."""
        effective = self.attempts.get(trade.attempt_id)
        is_by_order = effective is not None and effective.trade_id != trade.id
        # An attempt to pay the whole may have come to nothing before the parts did it.
        is_by_parts = trade.part_paid_count > 0 and (effective is None or effective.state != "EFFECTIVE")
        return not is_by_order and not is_by_parts

    def left_in(self, kind: str) -> Counter[tuple[str, str]]:
        """(payment id, unit) -> what the entries of each payment leave in the accounts of a kind."""
        left: Counter[tuple[str, str]] = Counter()
        for account in self.rows(Account):
            if account.kind == kind:
                for entry in self.entries_of.get(account.id, ()):
                    left[entry.payment_id, entry.currency] += entry.amount_minor
        return left

    @cached_property
    def announced(self) -> frozenset[str]:
        """Ids that a message names which has not taken effect yet."""
        return frozenset(row.id for row in self.rows(Named))

    def is_explained(self, *ids: str | None) -> bool:
        """Whether an open break names one of ``ids``."""
        return any(id_ in self.explained for id_ in ids)

    def is_repaired(self, *ids: str | None) -> bool:
        """Whether a break that a repair has closed names one of ``ids``: the difference was real, and is made good."""
        return any(id_ in self.repaired for id_ in ids)

    def is_held_up(self, payment_id: str) -> bool:
        """Whether a payment waits for a person: an open break or case names it, or an instruction of it."""
        ids = [ins.id for ins in self.chains.get(payment_id, [])]
        return payment_id in self.in_case or self.is_explained(payment_id, *ids)

    def may_lag(self, since_ms: int, *ids: str) -> bool:
        """Whether the effect of what happened at ``since_ms`` may be missing yet: a message or a break accounts for it,
        or too little time has passed."""
        if self.scope.may_be_open(since_ms) or self.is_explained(*ids):
            return True
        return any(id_ in self.announced for id_ in ids)


_decode_changes = msgspec.json.Decoder(list[Change]).decode


def decode_changes(text: str) -> list[Change] | None:
    """The changes that an audit row lists; None where it cannot be read."""
    try:
        return _decode_changes(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def grouped(rows: Iterable[T], column: str) -> dict[str, list[T]]:
    """Rows by the value of a column of text."""
    groups: dict[str, list[T]] = {}
    for row in rows:
        groups.setdefault(getattr(row, column), []).append(row)
    return groups


def named_by_break(row: Break) -> set[str]:
    """The records that a break is about."""
    return {row.match_key.rpartition("/")[2], row.payment_id, row.channel_order_id} - {""}


def slot_named(id_: str, fallback: int = 0) -> int:
    """The slot an id carries; ``fallback`` where it is none of ours."""
    return slot_in(id_) if is_id(id_) else fallback


def bucket_of(slot: int, count: int) -> int:
    """Which of ``count`` ranges a slot belongs to; what lies outside of all goes to the first or the last."""
    return min(max(slot, 0), SLOT_COUNT - 1) * count // SLOT_COUNT
