"""RecordService: what a service has that ended, answered by every service for its own kinds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from paykit import records
from paykit.context import current
from paykit.ids import SLOT_COUNT
from paykit.records import Ended, Range, RecordKind, RecordSource, Told
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.store import Store
from paymesh.ops.v1 import record_service_pb2, record_service_pb2_grpc

_RANGE_MAX_MS = 86_400_000
_SLOTS_MAX = 64
_IDS_MAX = 100
_KIND: Any = record_service_pb2.RecordKind  # the stubs show the class, not its wrapper
KIND_NUMBER = {kind: _KIND.Value(f"RECORD_KIND_{kind}") for kind in RecordKind}


class RecordApi(record_service_pb2_grpc.RecordServiceServicer):
    """Digests and pages of the records of one service."""

    def __init__(self, store: Store, sources: Iterable[RecordSource]) -> None:
        self._store = store
        self._sources = {KIND_NUMBER[source.kind]: source for source in sources}

    async def GetDigests(self, request: Any, servicer: Any) -> Any:
        fields = Fields()
        source = self._source(fields, request.kind)
        start_ms, end_ms = _range(fields, request)
        fields.raise_if_any()
        found = await records.digests(self._store, source, current().mode, start_ms, end_ms)
        return record_service_pb2.GetDigestsResponse(
            digests=[
                record_service_pb2.Digest(
                    slot=slot,
                    record_count=digest.record_count,
                    amount_sum_minor=digest.amount_sum_minor,
                    hash_xor=records.unsigned(digest.hash_xor),
                )
                for slot, digest in sorted(found.items())
            ]
        )

    async def ListRecords(self, request: Any, servicer: Any) -> Any:
        fields = Fields()
        source = self._source(fields, request.kind)
        start_ms, end_ms = _range(fields, request)
        slots = tuple(sorted(set(fields.count("slots", request.slots, 1, _SLOTS_MAX))))
        if not all(0 <= slot < SLOT_COUNT for slot in slots):
            fields.fail("slots", f"must be 0 to {SLOT_COUNT - 1}")
        size = fields.page_size(request.page_size)
        scope = f"records {request.kind} {start_ms} {end_ms} {slots}"
        after = fields.page_token(request.page_token, scope, tuple[int, str])
        fields.raise_if_any()
        wanted = Range(start_ms, end_ms, slots, after)
        found = await records.page(self._store, source, current().mode, wanted, size + 1)
        shown, token = found[:size], ""
        if len(found) > size:
            token = encode_page_token(scope, (shown[-1].at_ms, shown[-1].id))
        return record_service_pb2.ListRecordsResponse(
            records=[_proto(record) for record in shown], next_page_token=token
        )

    async def GetRecords(self, request: Any, servicer: Any) -> Any:
        fields = Fields()
        source = self._source(fields, request.kind)
        ids = list(dict.fromkeys(fields.count("record_ids", request.record_ids, 1, _IDS_MAX)))
        for index, id_ in enumerate(ids):
            fields.id(f"record_ids[{index}]", id_, source.prefix)
        fields.raise_if_any()
        context = current()
        found = await records.by_ids(self._store, source, context.mode, ids)
        told = await source.tell(self._store, [record.id for record in found], context.shadow)
        return record_service_pb2.GetRecordsResponse(
            records=[_proto(record, told.get(record.id)) for record in sorted(found, key=lambda record: record.id)]
        )

    def _source(self, fields: Fields, kind: int) -> RecordSource:
        fields.enum("kind", kind, _KIND, tuple(self._sources))
        fields.raise_if_any()
        return self._sources[kind]


def _range(fields: Fields, request: Any) -> tuple[int, int]:
    start_ms, end_ms = request.start_time.ToMilliseconds(), request.end_time.ToMilliseconds()
    if not 0 <= start_ms < end_ms <= start_ms + _RANGE_MAX_MS:
        fields.fail("end_time", "must be later than start_time, by a day at most")
    return start_ms, end_ms


def _proto(record: Ended, told: Told | None = None) -> record_service_pb2.Record:
    message = record_service_pb2.Record(
        record_id=record.id,
        state=record.state,
        amount_minor=record.amount_minor,
        currency_code=record.currency,
        payment_id=record.payment_id,
    )
    if record.at_ms is not None:
        message.finish_time.CopyFrom(Timestamp(seconds=record.at_ms // 1000, nanos=record.at_ms % 1000 * 1_000_000))
    if told is not None:
        message.biz_id, message.event_subject, message.event_body = told.biz_id, told.subject, told.body
    return message
