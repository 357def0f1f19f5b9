"""ReconService: field checks and translation; the decisions are commands."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from paykit.context import current
from paykit.errors import NotFound
from paykit.ids import slot_in
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.recon.v1 import recon_service_pb2, recon_service_pb2_grpc, repair_pb2
from recon import summary
from recon.break_filter import break_filter
from recon.commands import CloseBreak
from recon.matching import MatchKind, MatchState
from recon.repair_views import repair_to_proto
from recon.tables import Break, Repair
from recon.views import KINDS, break_to_proto

_CLOSE_BREAK = "/paymesh.recon.v1.ReconService/CloseBreak"
_REASON_MAX_CHARS = 255
_REPAIRS_MAX = 50  # of one break that are shown with it

_break = Break.__table__
_repair = Repair.__table__


class ReconService(recon_service_pb2_grpc.ReconServiceServicer):
    """Reads and closes breaks; counts matches."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def GetBreak(
        self, request: recon_service_pb2.GetBreakRequest, servicer: Any
    ) -> recon_service_pb2.GetBreakResponse:
        fields = Fields()
        break_id = fields.id("break_id", request.break_id, "brk")
        fields.raise_if_any()
        statement = select(_break).where(_break.c.id == break_id)
        rows = await self._store.fetch(Break, statement, slot=slot_in(break_id), shadow=current().shadow)
        if not rows:
            raise NotFound(f"there is no break {break_id}", metadata={"break_id": break_id})
        response = recon_service_pb2.GetBreakResponse(repairs=await self._repairs_of(rows[0]))
        getattr(response, "break").CopyFrom(break_to_proto(rows[0]))  # a keyword of Python
        return response

    async def _repairs_of(self, row: Break) -> list[repair_pb2.Repair]:
        statement = (
            select(_repair).where(_repair.c.break_id == row.id).order_by(_repair.c.id.desc()).limit(_REPAIRS_MAX)
        )
        found = await self._store.fetch(Repair, statement, slot=row.slot, shadow=current().shadow)
        return [repair_to_proto(repair) for repair in found]

    async def ListBreaks(
        self, request: recon_service_pb2.ListBreaksRequest, servicer: Any
    ) -> recon_service_pb2.ListBreaksResponse:
        fields = Fields()
        conditions, scope = break_filter(request, fields, self._store.clock.now_ms())
        page_size = fields.page_size(request.page_size)
        before_id = fields.page_token(request.page_token, scope, str)
        fields.raise_if_any()
        # Ids sort by time of minting, on every shard alike: the newest of all are among the newest of each.
        statement = select(_break).where(*conditions).order_by(_break.c.id.desc()).limit(page_size + 1)
        if before_id is not None:
            statement = statement.where(_break.c.id < before_id)
        rows = await self._store.fetch_everywhere(Break, statement, shadow=current().shadow)
        rows.sort(key=lambda row: row.id, reverse=True)
        page = rows[:page_size]
        token = encode_page_token(scope, page[-1].id) if len(rows) > page_size else ""
        return recon_service_pb2.ListBreaksResponse(breaks=[break_to_proto(row) for row in page], next_page_token=token)

    async def CloseBreak(
        self, request: recon_service_pb2.CloseBreakRequest, servicer: Any
    ) -> recon_service_pb2.CloseBreakResponse:
        fields = Fields()
        fields.request_id(request.request_id)
        fields.id("break_id", request.break_id, "brk")
        fields.text("reason", request.reason, _REASON_MAX_CHARS, required=True)
        fields.raise_if_any()
        origin = Origin.rpc(current(), _CLOSE_BREAK, request.break_id, request.request_id, request)
        closed = await self._store.run(CloseBreak(origin, request.break_id, request.reason))
        return recon_service_pb2.CloseBreakResponse(**{"break": break_to_proto(closed)})

    async def GetReconSummary(
        self, request: recon_service_pb2.GetReconSummaryRequest, servicer: Any
    ) -> recon_service_pb2.GetReconSummaryResponse:
        mode = current().mode
        counts = await summary.counts(self._store, mode)
        breaks = await summary.open_breaks(self._store, mode)
        return recon_service_pb2.GetReconSummaryResponse(
            counts=[
                recon_service_pb2.MatchCount(
                    kind=KINDS[kind.value],
                    matched_count=counts.get((kind.value, MatchState.MATCHED.value), 0),
                    waiting_count=counts.get((kind.value, MatchState.WAITING.value), 0),
                    broken_count=counts.get((kind.value, MatchState.BROKEN.value), 0),
                )
                for kind in MatchKind
                if any(found == kind for found, _ in counts)
            ],
            open_break_count=sum(group.break_count for group in breaks),
        )
