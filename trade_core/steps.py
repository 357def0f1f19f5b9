"""What commands on trades are made of: new rows, attempts begun, trades closed. Each step is pure, over ``Work``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from paykit import context as business_context
from paykit.errors import FailedPrecondition
from paykit.store.command import Work
from trade_core import trade as domain
from trade_core import wire
from trade_core.catalogue import Catalogue
from trade_core.parts import PartInput, PartPayee
from trade_core.payments import pay_call
from trade_core.tables import PayAttempt, Trade
from trade_core.trade import ATTEMPT, OVER, TRADE, AttemptState, PayMethod, TradeState
from trade_core.types import TradeType

TRADE_CREATED = "trade.trade_created"
TRADE_AUTHORIZED = "trade.trade_authorized"
TRADE_PAID = "trade.trade_paid"
TRADE_FAILED = "trade.trade_failed"
TRADE_CLOSED = "trade.trade_closed"
TRADE_CHANGED = "trade.trade_changed"
SUBJECTS = frozenset({TRADE_CREATED, TRADE_AUTHORIZED, TRADE_PAID, TRADE_FAILED, TRADE_CLOSED, TRADE_CHANGED})

CLOSED_BY_CALLER = "CLOSED_BY_CALLER"
EXPIRED = "EXPIRED"


class Policy(msgspec.Struct, frozen=True):
    """What the commands of one process share: the trade types, and when pay_core is asked about a silent payment."""

    catalogue: Catalogue
    ask_after_ms: int
    ask_after_ms_max: int


class LineInput(msgspec.Struct, frozen=True):
    """One line of a new order, checked; the price is in the trade's currency."""

    sku: str
    title: str
    quantity: int
    unit_price_minor: int


class NewTrade(msgspec.Struct, frozen=True, kw_only=True):
    """A new order, checked field by field. ``hold_time_to_live_ms`` is 0 where its type holds nothing."""

    trade_type: TradeType
    buyer_id: str
    payee_id: str
    merchant_order_no: str
    scene: str
    currency: str
    amount_minor: int
    time_to_live_ms: int
    hold_time_to_live_ms: int = 0
    lines: Sequence[LineInput] = ()
    pay_methods: Sequence[PayMethod] = ()
    parts: Sequence[PartInput] = ()
    merged_trade_ids: Sequence[str] = ()


def required(work: Work, trade_id: str) -> Trade:
    """The trade a call names, under whose business id it goes on; NotFound where there is none."""
    trade = work.get(Trade, trade_id)
    if trade is None:
        raise domain.no_such_trade(trade_id)
    work.adopt(trade.biz_id)
    return trade


def lasting(work: Work) -> bytes:
    """The context as a row keeps it: without the deadline of the call that brought it."""
    return business_context.pack(msgspec.structs.replace(work.context, deadline_ms=None))


def new_row(
    work: Work,
    slot: int,
    *,
    biz_id: str,
    trade_type: TradeType,
    buyer_id: str,
    currency: str,
    amount_minor: int,
    order_key: str = "",
    expires_at_ms: int | None = None,
    **rest: Any,
) -> Trade:
    """A CREATED trade, not inserted yet. ``rest``: any other columns; the others begin at zero and empty."""
    trade_id = work.new_id("trd")
    fields: dict[str, Any] = {
        "payee_id": "",
        "merchant_order_no": "",
        "parent_trade_id": "",
        "scene": "",
        "note": "",
        "due_at_ms": expires_at_ms,
    }
    return Trade(
        id=trade_id,
        slot=slot,
        biz_id=biz_id,
        trade_type=trade_type.value,
        state=TRADE.initial.value,
        buyer_id=buyer_id,
        order_key=order_key or trade_id,
        currency=currency,
        amount_minor=amount_minor,
        refunded_minor=0,
        refundable_minor=0,
        reason="",
        attempt_id="",
        attempt_count=0,
        follow_up_count=0,
        ask_count=0,
        created_at_ms=work.now_ms,
        paid_at_ms=None,
        expires_at_ms=expires_at_ms,
        context=lasting(work),
        **(fields | rest),
    )


def begin_payment(
    work: Work, policy: Policy, trade: Trade, methods: Sequence[PayMethod], payees: Sequence[PartPayee] = ()
) -> tuple[Trade, PayAttempt]:
    """Moves a trade to PAYING with a new attempt and sends the call that pays it.

    ``payees``: of a trade whose parts are paid together. InvalidArgument where the methods do not add up to it.
    """
    shares = domain.split(trade.amount_minor, trade.currency, methods)
    trade, attempt = begin_attempt(work, policy, trade, is_for_customer=domain.awaits_customer(methods))
    work.call(*pay_call(policy.catalogue.spec(trade.trade_type), trade, attempt.id, shares, payees))
    return trade, attempt


def begin_attempt(
    work: Work, policy: Policy, trade: Trade, *, is_for_customer: bool = False
) -> tuple[Trade, PayAttempt]:
    """A trade PAYING with one more attempt, which pays all of it. The call is not sent here."""
    attempt_no = trade.attempt_count + 1
    attempt = PayAttempt(
        id=work.new_id("att"),
        slot=trade.slot,
        biz_id=trade.biz_id,
        trade_id=trade.id,
        attempt_no=attempt_no,
        attempt_key=f"{trade.id}/{attempt_no}",
        state=ATTEMPT.initial.value,
        payment_id="",
        failure_reason="",
        created_at_ms=work.now_ms,
        finished_at_ms=None,
        amount_minor=trade.amount_minor,
        awaits_customer=int(is_for_customer),
    )
    due_at_ms = work.now_ms + policy.ask_after_ms
    if is_for_customer and trade.expires_at_ms is not None:
        due_at_ms = min(due_at_ms, trade.expires_at_ms)
    changes: Mapping[str, Any] = {
        "reason": "",
        "attempt_id": attempt.id,
        "attempt_count": attempt_no,
        "open_attempt_count": trade.open_attempt_count + 1,
        "ask_count": 0,
        "due_at_ms": due_at_ms,
    }
    if trade.state == TradeState.PAYING:
        changed = msgspec.structs.replace(trade, **changes)
    else:
        changed = TRADE.move(trade, TradeState.PAYING, **changes)
    trade = work.update(changed)
    return trade, work.insert(attempt, parent_id=trade.id)


def due_at_ms(policy: Policy, trade: Trade, now_ms: int, *, is_waiting: bool = False) -> int | None:
    """When the timer looks at a trade in its present state again; None where it has nothing to wait for.

    ``is_waiting``: every attempt under way waits for the customer only, so that an unpaid trade may expire.
    """
    ask_at_ms = now_ms + domain.ask_delay_ms(trade.ask_count, policy.ask_after_ms, policy.ask_after_ms_max)
    match trade.state:
        case TradeState.CREATED if trade.purpose:
            return now_ms + domain.repair_delay_ms(trade.attempt_count)
        case TradeState.CREATED | TradeState.PARTIALLY_PAID:
            return trade.expires_at_ms
        case TradeState.PAYING if is_waiting and trade.expires_at_ms is not None:
            return min(ask_at_ms, trade.expires_at_ms)
        case TradeState.AUTHORIZED if trade.hold_expires_at_ms is not None:
            # One that was asked to settle by itself and could not is asked again later, not at once.
            settle_at_ms = max(trade.hold_expires_at_ms, ask_at_ms) if trade.ask_count else trade.hold_expires_at_ms
            return min(settle_at_ms, ask_at_ms) if trade.open_attempt_count else settle_at_ms
        case TradeState.PAYING | TradeState.SETTLING:
            return ask_at_ms
    return ask_at_ms if trade.open_attempt_count else None


def open_attempts(work: Work, trade: Trade) -> list[PayAttempt]:
    """The attempts under way; empty where the trade is in a state that has none."""
    if not trade.open_attempt_count and trade.state != TradeState.PAYING:
        return []
    return domain.open_among(work.many(PayAttempt, "trade_id", trade.id))


def after_attempt(
    work: Work, policy: Policy, trade: Trade, attempt: PayAttempt, after: TradeState, **changes: Any
) -> Trade:
    """The trade in state ``after``, now that ``attempt`` has ended; not written yet."""
    was_open = attempt.state == AttemptState.PAYING
    left = max(trade.open_attempt_count - was_open, 0)
    changes["open_attempt_count"] = left
    if not left and after in OVER and after != trade.state:
        return TRADE.move(trade, after, due_at_ms=None, **changes)
    moved = trade if after == trade.state else TRADE.move(trade, after)
    moved = msgspec.structs.replace(moved, **changes)
    others = [other for other in open_attempts(work, trade) if other.id != attempt.id] if left else []
    is_waiting = bool(others) and domain.is_waiting_for_customer(others)
    return msgspec.structs.replace(moved, due_at_ms=due_at_ms(policy, moved, work.now_ms, is_waiting=is_waiting))


def check_open_attempts(trade: Trade, open_attempts: Sequence[PayAttempt]) -> None:
    """That nothing unknown hangs on a trade being paid: FailedPrecondition where an attempt waits for more than the
    customer."""
    if trade.state == TradeState.PAYING and not domain.is_waiting_for_customer(open_attempts):
        raise FailedPrecondition(
            f"trade {trade.id} is PAYING, and not by the customer alone",
            subject=trade.id,
            metadata={"state": trade.state, "entity": TRADE.entity},
        )


def close(work: Work, policy: Policy, trade: Trade, reason: str, note: str = "") -> Trade:
    """Closes a trade and tells it. pay_core goes on being asked about attempts that are under way."""
    moved = TRADE.move(trade, TradeState.CLOSED, reason=reason, note=note, hold_expires_at_ms=None, ask_count=0)
    moved = msgspec.structs.replace(moved, due_at_ms=due_at_ms(policy, moved, work.now_ms))
    trade = work.update(moved, note=reason)
    work.publish(TRADE_CLOSED, wire.event(trade))
    return trade


def tell_changed(work: Work, trade: Trade, attempt: PayAttempt | None = None) -> None:
    """Tells that a trade's sums, parts or price are others now, or that ``attempt`` came to nothing."""
    work.publish(TRADE_CHANGED, wire.event(trade, attempt))
