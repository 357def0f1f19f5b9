"""PayService.PreviewPayment: the command of an operation, decided and discarded."""

from __future__ import annotations

import asyncio
from typing import Any

from pay_core.api import requests
from pay_core.api.preview_route import preview_route
from pay_core.commands import Refund, StartPayment
from pay_core.convert import payment_proto
from pay_core.ledger import KIND_NUMBER, AccountKind
from pay_core.orchestration import PaymentView
from pay_core.rules.model import Decision, Limit, LimitPer
from pay_core.tables import Account, Entry, LimitUsage, Payment
from pay_core.terms import TermsBook
from pay_core.usage import usage_key
from paykit import context as business_context
from paykit.rpc.channels import Channels
from paykit.rpc.checks import Fields
from paykit.store.command import Origin, Previewed
from paykit.store.store import Store
from paymesh.common.v1 import money_pb2
from paymesh.pay.v1 import pay_service_pb2

_ORDERS: dict[str, Any] = {
    "recharge": requests.recharge_order,
    "withdraw": requests.withdraw_order,
    "transfer": requests.transfer_order,
}


class PreviewApi:
    """The handler, for PayApi to inherit."""

    _store: Store
    _terms: TermsBook
    _channels: Channels

    async def PreviewPayment(self, request: Any, context: Any) -> Any:
        fields = Fields()
        chosen = request.WhichOneof("operation")
        if chosen is None:
            fields.fail("operation", "required")
        fields.raise_if_any()
        command = self._command(chosen, getattr(request, chosen))
        previewed = await self._store.preview(command)
        assert command.decision is not None
        response = _response(previewed, command.decision)
        # Outside any transaction; what channel_gateway does not answer in time is left out, and the rest is shown.
        routed = [ins for ins in previewed.result.chain if ins.route is not None]
        response.routes.extend(await asyncio.gather(*(preview_route(self._channels, ins) for ins in routed)))
        return response

    def _command(self, chosen: str, request: Any) -> StartPayment | Refund:
        origin = Origin.timer(business_context.current())
        if chosen == "refund":
            requests.check_refund(request, is_preview=True)
            return requests.refund_command(origin, request, self._terms.now())
        order = _ORDERS[chosen](request, is_preview=True)
        return StartPayment(origin, order, request.source_id, self._terms.now())


def _response(previewed: Previewed[PaymentView], decision: Decision) -> pay_service_pb2.PreviewPaymentResponse:
    payment, currency = previewed.result.payment, previewed.result.payment.currency
    accounts = {row.id: row for row in previewed.rows if isinstance(row, Account)}
    postings = []
    for entry in (row for row in previewed.rows if isinstance(row, Entry)):
        account = accounts[entry.account_id]
        postings.append(
            pay_service_pb2.PreviewPosting(
                slot=entry.slot,
                owner_id=account.owner_id,
                account_kind=KIND_NUMBER[AccountKind(account.kind)],
                amount=_money(entry.currency, entry.amount_minor),
            )
        )
    fees = [
        pay_service_pb2.PreviewFee(
            name=fee.name, amount=_money(currency, fee.amount_minor), borne_by=fee.borne_by.value
        )
        for fee in decision.fees
    ]
    usages = {row.usage_key: row for row in previewed.rows if isinstance(row, LimitUsage)}
    return pay_service_pb2.PreviewPaymentResponse(
        payment=payment_proto(payment, previewed.result.chain),
        fees=fees,
        limits=[_limit(limit, payment, usages) for limit in decision.limits],
        postings=postings,
    )


def _limit(limit: Limit, payment: Payment, usages: dict[str, LimitUsage]) -> pay_service_pb2.PreviewLimit:
    max_minor = limit.max_amount_minor
    message = pay_service_pb2.PreviewLimit(name=limit.name, per=limit.per.value, max_count=limit.max_count or 0)
    if max_minor is not None:
        message.max_amount.CopyFrom(_money(payment.currency, max_minor))
    if limit.per is LimitPer.DAY:
        counted = usages[usage_key(payment.payer_id, limit, payment.currency)]
        # One that fails at once is taken off again.
        was_counted = payment.state not in ("FAILED", "VOIDED")
        message.used_minor = counted.amount_minor - (payment.amount_minor if was_counted else 0)
        message.used_count = counted.payment_count - int(was_counted)
    return message


def _money(currency: str, amount_minor: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code=currency, amount_minor=amount_minor)
