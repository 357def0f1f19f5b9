"""What the tests of trade_core share: rows, contexts, payments, and a store with a clock that a test moves."""

from __future__ import annotations

import itertools
from typing import Any

from sqlalchemy import func, select

from paykit.clock import ManualClock
from paykit.context import BusinessContext, mint
from paykit.ids import new_id, slot_of
from paykit.store.command import Origin
from paykit.store.store import Store
from paykit.store.system import CommandRecord, Outbox
from paymesh.common.v1.money_pb2 import Money
from paymesh.pay.v1 import payment_pb2
from trade_core.catalogue import load
from trade_core.commands import CreateTrade, PayTrade
from trade_core.payments import PaymentResult, result_of
from trade_core.refunds import RefundTrade
from trade_core.results import ApplyPaymentResult
from trade_core.steps import LineInput, NewTrade, Policy
from trade_core.tables import PayAttempt, Trade, TradeLine, TradeRelation
from trade_core.trade import PayMethod
from trade_core.types import Tool, TradeType
from trade_core.wire import TradeView

POLICY = Policy(load(), ask_after_ms=5_000, ask_after_ms_max=60_000)
BUYER = "user.alice"
MERCHANT = "merchant.shop"
SLOT = slot_of(BUYER)
NOW_MS = 1_700_000_000_000
CARD = PayMethod(Tool.CARD, "tok_visa")
BALANCE = PayMethod(Tool.BALANCE)
WALLET = PayMethod(Tool.WALLET, "tok_wallet")
ALL_TABLES = (Trade, TradeLine, TradeRelation, PayAttempt, Outbox, CommandRecord)

_numbers = itertools.count(1)


def fresh(prefix: str = "req") -> str:
    """A name that no other test has."""
    return f"{prefix}-{next(_numbers)}"


def a_context(**changes: Any) -> BusinessContext:
    """A context as the edge mints it."""
    return mint(SLOT, NOW_MS, caller="tester", **changes)


def an_origin(context: BusinessContext | None = None, request_id: str = "", body: Money | None = None) -> Origin:
    """The origin of a call of its own; the same again where ``request_id`` is given. ``body``: what is asked."""
    request = Money(amount_minor=1) if body is None else body
    return Origin.rpc(context or a_context(), "Method", BUYER, request_id or fresh(), request)


def an_order(**changes: Any) -> NewTrade:
    """A purchase of 10.00 EUR, not paid yet."""
    fields: dict[str, Any] = {
        "trade_type": TradeType.PURCHASE,
        "buyer_id": BUYER,
        "payee_id": MERCHANT,
        "merchant_order_no": "",
        "scene": "checkout",
        "currency": "EUR",
        "amount_minor": 1000,
        "time_to_live_ms": 1_800_000,
        "lines": (LineInput("sku-1", "Tea", 2, 500),),
    }
    return NewTrade(**(fields | changes))


def a_trade_row(**changes: Any) -> Trade:
    """A paid purchase of 10.00 EUR."""
    trade_id = new_id("trd", SLOT, NOW_MS)
    fields: dict[str, Any] = {
        "id": trade_id,
        "slot": SLOT,
        "biz_id": new_id("biz", SLOT, NOW_MS),
        "trade_type": "PURCHASE",
        "state": "PAID",
        "buyer_id": BUYER,
        "payee_id": MERCHANT,
        "merchant_order_no": "",
        "order_key": trade_id,
        "parent_trade_id": "",
        "scene": "",
        "currency": "EUR",
        "amount_minor": 1000,
        "refunded_minor": 0,
        "refundable_minor": 1000,
        "reason": "",
        "note": "",
        "attempt_id": "",
        "attempt_count": 0,
        "follow_up_count": 0,
        "ask_count": 0,
        "created_at_ms": NOW_MS,
        "paid_at_ms": None,
        "expires_at_ms": NOW_MS + 1000,
        "due_at_ms": None,
        "context": b"",
    }
    return Trade(**(fields | changes))


def a_payment(
    attempt_id: str, is_success: bool = True, amount_minor: int = 1000, **changes: Any
) -> payment_pb2.Payment:
    """A payment of pay_core that ended."""
    state = payment_pb2.PAYMENT_STATE_SUCCEEDED if is_success else payment_pb2.PAYMENT_STATE_FAILED
    fields: dict[str, Any] = {
        "payment_id": new_id("pay", SLOT, NOW_MS),
        "source_id": attempt_id,
        "state": state,
        "amount": Money(currency_code="EUR", amount_minor=amount_minor),
        "failure_reason": "" if is_success else "CARD_DECLINED",
    }
    return payment_pb2.Payment(**(fields | changes))


def a_result(attempt_id: str, is_success: bool = True, amount_minor: int = 1000, **changes: Any) -> PaymentResult:
    """How such a payment ended."""
    result = result_of(a_payment(attempt_id, is_success, amount_minor, **changes))
    assert result is not None
    return result


class Bench:
    """A store and what the tests do with it."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock

    async def create(self, **changes: Any) -> TradeView:
        """A new order, by a call of its own."""
        return await self.store.run(CreateTrade(an_origin(), POLICY, an_order(**changes)))

    async def pay(self, trade_id: str, *methods: PayMethod) -> TradeView:
        """Begins to pay, by card where nothing is given."""
        return await self.store.run(PayTrade(an_origin(), POLICY, trade_id, methods or (CARD,)))

    async def refund(self, trade_id: str, amount_minor: int | None = None) -> TradeView:
        """Begins a refund."""
        currency = "" if amount_minor is None else "EUR"
        return await self.store.run(RefundTrade(an_origin(), POLICY, trade_id, currency, amount_minor, "broken"))

    async def apply(self, result: PaymentResult) -> TradeView:
        """Takes a result, as a message of its own."""
        origin = Origin.event(a_context(), "trade_core.payments", fresh("msg"))
        view = await self.store.run(ApplyPaymentResult(origin, POLICY, result))
        assert view is not None
        return view

    async def paid(self, **changes: Any) -> TradeView:
        """An order that is paid."""
        created = await self.create(pay_methods=(CARD,), **changes)
        return await self.apply(a_result(created.trade.attempt_id, amount_minor=created.trade.amount_minor))

    async def trade(self, trade_id: str) -> Trade:
        """The trade as it is stored."""
        statement = select(Trade.__table__).where(Trade.__table__.c.id == trade_id)
        (row,) = await self.store.fetch(Trade, statement, slot=SLOT, shadow=False)
        return row

    async def outbox(self, trade_id: str) -> list[Outbox]:
        """What left about one trade: calls for its attempts, and its events."""
        table = Outbox.__table__
        rows = await self.store.fetch(Outbox, select(table).order_by(table.c.id), slot=SLOT, shadow=False)
        attempts = await self.attempts(trade_id)
        known = (trade_id.encode(), *(attempt.id.encode() for attempt in attempts))
        return [row for row in rows if any(id_ in row.body for id_ in known)]

    async def events(self, trade_id: str) -> list[Outbox]:
        """The events about one trade."""
        return [row for row in await self.outbox(trade_id) if row.kind == "event"]

    async def attempts(self, trade_id: str) -> list[PayAttempt]:
        """The attempts to pay a trade, in order."""
        table = PayAttempt.__table__
        statement = select(table).where(table.c.trade_id == trade_id).order_by(table.c.attempt_no)
        return await self.store.fetch(PayAttempt, statement, slot=SLOT, shadow=False)

    async def refunds(self, trade_id: str) -> list[Trade]:
        """The refunds of a trade, asked for or not, by id."""
        table = Trade.__table__
        statement = select(table).where(table.c.trade_type == "REFUND", table.c.slot == SLOT).order_by(table.c.id)
        rows = await self.store.fetch(Trade, statement, slot=SLOT, shadow=False)
        return [row for row in rows if row.parent_trade_id == trade_id]

    async def counts(self) -> dict[str, int]:
        """How many rows each table has, over all shards."""
        result = {}
        for row_type in ALL_TABLES:
            table = row_type.__table__
            count = 0
            for shard in self.store.shards("live"):
                async with self.store.executor("live", shard).engines.reader.connect() as connection:
                    count += (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            result[table.name] = count
        return result
