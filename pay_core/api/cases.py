"""PayService: cases, and the versions of the rules."""

from __future__ import annotations

from typing import Any

from pay_core import queries
from pay_core.case import CaseResolution
from pay_core.case_commands import ResolveCase
from pay_core.convert import case_proto
from pay_core.ledger import timestamp
from pay_core.terms import TermsBook
from paykit import context as business_context
from paykit.errors import NotFound
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.pay.v1 import pay_service_pb2, payment_pb2

_STATE: Any = payment_pb2.CaseState
_RESOLUTION: Any = payment_pb2.CaseResolution
_REASON_CHARS_MAX = 255


class CaseApi:
    """The handlers, for PayApi to inherit."""

    _store: Store
    _terms: TermsBook

    async def GetCase(self, request: Any, context: Any) -> Any:
        fields = Fields()
        case_id = fields.id("case_id", request.case_id, "cas")
        fields.raise_if_any()
        case = await queries.case_by_id(self._store, case_id, shadow=business_context.current().shadow)
        return pay_service_pb2.GetCaseResponse(case=case_proto(case))

    async def ListCases(self, request: Any, context: Any) -> Any:
        fields = Fields()
        if request.state:
            fields.enum("state", request.state, _STATE)
        size = fields.page_size(request.page_size)
        scope = f"cases {request.state}"
        before_id = fields.page_token(request.page_token, scope, str)
        fields.raise_if_any()
        state = _STATE.Name(request.state).removeprefix("CASE_STATE_") if request.state else ""
        shadow = business_context.current().shadow
        rows = await queries.cases_in(self._store, state, before_id, size + 1, shadow=shadow)
        token = encode_page_token(scope, rows[size - 1].id) if len(rows) > size else ""
        return pay_service_pb2.ListCasesResponse(cases=[case_proto(row) for row in rows[:size]], next_page_token=token)

    async def ResolveCase(self, request: Any, context: Any) -> Any:
        fields = Fields()
        fields.request_id(request.request_id)
        case_id = fields.id("case_id", request.case_id, "cas")
        fields.enum("resolution", request.resolution, _RESOLUTION)
        fields.text("reason", request.reason, _REASON_CHARS_MAX, required=True)
        fields.raise_if_any()
        resolution = CaseResolution(_RESOLUTION.Name(request.resolution).removeprefix("CASE_RESOLUTION_"))
        origin = Origin.rpc(business_context.current(), "ResolveCase", case_id, request.request_id, request)
        command = ResolveCase(origin, case_id, resolution, request.reason, self._terms.now())
        return pay_service_pb2.ResolveCaseResponse(case=case_proto(await self._store.run(command)))

    async def GetRules(self, request: Any, context: Any) -> Any:
        fields = Fields()
        if request.version < 0:
            fields.fail("version", "must be greater than zero, or be left out")
        fields.raise_if_any()
        book = self._terms.rules
        version = request.version or book.active.version
        kept = await queries.rule_version(self._store, version, shadow=business_context.current().shadow)
        if kept is None:
            raise NotFound(f"version {version} of the rules was never active", reason="RULES_NOT_FOUND")
        return pay_service_pb2.GetRulesResponse(
            version=kept.rules_version,
            text=kept.text,
            sha256=kept.sha256,
            active_time=timestamp(kept.created_at_ms),
            active_version=book.active.version,
            load_error=book.load_error or "",
        )
