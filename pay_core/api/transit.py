"""TransitService: money between slots; called by pay_core's own outbox."""

from __future__ import annotations

from typing import Any

from pay_core import transit
from pay_core.api.fields import ACCOUNT_KIND, OWNED_NUMBERS, accounting_date, customer
from pay_core.commands import SettleInstruction
from pay_core.ledger import KIND_OF_NUMBER
from pay_core.payment import BALANCE
from pay_core.terms import TermsBook
from pay_core.tools.base import Outcome
from paykit import context as business_context
from paykit.errors import NotFound
from paykit.rpc.batching import serve_batch
from paykit.rpc.checks import Fields
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.pay.v1 import ledger_service_pb2, ledger_service_pb2_grpc


class TransitApi(ledger_service_pb2_grpc.TransitServiceServicer):
    """Money between slots; called by pay_core's own outbox."""

    def __init__(self, store: Store, terms: TermsBook) -> None:
        self._store = store
        self._terms = terms

    async def ReceiveTransit(self, request: Any, context: Any) -> Any:
        journal_id = await self._store.run(_move(transit.ReceiveTransit, request))
        return ledger_service_pb2.ReceiveTransitResponse(journal_id=journal_id)

    async def DrawTransit(self, request: Any, context: Any) -> Any:
        journal_id = await self._store.run(_move(transit.DrawTransit, request))
        return ledger_service_pb2.DrawTransitResponse(journal_id=journal_id)

    async def SettleTransit(self, request: Any, context: Any) -> Any:
        fields = Fields()
        instruction_id = fields.id("instruction_id", request.instruction_id, "ins")
        payment_id = fields.id("payment_id", request.payment_id, "pay")
        if not request.drawn:
            fields.name("failure_reason", request.failure_reason)
        fields.raise_if_any()
        origin = Origin.rpc(business_context.current(), "SettleTransit", instruction_id, instruction_id, request)
        command = SettleInstruction(
            origin,
            payment_id,
            instruction_id,
            tool=BALANCE,
            outcome=Outcome("" if request.drawn else request.failure_reason),
            terms=self._terms.now(),
        )
        try:
            await self._store.run(command)
        except NotFound as error:
            raise NotFound(error.message, reason="INSTRUCTION_NOT_FOUND") from error
        return ledger_service_pb2.SettleTransitResponse()

    async def BatchReceiveTransit(self, request: Any, context: Any) -> Any:
        return await serve_batch(request, context, self.ReceiveTransit, ledger_service_pb2.BatchReceiveTransitResponse)

    async def BatchDrawTransit(self, request: Any, context: Any) -> Any:
        return await serve_batch(request, context, self.DrawTransit, ledger_service_pb2.BatchDrawTransitResponse)

    async def BatchSettleTransit(self, request: Any, context: Any) -> Any:
        return await serve_batch(request, context, self.SettleTransit, ledger_service_pb2.BatchSettleTransitResponse)


def _move(kind: type[transit.MoveTransit], request: Any) -> transit.MoveTransit:
    fields = Fields()
    instruction_id = fields.id("instruction_id", request.instruction_id, "ins")
    payment_id = fields.id("payment_id", request.payment_id, "pay")
    owner_id = customer(fields, "owner_id", request.owner_id)
    fields.enum("account_kind", request.account_kind, ACCOUNT_KIND, OWNED_NUMBERS)
    fields.money("amount", request.amount)
    if request.accounting_date:
        accounting_date(fields, "accounting_date", request.accounting_date)
    fields.raise_if_any()
    origin = Origin.rpc(business_context.current(), kind.__name__, owner_id, instruction_id, request)
    return kind(
        origin,
        instruction_id,
        payment_id,
        owner_id,
        KIND_OF_NUMBER[request.account_kind],
        request.amount.currency_code,
        request.amount.amount_minor,
        request.accounting_date,
    )
