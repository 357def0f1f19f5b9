"""The tables of trade_core. Every row lies on the slot of the trade's buyer."""

from __future__ import annotations

from sqlalchemy import MetaData

from paykit.compensation import CompensationRow
from paykit.store.row import Blob, Code, Id, LongName, Millis, Minor, Name, Row, Small, Title, mapped

metadata = MetaData()


@mapped(metadata, "trade", unique=["order_key"], index=[("buyer_id", "id"), ("biz_id",), ("due_at_ms",)])
class Trade(Row, frozen=True, kw_only=True):
    """A business order of any type ("trd_…")."""

    biz_id: Id
    trade_type: Code  # trade_core.types.TradeType
    state: Code  # trade_core.trade.TradeState
    buyer_id: Name
    payee_id: Name  # empty where the type has none
    merchant_order_no: Name
    order_key: Name  # digest of buyer, payee and merchant's number; the trade's own id where it has no number
    parent_trade_id: Id  # the trade a refund gives back; empty otherwise
    scene: Name
    currency: Code
    amount_minor: Minor
    refunded_minor: Minor
    refundable_minor: Minor
    reason: Name  # a constant
    note: Title  # the caller's words
    attempt_id: Id  # the latest attempt; empty before the first
    attempt_count: Small
    follow_up_count: Small
    ask_count: Small  # how often pay_core was asked about the latest attempt
    created_at_ms: Millis
    paid_at_ms: Millis | None
    expires_at_ms: Millis | None  # None where it is never unpaid: a refund
    due_at_ms: Millis | None  # CREATED: when it expires; PAYING: when pay_core is asked next; None once terminal
    context: Blob  # paykit.context.pack
    paid_minor: Minor = 0  # by itself, or by its parts
    part_count: Small = 0
    part_paid_count: Small = 0
    open_attempt_count: Small = 0  # attempts under way
    group_trade_id: Id = ""  # the merged payment that is paying it just now; empty otherwise
    purpose: Code = ""  # of a refund nobody asked for, which is tried until it is done: DUPLICATE or LATE
    repairs_attempt_id: Id = ""  # of such a refund: the attempt it gives back, which did not pay the parent
    hold_time_to_live_ms: Millis = 0  # of AUTHORIZE and ESCROW types
    hold_expires_at_ms: Millis | None = None
    settle_count: Small = 0  # captures and voids begun; numbers their request ids


@mapped(metadata, "trade_line", index=[("trade_id",)])
class TradeLine(Row, frozen=True, kw_only=True):
    """One line of an order ("lin_…")."""

    biz_id: Id
    trade_id: Id
    line_no: Small  # counts from 1
    sku: Name
    title: Title
    quantity: Minor
    currency: Code
    unit_price_minor: Minor


@mapped(metadata, "trade_relation", index=[("parent_trade_id",), ("child_trade_id",)])
class TradeRelation(Row, frozen=True, kw_only=True):
    """How one trade stands to another ("rel_…")."""

    biz_id: Id
    root_trade_id: Id
    parent_trade_id: Id
    child_trade_id: Id
    kind: Code  # trade_core.trade.RelationKind


@mapped(metadata, "pay_attempt", unique=["attempt_key"], index=[("trade_id",), ("finished_at_ms",)])
class PayAttempt(Row, frozen=True, kw_only=True):
    """One try to pay a trade ("att_…"); also what pay_core knows the payment's source by."""

    biz_id: Id
    trade_id: Id
    attempt_no: Small  # counts from 1 within the trade
    attempt_key: LongName  # "<trade id>/<attempt number>"
    state: Code  # trade_core.trade.AttemptState
    payment_id: Id  # empty until known
    failure_reason: Name
    created_at_ms: Millis
    finished_at_ms: Millis | None
    amount_minor: Minor = 0
    awaits_customer: Small = 0  # 1: only the customer is waited for, so another may be begun meanwhile
    payment_version: Millis = 0  # of the payment when it was last heard of


@mapped(metadata, "merchant_trade", unique=["trade_id"], index=[("payee_id", "trade_id")])
class MerchantTrade(Row, frozen=True, kw_only=True):
    """A trade as its payee lists it ("mtr_…"): a projection on the payee's slot, as of ``trade_version``."""

    biz_id: Id
    trade_id: Id
    payee_id: Name
    trade_version: Millis
    trade_type: Code
    state: Code
    buyer_id: Name
    merchant_order_no: Name
    scene: Name
    currency: Code
    amount_minor: Minor
    paid_minor: Minor
    refunded_minor: Minor
    refundable_minor: Minor
    reason: Name
    created_at_ms: Millis
    paid_at_ms: Millis | None
    expires_at_ms: Millis | None


@mapped(metadata, "compensation", unique=["repair_id"], index=[("due_at_ms",), ("biz_id",)])
class Compensation(CompensationRow, frozen=True, kw_only=True):
    """A repair that reconciliation asked for."""
