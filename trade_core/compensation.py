"""COMPLETE: a payment's result is taken from pay_core, which has it, though nobody told its trade."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from paykit import compensation
from paykit.compensation import CompensationRow, CompensationState, Desk, Outcome, request_of
from paykit.context import current
from paykit.errors import FailedPrecondition, MeshError, NotFound
from paykit.events.timers import Timer
from paykit.store.command import Origin, Rows, Work
from paykit.store.row import Key, key
from paykit.store.store import Store
from paymesh.pay.v1 import pay_service_pb2
from trade_core import payments
from trade_core.consumers import GetPayment
from trade_core.notify import Notifier
from trade_core.payments import PaymentResult
from trade_core.results import ApplyPaymentResult
from trade_core.steps import Policy
from trade_core.tables import Compensation, PayAttempt
from trade_core.wire import TradeView

DESK = Desk("trade_core", Compensation, "trade.compensation_done")


class TakeCompensation(compensation.Take):
    """Takes a repair."""

    result_type = Compensation
    desk = DESK
    kinds = frozenset({"COMPLETE"})


class EndOrAskLater(compensation.EndOrAskLater):
    """Ends a repair that has nothing to take, or asks again later."""

    desk = DESK


class TakeResultAsRepair(ApplyPaymentResult):
    """Takes the result that was asked for, and ends the repair in the same transaction."""

    def __init__(self, origin: Origin, policy: Policy, row: CompensationRow, result: PaymentResult) -> None:
        super().__init__(origin, policy, result)
        self.compensation_id = row.id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Compensation, self.compensation_id)
        yield from super().reads(rows)

    def decide(self, work: Work) -> TradeView:
        row = work.get(Compensation, self.compensation_id)
        assert row is not None, "compensations are never removed"
        trade, attempt = self.load(work)
        if row.state == CompensationState.ENDED:
            return TradeView(trade, attempts=[attempt])
        view = super().decide(work)
        after = work.get(PayAttempt, attempt.id)
        assert after is not None, "attempts are never removed"
        if after.state == attempt.state:
            compensation.end(work, DESK, row, Outcome.NOTHING_TO_DO, f"{after.id} is {after.state} already")
        else:
            detail = f"{after.id} is {after.state}, it was {attempt.state}"
            compensation.end(work, DESK, row, Outcome.DONE, detail, trade.id)
        return view


class Completion:
    """Goes on with repairs: asks pay_core for the result that its event did not bring."""

    def __init__(self, store: Store, policy: Policy, notifier: Notifier, get_payment: GetPayment) -> None:
        """``get_payment`` as of consumers.PaymentNews."""
        self._store = store
        self._policy = policy
        self._notifier = notifier
        self._get_payment = get_payment

    def timer(self) -> Timer[Compensation]:
        """Fires on ``compensation.due_at_ms``."""
        return Timer("compensation_due", Compensation, self.fire)

    async def fire(self, row: Compensation) -> None:
        """Asks outside any transaction, and takes what is answered."""
        origin = Origin.timer(current())
        request = pay_service_pb2.GetPaymentRequest(payment_id=request_of(row).payment_id)
        try:
            payment: Any = (await self._get_payment(request, origin.context)).payment
        except NotFound:
            await self._end(origin, row, Outcome.NOTHING_TO_DO, f"pay_core has no payment {request.payment_id}")
            return
        except MeshError as error:
            await self._end(origin, row, None, f"pay_core says {error.code} {error.reason}")
            return
        result = payments.result_of(payment)
        if not payments.is_ours(payment.source_id):
            await self._end(origin, row, Outcome.NOTHING_TO_DO, f"{payment.payment_id} was made for no trade")
        elif result is None:
            await self._end(origin, row, None, f"{payment.payment_id} is under way")
        else:
            await self._take(origin, row, result)

    async def _take(self, origin: Origin, row: Compensation, result: PaymentResult) -> None:
        try:
            view = await self._store.run(TakeResultAsRepair(origin, self._policy, row, result))
        except (FailedPrecondition, NotFound) as error:
            await self._end(origin, row, Outcome.REFUSED, f"{result.attempt_id}: {error.reason}")
        else:
            self._notifier.changed(view)

    async def _end(self, origin: Origin, row: Compensation, outcome: Outcome | None, detail: str) -> None:
        await self._store.run(EndOrAskLater(origin, row, outcome, detail))
