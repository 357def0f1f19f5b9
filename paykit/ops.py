"""OpsService: what engineers on call ask, answered by every service from its own system tables."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import ColumnElement, select

from paykit import context as business_context
from paykit.errors import NotFound
from paykit.ids import is_id, slot_in
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.command import Change
from paykit.store.queries import Query, among
from paykit.store.row import Row
from paykit.store.store import Store
from paykit.store.system import CommandRecord, DeadLetter
from paymesh.ops.v1 import ops_service_pb2, ops_service_pb2_grpc

_MAX_TIMELINE = 2000
_RECORD = CommandRecord.__table__
_TIMELINE = Query(
    select(_RECORD.c.created_at_ms, _RECORD.c.name, _RECORD.c.trigger, _RECORD.c.caller, _RECORD.c.changes)
    .where(among(_RECORD.c.biz_id))
    .order_by(_RECORD.c.created_at_ms)
    .limit(_MAX_TIMELINE),
    _RECORD.c.biz_id,
)
_decode_changes = msgspec.json.Decoder(list[Change]).decode

Replay = Callable[[ops_service_pb2.ReplayDeadLetterRequest, DeadLetter], Awaitable[DeadLetter]]


class Lookup(NamedTuple):
    """How an id of one kind leads to its business id: by a row that has one, or by that row's parent.

    ``prefix`` is empty for references that are no ids of ours; they are looked for on every shard.
    """

    prefix: str
    row_type: type[Row]
    column: str = "id"
    parent: type[Row] | None = None
    parent_column: str = ""


class OpsApi(ops_service_pb2_grpc.OpsServiceServicer):
    """Timelines and dead letters of one service."""

    def __init__(self, store: Store, lookups: list[Lookup], replay: Replay) -> None:
        self._store = store
        self._lookups = lookups
        self._replay = replay

    async def GetTimeline(self, request: Any, context: Any) -> Any:
        fields = Fields()
        fields.text("id", request.id, 64, required=True)
        fields.raise_if_any()
        biz_id = await self._biz_id(request.id, shadow=request.shadow)
        response = ops_service_pb2.GetTimelineResponse(biz_id=biz_id)
        if not biz_id:
            return response
        response.entries.extend(await timeline(self._store, biz_id, shadow=request.shadow))
        return response

    async def _biz_id(self, text: str, *, shadow: bool) -> str:
        if is_id(text, "biz"):
            return text
        for lookup in self._lookups:
            if lookup.prefix and not is_id(text, lookup.prefix):
                continue
            row = await self._find(lookup.row_type, lookup.row_type.__table__.c[lookup.column] == text, text, shadow)
            if row is not None and lookup.parent is not None:
                parent_id = getattr(row, lookup.parent_column)
                row = await self._find(lookup.parent, lookup.parent.__table__.c.id == parent_id, parent_id, shadow)
            if row is not None:
                return str(row.biz_id)  # type: ignore[attr-defined]
        return ""

    async def _find(self, row_type: type[Row], where: ColumnElement[bool], value: str, shadow: bool) -> Row | None:
        if not value.isascii():
            return None  # no id and no reference is
        statement = select(row_type.__table__).where(where).limit(1)
        if is_id(value):
            found = await self._store.fetch(row_type, statement, slot=slot_in(value), shadow=shadow)
        else:
            found = await self._store.fetch_everywhere(row_type, statement, shadow=shadow)
        return found[0] if found else None

    async def ListDeadLetters(self, request: Any, context: Any) -> Any:
        fields = Fields()
        size = fields.page_size(request.page_size)
        scope = f"dead letters {request.shadow}"
        before_id = fields.page_token(request.page_token, scope, str)
        fields.raise_if_any()
        table = DeadLetter.__table__
        statement = select(table).order_by(table.c.id.desc()).limit(size + 1)
        if before_id is not None:
            statement = statement.where(table.c.id < before_id)
        rows = await self._store.fetch_everywhere(DeadLetter, statement, shadow=request.shadow)
        rows.sort(key=lambda row: row.id, reverse=True)
        token = encode_page_token(scope, rows[size - 1].id) if len(rows) > size else ""
        letters = [_dead_letter(row) for row in rows[:size]]
        return ops_service_pb2.ListDeadLettersResponse(dead_letters=letters, next_page_token=token)

    async def ReplayDeadLetter(self, request: Any, context: Any) -> Any:
        fields = Fields()
        fields.request_id(request.request_id)
        id_ = fields.id("dead_letter_id", request.dead_letter_id, "ded")
        fields.raise_if_any()
        shadow = business_context.current().shadow
        row = await self._find(DeadLetter, DeadLetter.__table__.c.id == id_, id_, shadow)
        if row is None:
            raise NotFound(f"no dead letter {id_}", reason="DEAD_LETTER_NOT_FOUND")
        assert isinstance(row, DeadLetter)
        replayed = await self._replay(request, row)
        return ops_service_pb2.ReplayDeadLetterResponse(dead_letter=_dead_letter(replayed))


async def timeline(store: Store, biz_id: str, *, shadow: bool) -> list[ops_service_pb2.TimelineEntry]:
    """What a service did under a business id, on all shards, oldest first; the first 2,000 of each shard."""
    records = await store.query_everywhere(_TIMELINE, [biz_id], shadow=shadow)
    records.sort(key=lambda record: record[0])
    return [_entry(store.service, *record) for record in records]


def merged(parts: Iterable[Iterable[ops_service_pb2.TimelineEntry]]) -> list[ops_service_pb2.TimelineEntry]:
    """Timelines as one, oldest first; what is of one millisecond stays in the order of ``parts``."""
    return sorted(itertools.chain.from_iterable(parts), key=lambda entry: entry.time.ToMilliseconds())


def _entry(
    service: str, created_at_ms: int, name: str, trigger: str, caller: str, changes: str
) -> ops_service_pb2.TimelineEntry:
    return ops_service_pb2.TimelineEntry(
        time=_timestamp(created_at_ms),
        service=service,
        command=name,
        trigger=trigger,
        caller=caller,
        changes=[
            ops_service_pb2.Change(
                id=change.id,
                entity=change.entity,
                parent_id=change.parent_id,
                from_state=change.from_state,
                to_state=change.to_state,
                note=change.note,
            )
            for change in _decode_changes(changes)
        ],
    )


def _dead_letter(row: DeadLetter) -> ops_service_pb2.DeadLetter:
    return ops_service_pb2.DeadLetter(
        dead_letter_id=row.id,
        consumer=row.consumer,
        destination=row.destination,
        message_id=row.message_id,
        biz_id=row.biz_id,
        state=row.state,
        error=row.error,
        create_time=_timestamp(row.created_at_ms),
    )


def _timestamp(ms: int) -> Timestamp:
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)
