"""PayService.GetPaymentTree: the part of an order's tree that pay_core has."""

from __future__ import annotations

from typing import Any

from pay_core import tree
from pay_core.convert import case_proto, journal_proto, payment_proto
from paykit import context as business_context
from paykit.ids import is_id, slot_in
from paykit.rpc.checks import Fields
from paykit.store.store import Store
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
            journals=[journal_proto(*booked) for booked in found.journals],
            cases=[case_proto(case) for case in found.cases],
        )
