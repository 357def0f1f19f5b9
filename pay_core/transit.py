"""Moves of money between slots: each command is one balanced journal, joined to the other slot's by transit."""

from __future__ import annotations

from collections.abc import Iterable

from pay_core import closing, ledger
from pay_core.ledger import AccountKind, AccountRef, Draft, Leg, internal, owned
from paykit.errors import FieldViolation, InvalidArgument
from paykit.ids import slot_of
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key
from paymesh.pay.v1 import ledger_service_pb2

SETTLE_TRANSIT = "/paymesh.pay.v1.TransitService/SettleTransit"


class MoveTransit(Command[str]):
    """One balanced journal on the slot of a customer's account, the other side of which is on the payment's slot."""

    result_type = str

    def __init__(
        self,
        origin: Origin,
        instruction_id: str,
        payment_id: str,
        owner_id: str,
        kind: AccountKind,
        currency: str,
        amount_minor: int,
        accounting_date: str = "",
    ) -> None:
        super().__init__(slot_of(owner_id), origin)
        self.instruction_id, self.payment_id, self.amount_minor = instruction_id, payment_id, amount_minor
        self.accounting_date = accounting_date  # of the payment
        self.account: AccountRef = owned(owner_id, kind, currency)
        self.in_transit: AccountRef = internal(self.slot, AccountKind.IN_TRANSIT, currency)

    def reads(self, rows: Rows) -> Iterable[Key]:
        return ledger.account_keys([self.account, self.in_transit])

    def _check(self, work: Work) -> None:
        """That the other slot's book is ahead of today by no more than a date closed early: InvalidArgument."""
        if self.accounting_date > closing.days_after(closing.date_at(work.now_ms), 1):
            raise InvalidArgument([FieldViolation("accounting_date", "has not begun")])

    def _post(self, work: Work, leg: Leg, debit: AccountRef, credit: AccountRef) -> str:
        draft = Draft(self.slot, self.account.currency)
        draft.move(self.instruction_id, self.amount_minor, leg, debit, credit)
        return ledger.post(work, draft, self.payment_id, self.accounting_date).id


class ReceiveTransit(MoveTransit):
    """Money from another slot arrives. It never fails: an account that is not there is made, a frozen one takes it."""

    def decide(self, work: Work) -> str:
        self._check(work)
        return self._post(work, Leg.RECEIVED, self.in_transit, self.account)


class DrawTransit(MoveTransit):
    """Another slot wants money of an account here; the answer goes back as a durable call. "" where it is refused."""

    def decide(self, work: Work) -> str:
        self._check(work)
        refusal = ledger.refusal(work, self.account, self.amount_minor, Draft(self.slot, self.account.currency))
        answer = ledger_service_pb2.SettleTransitRequest(
            instruction_id=self.instruction_id,
            payment_id=self.payment_id,
            drawn=not refusal,
            failure_reason=refusal,
        )
        work.call(SETTLE_TRANSIT, answer)
        return "" if refusal else self._post(work, Leg.SENT, self.account, self.in_transit)
