"""The commands that take the news of a payment, whichever way it comes: by event, as the reply, or by asking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from paykit.errors import FailedPrecondition, NotFound
from paykit.ids import slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from trade_core import attempts, holds, wire
from trade_core import trade as domain
from trade_core.part_rows import part_keys
from trade_core.payments import PaymentOutcome, PaymentResult
from trade_core.steps import TRADE_CHANGED, TRADE_CREATED, Policy, due_at_ms, open_attempts, required
from trade_core.tables import PayAttempt, Trade
from trade_core.trade import AttemptState, TradeState
from trade_core.types import Settlement
from trade_core.wire import TradeView


class AttemptCommand(Command[TradeView | None]):
    """What the commands on one attempt read: the attempt, its trade, and what else of the order hangs on it.

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
        if trade is None:
            return
        yield from part_keys(rows, trade)
        if trade.open_attempt_count > 1 or (trade.open_attempt_count and attempt.state != AttemptState.PAYING):
            yield key(PayAttempt, trade.id, "trade_id")

    def load(self, work: Work) -> tuple[Trade, PayAttempt]:
        """The attempt and its trade; NotFound where the payment names an attempt that does not exist."""
        attempt = work.get(PayAttempt, self.attempt_id)
        if attempt is None:
            raise NotFound(f"there is no attempt {self.attempt_id}", reason="ATTEMPT_NOT_FOUND")
        trade = work.get(Trade, attempt.trade_id)
        assert trade is not None, f"{attempt.id} belongs to no trade"
        return trade, attempt


class ApplyPaymentResult(AttemptCommand):
    """Takes where a payment rests. Old news changes nothing; a contradiction is refused, never ignored."""

    def __init__(self, origin: Origin, policy: Policy, result: PaymentResult) -> None:
        super().__init__(origin, policy, result.attempt_id)
        self.result = result

    def decide(self, work: Work) -> TradeView:
        trade, attempt = self.load(work)
        result = self.result
        if (result.currency, result.amount_minor) != (trade.currency, domain.asked_for(trade, attempt)):
            raise FailedPrecondition(
                f"payment {result.payment_id} is not of the amount of attempt {attempt.id}",
                reason="PAYMENT_MISMATCH",
                subject=trade.id,
                metadata={"payment_id": result.payment_id},
            )
        if attempt.payment_id not in ("", result.payment_id):
            raise _conflict(trade, attempt, f"payment {result.payment_id} says {result.outcome}")
        if result.version < attempt.payment_version:
            return TradeView(trade, attempts=[attempt])
        if attempt.state == AttemptState.PAYING:
            return self._end(work, trade, attempt)
        if attempt.state == AttemptState.AUTHORIZED:
            return holds.settle(work, self.policy, trade, attempt, result)
        if not _is_known(attempt, result):
            raise _conflict(trade, attempt, f"payment {result.payment_id} says {result.outcome}")
        return TradeView(trade, attempts=[attempt])

    def _end(self, work: Work, trade: Trade, attempt: PayAttempt) -> TradeView:
        policy, result = self.policy, self.result
        settlement = policy.catalogue.spec(trade.trade_type).settlement
        match result.outcome:
            case PaymentOutcome.SUCCEEDED:
                is_wanted = attempts.is_wanted(work, policy, trade, attempt, settlement)
                take = attempts.pay if is_wanted else attempts.give_back_unwanted
                return take(work, policy, trade, attempt, result)
            case PaymentOutcome.AUTHORIZED:
                if settlement is Settlement.IMMEDIATE:
                    raise _conflict(trade, attempt, f"payment {result.payment_id} is held")
                is_wanted = attempts.is_wanted(work, policy, trade, attempt, settlement)
                take = holds.authorize if is_wanted else attempts.let_go_unwanted
                return take(work, policy, trade, attempt, result)
        is_voided = result.outcome is PaymentOutcome.VOIDED
        return attempts.fail(
            work,
            policy,
            trade,
            attempt,
            payment_id=result.payment_id,
            reason=attempts.VOIDED if is_voided else result.failure_reason,
            version=result.version,
            is_voided=is_voided,
        )


# What an ended attempt may hear again. What was held too late was let go: it is VOIDED, or says that it was held.
_KNOWN = {
    AttemptState.EFFECTIVE: {PaymentOutcome.SUCCEEDED},
    AttemptState.FAILED: {PaymentOutcome.FAILED, PaymentOutcome.VOIDED},
    AttemptState.RETURNED: {PaymentOutcome.SUCCEEDED, PaymentOutcome.AUTHORIZED, PaymentOutcome.VOIDED},
}


def _is_known(attempt: PayAttempt, result: PaymentResult) -> bool:
    return result.outcome in _KNOWN[AttemptState(attempt.state)]


class PaymentRefused(AttemptCommand):
    """Takes that pay_core refused the call for good: there is no payment, nothing was moved."""

    def __init__(self, origin: Origin, policy: Policy, attempt_id: str, reason: str) -> None:
        super().__init__(origin, policy, attempt_id)
        self.reason = reason

    def decide(self, work: Work) -> TradeView:
        trade, attempt = self.load(work)
        if attempt.payment_id or attempt.state not in (AttemptState.PAYING, AttemptState.FAILED):
            raise _conflict(trade, attempt, f"pay_core refused the call: {self.reason}")
        if attempt.state == AttemptState.FAILED:
            return TradeView(trade, attempts=[attempt])
        return attempts.fail(work, self.policy, trade, attempt, payment_id="", reason=self.reason)


class AskLater(Command[TradeView | None]):
    """Takes that payments of a trade are not known to have ended: pay_core is asked again, later each time."""

    def __init__(self, origin: Origin, policy: Policy, trade_id: str, payment_ids: Mapping[str, str]) -> None:
        """``payment_ids``: by attempt, where pay_core knows a payment."""
        super().__init__(slot_in(trade_id), origin)
        self.policy = policy
        self.trade_id = trade_id
        self.payment_ids = payment_ids

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Trade, self.trade_id)
        yield key(PayAttempt, self.trade_id, "trade_id")

    def decide(self, work: Work) -> TradeView:
        trade = required(work, self.trade_id)
        waiting = open_attempts(work, trade)
        if not waiting and trade.state != TradeState.SETTLING:
            return TradeView(trade)  # the result came first
        is_first = trade.ask_count == 0 and trade.state in (TradeState.PAYING, TradeState.SETTLING)
        known = [self._learn(work, trade, attempt) for attempt in waiting]
        asked = msgspec.structs.replace(trade, ask_count=trade.ask_count + 1)
        is_waiting = bool(known) and domain.is_waiting_for_customer(known)
        due_ms = due_at_ms(self.policy, asked, work.now_ms, is_waiting=is_waiting)
        trade = work.update(msgspec.structs.replace(asked, due_at_ms=due_ms))
        if is_first:
            # What is soon over is told by its end alone; this is not, so lists must show it under way.
            is_new = any(attempt.created_at_ms == trade.created_at_ms for attempt in known)
            work.publish(TRADE_CREATED if is_new else TRADE_CHANGED, wire.event(trade))
        return TradeView(trade, attempts=known)

    def _learn(self, work: Work, trade: Trade, attempt: PayAttempt) -> PayAttempt:
        payment_id = self.payment_ids.get(attempt.id, "")
        if not payment_id or attempt.payment_id:
            return attempt
        known = msgspec.structs.replace(attempt, payment_id=payment_id)
        return work.update(known, parent_id=trade.id, note=f"is paid by {payment_id}")


def _conflict(trade: Trade, attempt: PayAttempt, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"attempt {attempt.id} of trade {trade.id} is {attempt.state}, but {what}",
        reason="RESULT_CONFLICT",
        subject=trade.id,
        metadata={"attempt_id": attempt.id, "state": attempt.state},
    )
