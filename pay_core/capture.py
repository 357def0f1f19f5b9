"""Commands on an AUTHORIZED payment: its money goes to the payees, or back."""

from __future__ import annotations

from collections.abc import Iterable

from pay_core import phases
from pay_core.orchestration import Orchestration, PaymentView
from pay_core.payment import PaymentState, plan_of
from pay_core.reading import chain_of, payment_keys, step_keys
from pay_core.tables import Payment
from pay_core.terms import Terms
from paykit.errors import FailedPrecondition, NotFound
from paykit.ids import slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key

EXPIRED = "EXPIRED"


class CapturePayment(Command[PaymentView]):
    """Takes what is reserved or in escrow to the payees, in whole or in part. ``amount_minor`` 0 is all of it."""

    result_type = PaymentView

    def __init__(
        self, origin: Origin, payment_id: str, currency: str, amount_minor: int, keep_rest: bool, terms: Terms
    ) -> None:
        super().__init__(slot_in(payment_id), origin)
        self.payment_id, self.currency, self.amount_minor = payment_id, currency, amount_minor
        self.keep_rest, self.terms = keep_rest, terms

    def reads(self, rows: Rows) -> Iterable[Key]:
        keys = payment_keys(rows, self.payment_id)
        payment = rows.get(Payment, self.payment_id)
        if payment is not None:
            keys += step_keys(rows, payment.slot, payment.currency, plan_of(payment).shares)
        return keys

    def decide(self, work: Work) -> PaymentView:
        payment = _authorized(work, self.payment_id)
        if self.currency and payment.currency != self.currency:
            raise FailedPrecondition(
                f"payment {payment.id} is in {payment.currency}", reason="CURRENCY_MISMATCH", subject=payment.id
            )
        chain, plan = chain_of(work, payment.id), plan_of(payment)
        amount_minor = self.amount_minor or phases.capturable_minor(plan)
        phase = phases.capture(chain, plan, amount_minor, self.keep_rest)
        run = Orchestration(work, payment, chain, self.terms)
        run.begin_phase(phase, capturing_minor=amount_minor)
        return run.advance()


class VoidPayment(Command[PaymentView]):
    """Gives up what is reserved, or gives back what is in escrow."""

    result_type = PaymentView

    def __init__(self, origin: Origin, payment_id: str, reason: str, terms: Terms) -> None:
        super().__init__(slot_in(payment_id), origin)
        self.payment_id, self.reason, self.terms = payment_id, reason, terms

    def reads(self, rows: Rows) -> Iterable[Key]:
        return payment_keys(rows, self.payment_id)

    def decide(self, work: Work) -> PaymentView:
        payment = _authorized(work, self.payment_id)
        chain = chain_of(work, payment.id)
        run = Orchestration(work, payment, chain, self.terms)
        run.begin_phase(phases.void(chain, plan_of(payment)), void_reason=self.reason)
        return run.advance()


class ExpirePayment(VoidPayment):
    """Voids a payment whose time is up; nothing where it is not AUTHORIZED any more, or has more time."""

    def __init__(self, origin: Origin, payment_id: str, terms: Terms) -> None:
        super().__init__(origin, payment_id, EXPIRED, terms)

    def decide(self, work: Work) -> PaymentView:
        payment = work.get(Payment, self.payment_id)
        assert payment is not None
        is_over = payment.expires_at_ms is not None and payment.expires_at_ms <= work.now_ms
        if payment.state != PaymentState.AUTHORIZED or not is_over:
            return PaymentView(payment, chain_of(work, payment.id))
        return super().decide(work)


def _authorized(work: Work, payment_id: str) -> Payment:
    payment = work.get(Payment, payment_id)
    if payment is None:
        raise NotFound(f"no payment {payment_id}", reason="PAYMENT_NOT_FOUND")
    if payment.state != PaymentState.AUTHORIZED:
        raise FailedPrecondition(
            f"payment {payment.id} is {payment.state}: only an AUTHORIZED one can be captured or voided",
            reason="NOT_AUTHORIZED",
            subject=payment.id,
            metadata={"state": payment.state},
        )
    return payment
