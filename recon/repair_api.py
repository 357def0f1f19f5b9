"""RepairService: who calls, field checks and translation; the decisions are commands."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import select

from paykit.context import current
from paykit.errors import NotFound, PermissionDenied
from paykit.ids import slot_in
from paykit.money import AMOUNT_MINOR_MAX
from paykit.rpc.admission import INSECURE
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.recon.v1 import repair_pb2, repair_service_pb2, repair_service_pb2_grpc
from recon.repair import BY_RULE
from recon.repair_commands import ApproveRepair, ProposeRepair, RejectRepair
from recon.repair_views import KINDS, STATES, repair_to_proto
from recon.rules import Rules
from recon.settings import RepairSettings
from recon.tables import Repair

_REASON_MAX_CHARS = 255
_STATE_NAMES = {number: name for name, number in STATES.items()}
_KIND_NAMES = {number: name for name, number in KINDS.items()}
_STATE: Any = repair_pb2.RepairState  # the stubs show the class, not its wrapper
_KIND: Any = repair_pb2.RepairKind

_repair = Repair.__table__


class RepairService(repair_service_pb2_grpc.RepairServiceServicer):
    """Proposes, approves and rejects repairs, for people whom their certificates name."""

    def __init__(self, store: Store, rules: Rules, settings: RepairSettings) -> None:
        self._store = store
        self._rules = rules
        self._makers = settings.makers
        self._checkers = settings.checkers

    async def ProposeRepair(
        self, request: repair_service_pb2.ProposeRepairRequest, servicer: Any
    ) -> repair_service_pb2.ProposeRepairResponse:
        assert_person(current().caller, self._makers, "propose")
        fields = Fields()
        fields.request_id(request.request_id)
        break_id = fields.id("break_id", request.break_id, "brk")
        fields.text("reason", request.reason, _REASON_MAX_CHARS, required=True)
        if abs(request.amount_minor) > AMOUNT_MINOR_MAX:
            fields.fail("amount_minor", f"must be at most {AMOUNT_MINOR_MAX}, with either sign")
        fields.raise_if_any()
        origin = Origin.rpc(current(), "ProposeRepair", break_id, request.request_id, request)
        command = ProposeRepair(origin, break_id, request.reason, request.amount_minor, self._rules)
        repair = await self._store.run(command)
        return repair_service_pb2.ProposeRepairResponse(repair=repair_to_proto(repair))

    async def ApproveRepair(
        self, request: repair_service_pb2.ApproveRepairRequest, servicer: Any
    ) -> repair_service_pb2.ApproveRepairResponse:
        assert_person(current().caller, self._checkers, "approve")
        origin = _decision("ApproveRepair", request)
        repair = await self._store.run(ApproveRepair(origin, request.repair_id, request.reason))
        return repair_service_pb2.ApproveRepairResponse(repair=repair_to_proto(repair))

    async def RejectRepair(
        self, request: repair_service_pb2.RejectRepairRequest, servicer: Any
    ) -> repair_service_pb2.RejectRepairResponse:
        assert_person(current().caller, (*self._makers, *self._checkers), "reject")
        origin = _decision("RejectRepair", request)
        repair = await self._store.run(RejectRepair(origin, request.repair_id, request.reason))
        return repair_service_pb2.RejectRepairResponse(repair=repair_to_proto(repair))

    async def GetRepair(
        self, request: repair_service_pb2.GetRepairRequest, servicer: Any
    ) -> repair_service_pb2.GetRepairResponse:
        fields = Fields()
        repair_id = fields.id("repair_id", request.repair_id, "rpr")
        fields.raise_if_any()
        statement = select(_repair).where(_repair.c.id == repair_id)
        rows = await self._store.fetch(Repair, statement, slot=slot_in(repair_id), shadow=current().shadow)
        if not rows:
            raise NotFound(f"there is no repair {repair_id}", metadata={"repair_id": repair_id})
        return repair_service_pb2.GetRepairResponse(repair=repair_to_proto(rows[0]))

    async def ListRepairs(
        self, request: repair_service_pb2.ListRepairsRequest, servicer: Any
    ) -> repair_service_pb2.ListRepairsResponse:
        fields = Fields()
        if request.state:
            fields.enum("state", request.state, _STATE)
        if request.kind:
            fields.enum("kind", request.kind, _KIND)
        break_id = fields.id("break_id", request.break_id, "brk", required=False)
        biz_id = fields.id("biz_id", request.biz_id, "biz", required=False)
        scope = f"recon.repairs/{request.state}/{request.kind}/{break_id}/{biz_id}"
        page_size = fields.page_size(request.page_size)
        before_id = fields.page_token(request.page_token, scope, str)
        fields.raise_if_any()
        wanted = {
            "state": _STATE_NAMES.get(request.state),
            "kind": _KIND_NAMES.get(request.kind),
            "break_id": break_id,
            "biz_id": biz_id,
        }
        # Ids sort by time of minting, on every shard alike: the newest of all are among the newest of each.
        statement = select(_repair).order_by(_repair.c.id.desc()).limit(page_size + 1)
        for column, value in wanted.items():
            if value:
                statement = statement.where(_repair.c[column] == value)
        if before_id is not None:
            statement = statement.where(_repair.c.id < before_id)
        rows = await self._store.fetch_everywhere(Repair, statement, shadow=current().shadow)
        rows.sort(key=lambda row: row.id, reverse=True)
        page = rows[:page_size]
        token = encode_page_token(scope, page[-1].id) if len(rows) > page_size else ""
        repairs = [repair_to_proto(row) for row in page]
        return repair_service_pb2.ListRepairsResponse(repairs=repairs, next_page_token=token)


def assert_person(caller: str, patterns: tuple[str, ...], what: str) -> None:
    """That the caller is somebody who may: by the common name of a certificate, never by what the call says of itself.

    PermissionDenied: CERTIFICATE_REQUIRED without one, CALLER_NOT_ALLOWED where no pattern has the name.
    """
    if caller in ("", INSECURE):
        raise PermissionDenied(
            f"to {what} a repair takes a client certificate: this connection has none", reason="CERTIFICATE_REQUIRED"
        )
    if caller == BY_RULE or not any(fnmatchcase(caller, pattern) for pattern in patterns):
        raise PermissionDenied(f"{caller} may not {what} repairs", reason="CALLER_NOT_ALLOWED")


def _decision(method: str, request: Any) -> Origin:
    """The origin of a checker's request, its fields checked."""
    fields = Fields()
    fields.request_id(request.request_id)
    repair_id = fields.id("repair_id", request.repair_id, "rpr")
    fields.text("reason", request.reason, _REASON_MAX_CHARS, required=True)
    fields.raise_if_any()
    return Origin.rpc(current(), method, repair_id, request.request_id, request)
