"""PayService.GetPaymentTree: the part of an order's tree that pay_core has."""

from __future__ import annotations

from typing import Any

from pay_core import tree
from pay_core.convert import case_proto, payment_proto
from pay_core.ledger import KIND_NUMBER, AccountKind, timestamp
from paykit import context as business_context
from paykit.ids import is_id, slot_in
from paykit.rpc.checks import Fields
from paykit.store.store import Store
from paymesh.common.v1 import money_pb2
from paymesh.pay.v1 import pay_service_pb2


class TreeApi:
    """The handler, for PayApi to inherit."""

    _store: Store

    async def GetPaymentTree(self, request: Any, context: Any) -> Any:
        fields = Fields()
        fields.count("source_ids", request.source_ids, 1, tree.SOURCES_MAX)
        for number, source_id in enumerate(request.source_ids):
            if not is_id(source_id):
                fields.fail(f"source_ids[{number}]", "not an id")
            elif is_id(request.source_ids[0]) and slot_in(source_id) != slot_in(request.source_ids[0]):
                fields.fail(f"source_ids[{number}]", "lies on another slot than source_ids[0]")
        fields.raise_if_any()
        shadow = business_context.current().shadow
        source_ids = list(dict.fromkeys(request.source_ids))
        found = await tree.payment_tree(self._store, source_ids, slot_in(source_ids[0]), shadow=shadow)
        return pay_service_pb2.GetPaymentTreeResponse(
            payments=[payment_proto(view.payment, view.chain) for view in found.payments],
            journals=[_journal(journal) for journal in found.journals],
            cases=[case_proto(case) for case in found.cases],
        )


def _journal(journal: tree.BookedJournal) -> pay_service_pb2.PaymentJournal:
    """A journal with its entries and whose they are."""
    return pay_service_pb2.PaymentJournal(
        journal_id=journal.id,
        payment_id=journal.payment_id,
        slot=journal.slot,
        accounting_date=journal.accounting_date,
        post_time=timestamp(journal.posted_at_ms),
        lines=[
            pay_service_pb2.JournalLine(
                account_id=line.account_id,
                owner_id=line.owner_id,
                account_kind=KIND_NUMBER[AccountKind(line.account_kind)],
                amount=money_pb2.Money(currency_code=line.currency, amount_minor=line.amount_minor),
                balance_after_minor=line.balance_after_minor,
            )
            for line in journal.lines
        ],
    )
