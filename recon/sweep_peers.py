"""Asks the services, by RPC, which records they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from paykit.money import format_minor, is_currency
from paykit.record_api import KIND_NUMBER
from paykit.records import Digest, RecordKind, hash64, signed
from paykit.rpc.channels import Channels
from paymesh.ops.v1 import record_service_pb2, record_service_pb2_grpc
from recon.peers import CHANNEL_GATEWAY, PAY_CORE, TRADE_CORE

_OWNERS = {
    RecordKind.ATTEMPT: TRADE_CORE,
    RecordKind.PAYMENT: PAY_CORE,
    RecordKind.JOURNAL: PAY_CORE,
    RecordKind.ORDER: CHANNEL_GATEWAY,
}
_PAGE_SIZE = 200


class Shown(NamedTuple):
    """A record as its service has it."""

    id: str
    state: str
    amount_minor: int
    currency: str
    payment_id: str
    biz_id: str
    subject: str
    body: bytes

    @property
    def hash64(self) -> int:
        """See paykit.records."""
        return hash64(self.id, self.state, self.amount_minor, self.currency)

    @property
    def risk(self) -> tuple[int, str]:
        """Its amount, in minor units of its currency."""
        return self.amount_minor, self.currency

    def describe(self) -> str:
        """For people."""
        if is_currency(self.currency):
            return f"{self.state} with {format_minor(self.amount_minor, self.currency)}"
        return f"{self.state} with {self.amount_minor} minor"


class RecordPeers:
    """The services that have records. Questions go out under the current context; they raise MeshError."""

    def __init__(self, channels: Channels) -> None:
        stub = record_service_pb2_grpc.RecordServiceStub
        self._stubs = {kind: stub(channels.get(owner)) for kind, owner in _OWNERS.items()}

    async def digests(self, kind: RecordKind, start_ms: int, end_ms: int) -> dict[int, Digest]:
        """By slot."""
        request = record_service_pb2.GetDigestsRequest(kind=KIND_NUMBER[kind], **_range(start_ms, end_ms))
        response = await self._stubs[kind].GetDigests(request)
        return {
            digest.slot: Digest(digest.record_count, digest.amount_sum_minor, signed(digest.hash_xor))
            for digest in response.digests
        }

    async def records(self, kind: RecordKind, start_ms: int, end_ms: int, slots: Sequence[int]) -> dict[str, Shown]:
        """Those of some slots, by id, without their events."""
        request = record_service_pb2.ListRecordsRequest(
            kind=KIND_NUMBER[kind], slots=slots, page_size=_PAGE_SIZE, **_range(start_ms, end_ms)
        )
        found: dict[str, Shown] = {}
        while True:
            response = await self._stubs[kind].ListRecords(request)
            found.update({record.record_id: _shown(record) for record in response.records})
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token

    async def named(self, kind: RecordKind, ids: Sequence[str]) -> list[Shown]:
        """Those that exist, whether they ended or not, with their events."""
        request = record_service_pb2.GetRecordsRequest(kind=KIND_NUMBER[kind], record_ids=ids)
        response = await self._stubs[kind].GetRecords(request)
        return [_shown(record) for record in response.records]


def _range(start_ms: int, end_ms: int) -> dict[str, Any]:
    return {"start_time": _timestamp(start_ms), "end_time": _timestamp(end_ms)}


def _timestamp(ms: int) -> Timestamp:
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def _shown(record: record_service_pb2.Record) -> Shown:
    return Shown(
        record.record_id,
        record.state,
        record.amount_minor,
        record.currency_code,
        record.payment_id,
        record.biz_id,
        record.event_subject,
        record.event_body,
    )
