"""Money that is held for a trade until it is captured or let go: what callers, time and pay_core do to it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from paykit.errors import FailedPrecondition, FieldViolation, InvalidArgument
from paykit.ids import slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from trade_core import trade as domain
from trade_core import wire
from trade_core.attempts import VOIDED, pay
from trade_core.payments import PaymentOutcome, PaymentResult, capture_call, settle_id, void_call
from trade_core.steps import (
    TRADE_AUTHORIZED,
    Policy,
    after_attempt,
    close,
    due_at_ms,
    required,
    tell_changed,
)
from trade_core.tables import PayAttempt, Trade
from trade_core.trade import ATTEMPT, TRADE, AttemptState, TradeState
from trade_core.types import HoldExpiry
from trade_core.wire import TradeView

VOIDED_BY_CALLER = "VOIDED_BY_CALLER"
HOLD_EXPIRED = "HOLD_EXPIRED"


# What pay_core tells


def authorize(work: Work, policy: Policy, trade: Trade, attempt: PayAttempt, result: PaymentResult) -> TradeView:
    """The money of a trade being paid is reserved or held."""
    spec = policy.catalogue.spec(trade.trade_type)
    expires_at_ms = work.now_ms + trade.hold_time_to_live_ms
    if spec.on_hold_expiry is HoldExpiry.VOID and result.expires_at_ms is not None:
        expires_at_ms = result.expires_at_ms  # pay_core gives it up then in any case
    changed = after_attempt(
        work,
        policy,
        trade,
        attempt,
        TradeState.AUTHORIZED,
        reason="",
        attempt_id=attempt.id,
        paid_minor=result.captured_minor,
        hold_expires_at_ms=expires_at_ms,
        ask_count=0,
    )
    attempt = work.update(
        ATTEMPT.move(attempt, AttemptState.AUTHORIZED, payment_id=result.payment_id, payment_version=result.version),
        parent_id=trade.id,
    )
    trade = work.update(changed)
    work.publish(TRADE_AUTHORIZED, wire.event(trade, attempt))
    return TradeView(trade, attempts=[attempt])


def settle(work: Work, policy: Policy, trade: Trade, attempt: PayAttempt, result: PaymentResult) -> TradeView:
    """What became of held money: captured, all of it or the last; captured in part; or given back."""
    if result.outcome is PaymentOutcome.SUCCEEDED:
        return pay(work, policy, trade, attempt, result)
    if result.outcome is PaymentOutcome.AUTHORIZED:
        if result.version == attempt.payment_version:
            return TradeView(trade, attempts=[attempt])  # known, and what was asked since may still be on its way
        known = msgspec.structs.replace(attempt, payment_version=result.version)
        attempt = work.update(known, parent_id=trade.id, audit=False)
        trade = hold_on(work, policy, trade, result.captured_minor, result.failure_reason)
        return TradeView(trade, attempts=[attempt])
    reason = _why_not_captured(trade, result, work.now_ms)
    attempt = work.update(
        ATTEMPT.move(
            attempt,
            AttemptState.FAILED,
            failure_reason=reason,
            finished_at_ms=work.now_ms,
            payment_version=result.version,
        ),
        parent_id=trade.id,
        note=reason,
    )
    return TradeView(close(work, policy, trade, reason, trade.note), attempts=[attempt])


def _why_not_captured(trade: Trade, result: PaymentResult, now_ms: int) -> str:
    """Why held money went back: a capture failed, the caller or time let it go, or pay_core did by itself."""
    if result.outcome is PaymentOutcome.FAILED and result.failure_reason:
        return result.failure_reason[:64]
    if trade.state == TradeState.SETTLING and trade.reason:
        return trade.reason
    return HOLD_EXPIRED if domain.is_hold_expired(trade, now_ms) else VOIDED


def hold_on(work: Work, policy: Policy, trade: Trade, captured_minor: int, reason: str) -> Trade:
    """AUTHORIZED (again), with so much captured of it; ``reason`` says why no more, where that is so."""
    held = trade if trade.state == TradeState.AUTHORIZED else TRADE.move(trade, TradeState.AUTHORIZED)
    held = msgspec.structs.replace(held, paid_minor=captured_minor, reason=reason[:64])
    held = msgspec.structs.replace(held, due_at_ms=due_at_ms(policy, held, work.now_ms))
    trade = work.update(held, note=reason)
    tell_changed(work, trade)
    return trade


# What callers and time ask for


class HoldCommand(Command[TradeView]):
    """What the commands on held money read: the trade and the attempt that holds it."""

    result_type = TradeView

    def __init__(self, origin: Origin, policy: Policy, trade_id: str) -> None:
        super().__init__(slot_in(trade_id), origin)
        self.policy = policy
        self.trade_id = trade_id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Trade, self.trade_id)
        trade = rows.get(Trade, self.trade_id)
        if trade is not None and trade.attempt_id:
            yield key(PayAttempt, trade.attempt_id)

    def _begin(self, work: Work, trade: Trade, reason: str, note: str, ask_count: int = 0) -> tuple[Trade, PayAttempt]:
        """SETTLING, with the attempt whose money it is; the call is to be sent."""
        moved = TRADE.move(
            trade,
            TradeState.SETTLING,
            reason=reason,
            note=note,
            settle_count=trade.settle_count + 1,
            ask_count=ask_count,
            due_at_ms=work.now_ms + self.policy.ask_after_ms,
        )
        attempt = work.get(PayAttempt, trade.attempt_id)
        assert attempt is not None, f"{trade.id} is held by no attempt"
        assert attempt.state == AttemptState.AUTHORIZED, f"{attempt.id} holds nothing for {trade.id}"
        return work.update(moved, note=reason), attempt


class CaptureTrade(HoldCommand):
    """Takes held money, all or part; what is left is let go or, with ``keep_rest``, held on."""

    def __init__(
        self, origin: Origin, policy: Policy, trade_id: str, currency: str, amount_minor: int | None, keep_rest: bool
    ) -> None:
        """``amount_minor`` None takes all that is held; ``currency`` is empty then."""
        super().__init__(origin, policy, trade_id)
        self.currency = currency
        self.amount_minor = amount_minor
        self.keep_rest = keep_rest

    def decide(self, work: Work) -> TradeView:
        trade = required(work, self.trade_id)
        if trade.state == TradeState.AUTHORIZED and self.amount_minor is not None:
            self._check(trade, self.amount_minor)
        trade, attempt = self._begin(work, trade, "", trade.note)
        work.call(*capture_call(trade, attempt, self.amount_minor, self.keep_rest))
        return TradeView(trade, attempts=[attempt])

    def _check(self, trade: Trade, amount_minor: int) -> None:
        if self.currency != trade.currency:
            raise InvalidArgument([FieldViolation("amount.currency_code", f"must be {trade.currency}, the trade's")])
        held_minor = domain.held_minor(trade)
        if amount_minor > held_minor:
            raise FailedPrecondition(
                f"trade {trade.id} holds {held_minor} {trade.currency} (minor units)",
                reason="CAPTURE_EXCEEDS_HELD",
                subject=trade.id,
                metadata={"held_minor": str(held_minor), "currency_code": trade.currency},
            )


class VoidTrade(HoldCommand):
    """Lets held money go because the caller wants it. What was captured before stays captured."""

    def __init__(self, origin: Origin, policy: Policy, trade_id: str, note: str) -> None:
        super().__init__(origin, policy, trade_id)
        self.note = note

    def decide(self, work: Work) -> TradeView:
        trade, attempt = self._begin(work, required(work, self.trade_id), VOIDED_BY_CALLER, self.note)
        work.call(*void_call(trade, attempt))
        return TradeView(trade, attempts=[attempt])


class SettleHold(HoldCommand):
    """Captures held money or lets it go, as its type says, when its time is up; nothing where that is not so."""

    def decide(self, work: Work) -> TradeView:
        trade = required(work, self.trade_id)
        if trade.state != TradeState.AUTHORIZED or not domain.is_hold_expired(trade, work.now_ms):
            return TradeView(trade)
        is_capture = self.policy.catalogue.spec(trade.trade_type).on_hold_expiry is HoldExpiry.CAPTURE
        reason = "" if is_capture else HOLD_EXPIRED
        # Counted on: one that is refused is tried again later each time.
        trade, attempt = self._begin(work, trade, reason, trade.note, trade.ask_count + 1)
        if is_capture:
            work.call(*capture_call(trade, attempt, None, keep_rest=False))
        else:
            work.call(*void_call(trade, attempt))
        return TradeView(trade, attempts=[attempt])


class SettleRefused(Command[TradeView | None]):
    """Takes that pay_core refused a capture or void for good and holds the money as before."""

    def __init__(self, origin: Origin, policy: Policy, request_id: str, result: PaymentResult, reason: str) -> None:
        """``result``: the AUTHORIZED payment; ``request_id``: of the call that was refused, for ``reason``."""
        super().__init__(slot_in(result.attempt_id), origin)
        self.policy = policy
        self.request_id = request_id
        self.result = result
        self.reason = reason

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(PayAttempt, self.result.attempt_id)
        attempt = rows.get(PayAttempt, self.result.attempt_id)
        if attempt is not None:
            yield key(Trade, attempt.trade_id)

    def decide(self, work: Work) -> TradeView:
        attempt = work.get(PayAttempt, self.result.attempt_id)
        assert attempt is not None, f"{self.request_id} settles no attempt"
        trade = required(work, attempt.trade_id)
        if trade.state != TradeState.SETTLING or settle_id(trade, attempt) != self.request_id:
            return TradeView(trade, attempts=[attempt])  # something else came first
        if self.result.version > attempt.payment_version:
            known = msgspec.structs.replace(attempt, payment_version=self.result.version)
            attempt = work.update(known, parent_id=trade.id, audit=False)
        trade = hold_on(work, self.policy, trade, self.result.captured_minor, self.reason)
        return TradeView(trade, attempts=[attempt])
