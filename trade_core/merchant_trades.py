"""The payee's list of its trades: a projection on the payee's slot, fed by the events of trades.

A trade lies on its buyer's slot, and its payee must not be looked for on all of them. Each event carries the whole
trade with its version; a later version replaces an earlier one, so the list comes out the same in whatever order and
however often events come. What heals it: an event stays in the outbox until the bus has it, is sent again where the
bus lost what it had, is delivered until it is taken, and in the end becomes a dead letter that can be replayed. The
next event of the same trade also brings all that the lost ones would have.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from paykit.context import BusinessContext
from paykit.ids import slot_of
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from paymesh.common.v1.money_pb2 import Money
from paymesh.event.v1.events_pb2 import TradeEvent
from paymesh.trade.v1 import trade_pb2
from trade_core import wire
from trade_core.tables import MerchantTrade

CONSUMER = "merchant_trades"

_STATE_BY_NUMBER = {number: name for name, number in wire.TRADE_STATE.items()}


class ProjectTrade(Command[None]):
    """Takes a trade as an event told it, unless a later version of it is listed already."""

    def __init__(self, origin: Origin, trade: trade_pb2.Trade) -> None:
        super().__init__(slot_of(trade.payee_id), origin)
        self.trade = trade

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(MerchantTrade, self.trade.trade_id, "trade_id")

    def decide(self, work: Work) -> None:
        listed = work.get(MerchantTrade, self.trade.trade_id, "trade_id")
        if listed is None:
            work.insert(row_of(self.trade, work.new_id("mtr"), self.slot), audit=False)
        elif listed.trade_version < self.trade.version:
            later = row_of(self.trade, listed.id, self.slot)
            work.update(msgspec.structs.replace(later, version=listed.version), audit=False)


def to_command(context: BusinessContext, message_id: str, subject: str, body: bytes) -> ProjectTrade | None:
    """The command for an event of a trade; None for a trade without a payee."""
    trade = TradeEvent.FromString(body).trade
    if not trade.payee_id:
        return None
    return ProjectTrade(Origin.event(context, CONSUMER, message_id), trade)


def row_of(trade: trade_pb2.Trade, id_: str, slot: int) -> MerchantTrade:
    """A trade as it is listed."""
    return MerchantTrade(
        id=id_,
        slot=slot,
        biz_id=trade.biz_id,
        trade_id=trade.trade_id,
        payee_id=trade.payee_id,
        trade_version=trade.version,
        trade_type=wire.TYPE_BY_NUMBER[trade.trade_type].value,
        state=_STATE_BY_NUMBER[trade.state],
        buyer_id=trade.buyer_id,
        merchant_order_no=trade.merchant_order_no,
        scene=trade.scene,
        currency=trade.amount.currency_code,
        amount_minor=trade.amount.amount_minor,
        paid_minor=trade.paid_minor,
        refunded_minor=trade.refunded_minor,
        refundable_minor=trade.refundable_minor,
        reason=trade.reason,
        created_at_ms=trade.create_time.ToMilliseconds(),
        paid_at_ms=trade.paid_time.ToMilliseconds() if trade.HasField("paid_time") else None,
        expires_at_ms=trade.expire_time.ToMilliseconds() if trade.HasField("expire_time") else None,
    )


def as_trade(row: MerchantTrade) -> trade_pb2.Trade:
    """A listed trade: what a payee needs to know of it, as of the version it carries."""
    message = trade_pb2.Trade(
        trade_id=row.trade_id,
        biz_id=row.biz_id,
        trade_type=wire.TRADE_TYPE[row.trade_type],
        state=wire.TRADE_STATE[row.state],
        buyer_id=row.buyer_id,
        payee_id=row.payee_id,
        merchant_order_no=row.merchant_order_no,
        scene=row.scene,
        amount=Money(currency_code=row.currency, amount_minor=row.amount_minor),
        paid_minor=row.paid_minor,
        refunded_minor=row.refunded_minor,
        refundable_minor=row.refundable_minor,
        reason=row.reason,
        create_time=wire.timestamp(row.created_at_ms),
        version=row.trade_version,
    )
    if row.paid_at_ms is not None:
        message.paid_time.CopyFrom(wire.timestamp(row.paid_at_ms))
    if row.expires_at_ms is not None:
        message.expire_time.CopyFrom(wire.timestamp(row.expires_at_ms))
    return message
