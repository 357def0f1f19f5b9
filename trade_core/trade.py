"""What a trade may do: states, the split of its amount over pay methods, expiry, and what may be given back.

Pure: no I/O, no clock. Amounts are minor units of the trade's currency.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from paykit.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotFound
from paykit.state_machine import StateMachine
from trade_core.tables import PayAttempt, Trade
from trade_core.types import CUSTOMER_TOOLS, OUTSIDE_TOOLS, PayeeKind, Tool, TradeTypeSpec


class TradeState(StrEnum):
    """Where a trade is in its life."""

    CREATED = "CREATED"
    PAYING = "PAYING"
    PAID = "PAID"
    FAILED = "FAILED"
    CLOSED = "CLOSED"
    AUTHORIZED = "AUTHORIZED"
    SETTLING = "SETTLING"
    PARTIALLY_PAID = "PARTIALLY_PAID"


class AttemptState(StrEnum):
    """Where a pay attempt is."""

    PAYING = "PAYING"
    EFFECTIVE = "EFFECTIVE"
    FAILED = "FAILED"
    AUTHORIZED = "AUTHORIZED"
    RETURNED = "RETURNED"


class RelationKind(StrEnum):
    """How one trade stands to another."""

    MERGED = "MERGED"
    SPLIT = "SPLIT"
    REFUND_OF = "REFUND_OF"
    REPAIR_OF = "REPAIR_OF"
    DUPLICATE_OF = "DUPLICATE_OF"
    INSTALMENT_OF = "INSTALMENT_OF"


class Purpose(StrEnum):
    """Why a refund was made that nobody asked for."""

    DUPLICATE = "DUPLICATE"
    LATE = "LATE"


TRADE = StateMachine(
    "trade",
    TradeState,
    TradeState.CREATED,
    {
        # PAID without PAYING: a part that is paid together with others.
        TradeState.CREATED: frozenset(
            {TradeState.PAYING, TradeState.PARTIALLY_PAID, TradeState.PAID, TradeState.CLOSED}
        ),
        TradeState.PAYING: frozenset(
            {TradeState.PAID, TradeState.FAILED, TradeState.CREATED, TradeState.AUTHORIZED, TradeState.CLOSED}
        ),
        # PAID or CLOSED without SETTLING: pay_core captures when asked by others, and voids at expiry by itself.
        TradeState.AUTHORIZED: frozenset({TradeState.SETTLING, TradeState.PAID, TradeState.CLOSED}),
        TradeState.SETTLING: frozenset({TradeState.PAID, TradeState.AUTHORIZED, TradeState.CLOSED}),
        TradeState.PARTIALLY_PAID: frozenset({TradeState.PAID, TradeState.CLOSED}),
        TradeState.CLOSED: frozenset({TradeState.PAID}),  # a late success of a type that re-opens
        TradeState.PAID: frozenset(),
        TradeState.FAILED: frozenset(),
    },
)
OVER = frozenset({TradeState.PAID, TradeState.FAILED, TradeState.CLOSED})

ATTEMPT = StateMachine(
    "pay_attempt",
    AttemptState,
    AttemptState.PAYING,
    {
        AttemptState.PAYING: frozenset(
            {AttemptState.EFFECTIVE, AttemptState.FAILED, AttemptState.AUTHORIZED, AttemptState.RETURNED}
        ),
        AttemptState.AUTHORIZED: frozenset({AttemptState.EFFECTIVE, AttemptState.FAILED}),
        AttemptState.EFFECTIVE: frozenset(),
        AttemptState.FAILED: frozenset(),
        AttemptState.RETURNED: frozenset(),
    },
)


class PayMethod(msgspec.Struct, frozen=True):
    """What pays, or receives. ``amount_minor`` None pays the rest.

    ``token`` is the vault token of an outside tool, the id of a coupon, and empty for balance and points.
    """

    tool: Tool
    token: str = ""
    amount_minor: int | None = None
    currency: str = ""  # of the amount; empty where there is none


class Share(msgspec.Struct, frozen=True):
    """How much one pay method pays."""

    tool: Tool
    token: str
    amount_minor: int


# Pay methods


def method_violations(spec: TradeTypeSpec, methods: Sequence[PayMethod]) -> list[FieldViolation]:
    """What is wrong with pay methods for a type, whatever the amount. Fields are named ``pay_methods[i]…``."""
    found = []
    if len(methods) > spec.methods_max:
        found.append(FieldViolation("pay_methods", f"{spec.trade_type} takes at most {spec.methods_max}"))
    for i, method in enumerate(methods):
        if method.tool not in spec.tools:
            found.append(FieldViolation(f"pay_methods[{i}]", f"{spec.trade_type} does not take {method.tool}"))
    for tool in (Tool.BALANCE, Tool.POINTS):
        if sum(method.tool is tool for method in methods) > 1:
            found.append(FieldViolation("pay_methods", f"{tool} can be given once"))
    coupons = [method.token for method in methods if method.tool is Tool.COUPON]
    if len(set(coupons)) < len(coupons):
        found.append(FieldViolation("pay_methods", "a coupon can be given once"))
    if sum(method.tool in OUTSIDE_TOOLS for method in methods) > spec.outside_max:
        found.append(FieldViolation("pay_methods", f"{spec.trade_type} takes at most {spec.outside_max} from outside"))
    if sum(method.amount_minor is None for method in methods) > 1:
        found.append(FieldViolation("pay_methods", "at most one may leave its amount out"))
    return found


def split(amount_minor: int, currency: str, methods: Sequence[PayMethod]) -> list[Share]:
    """How much each method pays, balance first: the shares are above zero and add up to the amount exactly.

    InvalidArgument names the field where they cannot.
    """
    assert methods
    assert amount_minor > 0
    violations = [
        FieldViolation(f"pay_methods[{i}].amount.currency_code", f"must be {currency}, the trade's")
        for i, method in enumerate(methods)
        if method.amount_minor is not None and method.currency != currency
    ]
    given = sum(method.amount_minor or 0 for method in methods)
    has_open = any(method.amount_minor is None for method in methods)
    if has_open and given >= amount_minor:
        violations.append(FieldViolation("pay_methods", "the amounts given leave nothing for the one left out"))
    elif not has_open and given != amount_minor:
        violations.append(FieldViolation("pay_methods", "the amounts must add up to the trade's amount"))
    if violations:
        raise InvalidArgument(violations)
    rest = amount_minor - given
    shares = [Share(m.tool, m.token, rest if m.amount_minor is None else m.amount_minor) for m in methods]
    return sorted(shares, key=lambda share: share.tool is not Tool.BALANCE)


def awaits_customer(methods: Sequence[PayMethod]) -> bool:
    """Whether an attempt by these waits for the customer only: something outside pays, and each such confirms there."""
    outside = [method.tool for method in methods if method.tool in OUTSIDE_TOOLS]
    return bool(outside) and all(tool in CUSTOMER_TOOLS for tool in outside)


# Attempts


def is_waiting_for_customer(open_attempts: Sequence[PayAttempt]) -> bool:
    """Whether nothing unknown hangs on a trade being paid: each attempt under way waits for the customer only."""
    return all(attempt.awaits_customer for attempt in open_attempts)


def open_among(attempts: Sequence[PayAttempt]) -> list[PayAttempt]:
    """The attempts that are under way."""
    return [attempt for attempt in attempts if attempt.state == AttemptState.PAYING]


def asked_for(trade: Trade, attempt: PayAttempt) -> int:
    """How much an attempt pays; rows made before attempts knew it pay the whole trade."""
    return attempt.amount_minor or trade.amount_minor


def held_minor(trade: Trade) -> int:
    """How much of an AUTHORIZED trade is still held."""
    return trade.amount_minor - trade.paid_minor


# Order numbers, parties and time


def order_key(buyer_id: str, payee_id: str, merchant_order_no: str) -> str:
    """What makes a merchant's number unique per buyer and payee: 40 hexadecimal characters."""
    text = "\x00".join((buyer_id, payee_id, merchant_order_no))
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def payee_violations(spec: TradeTypeSpec, buyer_id: str, payee_id: str) -> list[FieldViolation]:
    """What is wrong with the payee for a type."""
    if spec.payee is PayeeKind.NONE:
        return [FieldViolation("payee_id", f"{spec.trade_type} has no payee")] if payee_id else []
    if not payee_id:
        return [FieldViolation("payee_id", f"{spec.trade_type} needs a payee")]
    if spec.payee is PayeeKind.USER and payee_id == buyer_id:
        return [FieldViolation("payee_id", "must differ from buyer_id")]
    return []


def no_such_trade(trade_id: str) -> NotFound:
    """What a call is told that names a trade which does not exist."""
    return NotFound(f"there is no trade {trade_id}", reason="TRADE_NOT_FOUND", metadata={"trade_id": trade_id})


def is_expired(trade: Trade, now_ms: int) -> bool:
    """Whether an unpaid trade's time is up."""
    return trade.expires_at_ms is not None and now_ms >= trade.expires_at_ms


def is_hold_expired(trade: Trade, now_ms: int) -> bool:
    """Whether held money is to be captured or voided by itself."""
    return trade.hold_expires_at_ms is not None and now_ms >= trade.hold_expires_at_ms


def ask_delay_ms(ask_count: int, first_ms: int, max_ms: int) -> int:
    """How long to wait before asking pay_core (again): doubles with each time, up to ``max_ms``."""
    return min(first_ms << min(ask_count, 16), max_ms)


def repair_delay_ms(attempt_count: int) -> int:
    """How long a repair that failed ``attempt_count`` times waits: 2 s doubling to an hour. It never gives up."""
    return min(2_000 << min(attempt_count - 1, 16), 3_600_000)


# Giving back: refunded + refundable never exceeds the amount, and neither is ever below zero


def refund_amount(trade: Trade, amount_minor: int | None) -> int:
    """How much a refund gives back: what is asked for, or all that is left; FailedPrecondition where there is less."""
    wanted = trade.refundable_minor if amount_minor is None else amount_minor
    if not 0 < wanted <= trade.refundable_minor:
        raise FailedPrecondition(
            f"trade {trade.id} has {trade.refundable_minor} {trade.currency} (minor units) left to give back",
            reason="REFUND_EXCEEDS_REFUNDABLE",
            subject=trade.id,
            metadata={"refundable_minor": str(trade.refundable_minor), "currency_code": trade.currency},
        )
    return wanted


def reserve_refund(trade: Trade, amount_minor: int) -> Trade:
    """The paid trade with a refund begun."""
    return _with_refunds(trade, trade.refunded_minor, trade.refundable_minor - amount_minor)


def settle_refund(trade: Trade, amount_minor: int) -> Trade:
    """The paid trade with a begun refund done."""
    return _with_refunds(trade, trade.refunded_minor + amount_minor, trade.refundable_minor)


def release_refund(trade: Trade, amount_minor: int) -> Trade:
    """The paid trade with a begun refund definitely not done."""
    return _with_refunds(trade, trade.refunded_minor, trade.refundable_minor + amount_minor)


def _with_refunds(trade: Trade, refunded_minor: int, refundable_minor: int) -> Trade:
    assert refunded_minor >= 0, f"{trade.id}: less than nothing given back"
    assert refundable_minor >= 0, f"{trade.id}: less than nothing left to give back"
    assert refunded_minor + refundable_minor <= trade.amount_minor, f"{trade.id}: more given back than was paid"
    return msgspec.structs.replace(trade, refunded_minor=refunded_minor, refundable_minor=refundable_minor)
