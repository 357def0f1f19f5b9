"""Ids, events and a store for the tests of recon."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import select

from paykit.clock import Clock, ManualClock
from paykit.context import BusinessContext, use
from paykit.ids import new_id, slot_in, slot_of
from paykit.settings import ExecutorSettings, ShardSettings
from paykit.store.command import Origin
from paykit.store.store import Store
from paykit.store.system import Outbox
from paymesh.channel.v1 import channel_order_pb2
from paymesh.common.v1 import money_pb2
from paymesh.event.v1 import events_pb2
from paymesh.pay.v1 import payment_pb2
from paymesh.trade.v1 import trade_pb2
from recon.commands import TakeFacts
from recon.expiry import Expiry
from recon.heard import Heard
from recon.matching import Fact, MatchKind, MatchState, match_key
from recon.pair import Pair
from recon.rules import Rules
from recon.settings import ReconSettings
from recon.sides import match_id, unpack
from recon.tables import Break, Match
from tests.schema import make_schema

SLOT = 7
NOW_MS = 1_700_000_000_000


def mint(prefix: str, slot: int = SLOT) -> str:
    """A new id on ``slot``."""
    return new_id(prefix, slot, NOW_MS)


def settings(shards: dict[str, ShardSettings]) -> ReconSettings:
    """recon's settings with a window of 30 s."""
    return ReconSettings(listen="127.0.0.1:0", shards=shards)


def rules() -> Rules:
    """The default rules."""
    return settings({"s0": ShardSettings(live="sqlite+aiosqlite:///unused.db")}).rules()


@asynccontextmanager
async def opened(shards: dict[str, ShardSettings], clock: Clock) -> AsyncIterator[Store]:
    """A migrated, started store of recon."""
    await make_schema("recon", shards)
    store = Store("recon", shards, 1, clock, ExecutorSettings())
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


class CardPayment:
    """One payment by card to a payee on the same slot, as each service reports it."""

    def __init__(self, amount_minor: int = 500, *, shadow: bool = False, slot: int = SLOT) -> None:
        self.amount = money_pb2.Money(currency_code="EUR", amount_minor=amount_minor)
        self.context = BusinessContext(biz_id=mint("biz", slot), shadow=shadow, caller="test")
        self.payment_id = mint("pay", slot)
        self.attempt_id = mint("att", slot)
        self.trade_id = mint("trd", slot)
        self.collect_id = mint("ins", slot)
        self.disburse_id = mint("ins", slot)
        self.payee_id = owner_on(slot)

    def trade(self, state: trade_pb2.TradeState.ValueType = trade_pb2.TRADE_STATE_PAID) -> trade_pb2.Trade:
        """As trade_core has it."""
        is_paid = state == trade_pb2.TRADE_STATE_PAID
        attempt = trade_pb2.PayAttempt(
            attempt_id=self.attempt_id,
            attempt_no=1,
            payment_id=self.payment_id,
            state=trade_pb2.ATTEMPT_STATE_EFFECTIVE if is_paid else trade_pb2.ATTEMPT_STATE_PAYING,
        )
        return trade_pb2.Trade(trade_id=self.trade_id, state=state, amount=self.amount, attempts=[attempt])

    def payment(
        self, state: payment_pb2.PaymentState.ValueType = payment_pb2.PAYMENT_STATE_SUCCEEDED
    ) -> payment_pb2.Payment:
        """As pay_core has it; the instructions have not begun where it is PROCESSING."""
        of_instruction = {
            payment_pb2.PAYMENT_STATE_SUCCEEDED: payment_pb2.INSTRUCTION_STATE_SUCCEEDED,
            payment_pb2.PAYMENT_STATE_FAILED: payment_pb2.INSTRUCTION_STATE_FAILED,
        }.get(state, payment_pb2.INSTRUCTION_STATE_PROCESSING)
        payment = payment_pb2.Payment(
            payment_id=self.payment_id,
            state=state,
            amount=self.amount,
            source_id=self.attempt_id,
            instructions=[
                payment_pb2.Instruction(
                    instruction_id=self.collect_id,
                    action=payment_pb2.INSTRUCTION_ACTION_COLLECT,
                    tool="channel",
                    channel="sandbox_card",
                    state=of_instruction,
                    amount=self.amount,
                ),
                payment_pb2.Instruction(
                    instruction_id=self.disburse_id,
                    action=payment_pb2.INSTRUCTION_ACTION_DISBURSE,
                    tool="balance",
                    owner_id=self.payee_id,
                    state=of_instruction,
                    amount=self.amount,
                ),
            ],
        )
        payment.create_time.FromMilliseconds(NOW_MS)
        return payment

    def order(
        self, state: channel_order_pb2.ChannelOrderState.ValueType = channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED
    ) -> channel_order_pb2.ChannelOrder:
        """As channel_gateway has it."""
        order = channel_order_pb2.ChannelOrder(
            channel_order_id="chn_" + self.collect_id[4:],
            instruction_id=self.collect_id,
            payment_id=self.payment_id,
            amount=self.amount,
            state=state,
            biz_id=self.context.biz_id,
            channel="sandbox_card",
            kind=channel_order_pb2.CHANNEL_ORDER_KIND_CHARGE,
        )
        if state in (channel_order_pb2.CHANNEL_ORDER_STATE_SUCCEEDED, channel_order_pb2.CHANNEL_ORDER_STATE_FAILED):
            order.finish_time.FromMilliseconds(NOW_MS + 100)
        return order

    def journal(self, leg: events_pb2.BookingLeg.ValueType = events_pb2.BOOKING_LEG_LOCAL) -> events_pb2.JournalEvent:
        """The journal that books both instructions, as pay_core announces it; ``leg`` is the payee's."""
        amount_minor = self.amount.amount_minor
        return events_pb2.JournalEvent(
            journal_id=mint("jnl"),
            slot=SLOT,
            payment_id=self.payment_id,
            currency_code=self.amount.currency_code,
            instructions=[
                events_pb2.BookedInstruction(
                    instruction_id=self.collect_id, amount_minor=amount_minor, leg=events_pb2.BOOKING_LEG_LOCAL
                ),
                events_pb2.BookedInstruction(instruction_id=self.disburse_id, amount_minor=amount_minor, leg=leg),
            ],
        )

    def arrival(self) -> events_pb2.JournalEvent:
        """The journal that receives the payee's money on another slot."""
        booked = events_pb2.BookedInstruction(
            instruction_id=self.disburse_id,
            amount_minor=self.amount.amount_minor,
            leg=events_pb2.BOOKING_LEG_RECEIVED,
        )
        return events_pb2.JournalEvent(
            payment_id=self.payment_id, slot=SLOT + 1, currency_code="EUR", instructions=[booked]
        )

    def take(self, facts: list[Fact]) -> TakeFacts:
        """The command of an event that says ``facts``."""
        return TakeFacts(Origin.fold(self.context), Heard(self.payment_id, tuple(facts)), rules())


def owner_on(slot: int) -> str:
    """An owner who lives on ``slot``."""
    return next(name for number in itertools.count() if slot_of(name := f"owner-{number}") == slot)


async def row_of(store: Store, payment: CardPayment) -> Match:
    """The match of a payment, as stored."""
    found = await store.get(
        Match, match_id(payment.payment_id), slot=slot_in(payment.payment_id), shadow=payment.context.shadow
    )
    assert found is not None
    return found


async def pair_of(store: Store, kind: MatchKind, key: str, *, shadow: bool = False) -> Pair | None:
    """The pair of two records, as stored."""
    rows = await store.fetch(Match, select(Match.__table__), slot=slot_in(key), shadow=shadow)
    pairs = {pair.match_key: pair for row in rows for pair in unpack(row).pairs}
    return pairs.get(match_key(kind, key))


async def breaks_in(store: Store, kind: MatchKind | None = None, *, shadow: bool = False) -> list[Break]:
    """All breaks, or those of one kind, oldest first."""
    rows = await store.fetch_everywhere(Break, select(Break.__table__), shadow=shadow)
    return sorted([row for row in rows if kind in (None, row.kind)], key=lambda row: row.id)


async def announced(store: Store) -> list[tuple[str, str]]:
    """Subject and break id of the events that left, oldest first."""
    rows = await store.fetch_everywhere(Outbox, select(Outbox.__table__), shadow=False)
    events = [(row, events_pb2.BreakEvent.FromString(row.body)) for row in sorted(rows, key=lambda row: row.id)]
    return [(row.destination, getattr(event, "break").break_id) for row, event in events]


async def expire(
    expiry: Expiry, store: Store, clock: ManualClock, payment: CardPayment, said: list[Fact], kind: MatchKind, key: str
) -> Pair:
    """Takes ``said``, lets the window pass, fires for the payment, and gives one pair as it is then."""
    await store.run(payment.take(said))
    pair = await pair_of(store, kind, key)
    assert pair is not None
    assert pair.state == MatchState.WAITING
    clock.advance(30_000)
    with use(payment.context):
        await expiry.fire(await row_of(store, payment))
    after = await pair_of(store, kind, key)
    assert after is not None
    return after
