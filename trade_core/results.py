"""The commands that end a pay attempt, whichever way the news comes: by event, as the reply, or by asking."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from paykit.errors import FailedPrecondition, NotFound
from paykit.ids import slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from trade_core import trade as domain
from trade_core import wire
from trade_core.commands import TRADE_FAILED, TRADE_PAID, Policy
from trade_core.payments import PaymentResult
from trade_core.tables import PayAttempt, Trade
from trade_core.trade import ATTEMPT, TRADE, AttemptState, TradeState
from trade_core.types import TradeType
from trade_core.wire import TradeView


class AttemptCommand(Command[TradeView | None]):
    """What the commands on one attempt read: the attempt, its trade, and the trade a refund gives back.

    The result is None where the same message was taken before.
    """

    def __init__(self, origin: Origin, policy: Policy, attempt_id: str) -> None:
        super().__init__(slot_in(attempt_id), origin)
        self.policy = policy
        self.attempt_id = attempt_id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(PayAttempt, self.attempt_id)
        attempt = rows.get(PayAttempt, self.attempt_id)
        if attempt is None:
            return
        yield key(Trade, attempt.trade_id)
        trade = rows.get(Trade, attempt.trade_id)
        if trade is not None and trade.parent_trade_id:
            yield key(Trade, trade.parent_trade_id)

    def load(self, work: Work) -> tuple[Trade, PayAttempt]:
        """The attempt and its trade; NotFound where the payment names an attempt that does not exist."""
        attempt = work.get(PayAttempt, self.attempt_id)
        if attempt is None:
            raise NotFound(f"there is no attempt {self.attempt_id}", reason="ATTEMPT_NOT_FOUND")
        trade = work.get(Trade, attempt.trade_id)
        assert trade is not None, f"{attempt.id} belongs to no trade"
        return trade, attempt


class ApplyPaymentResult(AttemptCommand):
    """Takes how a payment ended. The same result again changes nothing; another one is refused, never ignored."""

    def __init__(self, origin: Origin, policy: Policy, result: PaymentResult) -> None:
        super().__init__(origin, policy, result.attempt_id)
        self.result = result

    def decide(self, work: Work) -> TradeView:
        trade, attempt = self.load(work)
        result = self.result
        if (result.currency, result.amount_minor) != (trade.currency, trade.amount_minor):
            raise FailedPrecondition(
                f"payment {result.payment_id} is not of the amount of trade {trade.id}",
                reason="PAYMENT_MISMATCH",
                subject=trade.id,
                metadata={"payment_id": result.payment_id},
            )
        outcome = AttemptState.EFFECTIVE if result.is_success else AttemptState.FAILED
        if ATTEMPT.is_terminal(attempt.state):
            is_same = attempt.state == outcome and (not result.is_success or attempt.payment_id == result.payment_id)
            if not is_same:
                raise _conflict(trade, attempt, f"payment {result.payment_id} says {outcome}")
            return TradeView(trade, attempts=[attempt])
        _check_current(trade, attempt)
        if not result.is_success:
            return _fail(work, self.policy, trade, attempt, result.payment_id, result.failure_reason)
        return self._succeed(work, trade, attempt)

    def _succeed(self, work: Work, trade: Trade, attempt: PayAttempt) -> TradeView:
        attempt = work.update(
            ATTEMPT.move(
                attempt, AttemptState.EFFECTIVE, payment_id=self.result.payment_id, finished_at_ms=work.now_ms
            ),
            parent_id=trade.id,
        )
        may_be_refunded = TradeType.REFUND in self.policy.catalogue.spec(trade.trade_type).follow_ups
        trade = work.update(
            TRADE.move(
                trade,
                TradeState.PAID,
                paid_at_ms=work.now_ms,
                refundable_minor=trade.amount_minor if may_be_refunded else 0,
                due_at_ms=None,
            )
        )
        parent = _parent(work, trade)
        if parent is not None:
            settled = domain.settle_refund(parent, trade.amount_minor)
            work.update(settled, note=f"refund of {trade.amount_minor} done")
        work.publish(TRADE_PAID, wire.event(trade, attempt))
        return TradeView(trade, attempts=[attempt])


class PaymentRefused(AttemptCommand):
    """Takes that pay_core refused the call for good: there is no payment, nothing was moved."""

    def __init__(self, origin: Origin, policy: Policy, attempt_id: str, reason: str) -> None:
        super().__init__(origin, policy, attempt_id)
        self.reason = reason

    def decide(self, work: Work) -> TradeView:
        trade, attempt = self.load(work)
        if attempt.payment_id or attempt.state == AttemptState.EFFECTIVE:
            raise _conflict(trade, attempt, f"pay_core refused the call: {self.reason}")
        if attempt.state == AttemptState.FAILED:
            return TradeView(trade, attempts=[attempt])
        _check_current(trade, attempt)
        return _fail(work, self.policy, trade, attempt, "", self.reason)


class AskLater(AttemptCommand):
    """Takes that the payment is not known to have ended: pay_core is asked again, later each time."""

    def __init__(self, origin: Origin, policy: Policy, attempt_id: str, payment_id: str) -> None:
        """``payment_id`` is empty where pay_core knows no payment yet, or did not answer."""
        super().__init__(origin, policy, attempt_id)
        self.payment_id = payment_id

    def decide(self, work: Work) -> TradeView:
        trade, attempt = self.load(work)
        if trade.state != TradeState.PAYING or trade.attempt_id != attempt.id:
            return TradeView(trade, attempts=[attempt])  # the result came first
        if self.payment_id and not attempt.payment_id:
            known = msgspec.structs.replace(attempt, payment_id=self.payment_id)
            attempt = work.update(known, parent_id=trade.id, note=f"is paid by {self.payment_id}")
        asked = trade.ask_count + 1
        delay_ms = domain.ask_delay_ms(asked, self.policy.ask_after_ms, self.policy.ask_after_ms_max)
        trade = work.update(msgspec.structs.replace(trade, ask_count=asked, due_at_ms=work.now_ms + delay_ms))
        return TradeView(trade, attempts=[attempt])


def _parent(work: Work, trade: Trade) -> Trade | None:
    """The trade a refund gives back; None for any other type."""
    if not trade.parent_trade_id:
        return None
    parent = work.get(Trade, trade.parent_trade_id)
    assert parent is not None, f"{trade.id} gives back a trade that does not exist"
    return parent


def _fail(work: Work, policy: Policy, trade: Trade, attempt: PayAttempt, payment_id: str, reason: str) -> TradeView:
    """Ends an attempt that took nothing. A retryable trade may be paid again; any other fails with it."""
    failed = ATTEMPT.move(
        attempt, AttemptState.FAILED, payment_id=payment_id, failure_reason=reason[:64], finished_at_ms=work.now_ms
    )
    attempt = work.update(failed, parent_id=trade.id, note=reason)
    if policy.catalogue.spec(trade.trade_type).is_retryable:
        reopened = TRADE.move(trade, TradeState.CREATED, reason=reason[:64], due_at_ms=trade.expires_at_ms)
        return TradeView(work.update(reopened, note=reason), attempts=[attempt])
    trade = work.update(TRADE.move(trade, TradeState.FAILED, reason=reason[:64], due_at_ms=None), note=reason)
    parent = _parent(work, trade)
    if parent is not None:
        work.update(domain.release_refund(parent, trade.amount_minor), note=f"refund of {trade.amount_minor} failed")
    work.publish(TRADE_FAILED, wire.event(trade, attempt))
    return TradeView(trade, attempts=[attempt])


def _check_current(trade: Trade, attempt: PayAttempt) -> None:
    """An attempt under way is its trade's latest: it ends before another begins. Anything else must not be lost."""
    if trade.state != TradeState.PAYING or trade.attempt_id != attempt.id:
        raise _conflict(trade, attempt, "it is not the trade's current one")


def _conflict(trade: Trade, attempt: PayAttempt, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"attempt {attempt.id} of trade {trade.id} is {attempt.state}, but {what}",
        reason="RESULT_CONFLICT",
        subject=trade.id,
        metadata={"attempt_id": attempt.id, "state": attempt.state},
    )
