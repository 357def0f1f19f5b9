"""StatementService: field checks and translation."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

from sqlalchemy import and_, or_, select

from paykit.context import current
from paykit.errors import FieldViolation, InvalidArgument
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.recon.v1 import statement_pb2, statement_service_pb2, statement_service_pb2_grpc
from recon.statements import queries, views
from recon.statements.importing import Header, Importer
from recon.statements.model import Format
from recon.statements.states import StatementState
from recon.tables import Statement, StatementLine

_IMPORT = "/paymesh.recon.v1.StatementService/ImportStatement"
_CHUNK_BYTES_MAX = 4 << 20
_FILE_NAME_MAX_CHARS = 255
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHANNEL = re.compile(r"[a-z][a-z0-9_]{0,31}")
_FORMAT_NAMES = {number: Format(name) for name, number in views.FORMATS.items()}
_FORMATS: Any = statement_pb2.StatementFormat  # the stubs show the class, not its wrapper
# Statements whose balances others are measured by.
_COUNTING = (StatementState.MATCHING.value, StatementState.DONE.value)

_statement = Statement.__table__
_line = StatementLine.__table__


class StatementService(statement_service_pb2_grpc.StatementServiceServicer):
    """Imports statements and shows them."""

    def __init__(self, store: Store, importer: Importer) -> None:
        self._store, self._importer = store, importer

    async def ImportStatement(
        self, requests: AsyncIterator[statement_service_pb2.ImportStatementRequest], servicer: Any
    ) -> AsyncIterator[statement_service_pb2.ImportStatementResponse]:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidArgument([FieldViolation("header", "required, before any chunk")])
        async for progress in self._importer.run(_header(first.header), _chunks(requests)):
            row = progress.statement
            statement = None if row is None else await self._whole(row)
            yield views.progress_to_proto(progress, statement)

    async def GetStatement(
        self, request: statement_service_pb2.GetStatementRequest, servicer: Any
    ) -> statement_service_pb2.GetStatementResponse:
        fields = Fields()
        statement_id = fields.id("statement_id", request.statement_id, "stm")
        fields.raise_if_any()
        row = await queries.statement_of(self._store, statement_id, current().shadow)
        return statement_service_pb2.GetStatementResponse(statement=await self._whole(row))

    async def ListStatements(
        self, request: statement_service_pb2.ListStatementsRequest, servicer: Any
    ) -> statement_service_pb2.ListStatementsResponse:
        fields = Fields()
        channel = fields.name("channel", request.channel, required=False)
        day = _date(fields, "business_date", request.business_date, required=False)
        page_size = fields.page_size(request.page_size)
        scope = f"recon.statements/{channel}/{day}"
        before_id = fields.page_token(request.page_token, scope, str)
        fields.raise_if_any()
        wanted = select(_statement).order_by(_statement.c.id.desc()).limit(page_size + 1)
        if channel:
            wanted = wanted.where(_statement.c.channel == channel)
        if day:
            wanted = wanted.where(_statement.c.business_date == day)
        if before_id is not None:
            wanted = wanted.where(_statement.c.id < before_id)
        rows = await self._store.fetch_everywhere(Statement, wanted, shadow=current().shadow)
        rows.sort(key=lambda row: row.id, reverse=True)
        page = rows[:page_size]
        token = encode_page_token(scope, page[-1].id) if len(rows) > page_size else ""
        statements = [views.statement_to_proto(row) for row in page]
        return statement_service_pb2.ListStatementsResponse(statements=statements, next_page_token=token)

    async def ListStatementLines(
        self, request: statement_service_pb2.ListStatementLinesRequest, servicer: Any
    ) -> statement_service_pb2.ListStatementLinesResponse:
        fields = Fields()
        statement_id = fields.id("statement_id", request.statement_id, "stm")
        page_size = fields.page_size(request.page_size)
        scope = f"recon.lines/{statement_id}/{request.only_differing}"
        after = fields.page_token(request.page_token, scope, tuple[str, str])
        fields.raise_if_any()
        shadow = current().shadow
        statement = await queries.statement_of(self._store, statement_id, shadow)
        c = _line.c
        wanted = select(_line).where(c.statement_id == statement_id).order_by(c.match_ref, c.id).limit(page_size + 1)
        if request.only_differing:
            wanted = wanted.where(c.difference != "")
        if after is not None:
            ref, id_ = after
            wanted = wanted.where(or_(c.match_ref > ref, and_(c.match_ref == ref, c.id > id_)))
        rows = await self._store.fetch_everywhere(StatementLine, wanted, shadow=shadow)
        rows.sort(key=lambda row: (row.match_ref, row.id))
        page = rows[:page_size]
        last = page[-1] if len(rows) > page_size else None
        token = "" if last is None else encode_page_token(scope, (last.match_ref, last.id))
        is_done = statement.state in (StatementState.DONE, StatementState.REPLACED)
        lines = [views.line_to_proto(row, is_done) for row in page]
        return statement_service_pb2.ListStatementLinesResponse(lines=lines, next_page_token=token)

    async def _whole(self, row: Statement) -> statement_pb2.Statement:
        """A statement with its balances and totals."""
        context = current()
        balances = []
        for balance in await queries.balances_of(self._store, row, context.shadow):
            previous = await queries.balance_before(self._store, balance, _COUNTING, context.shadow)
            balances.append(views.balance_to_proto(balance, previous))
        totals = views.totals_to_proto(await queries.totals_of(self._store, context.mode, row.id))
        return views.statement_to_proto(row, balances, totals)


async def _chunks(requests: AsyncIterator[statement_service_pb2.ImportStatementRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidArgument([FieldViolation("header", "given twice, or a part that is neither")])
        if len(request.chunk) > _CHUNK_BYTES_MAX:
            raise InvalidArgument([FieldViolation("chunk", f"at most {_CHUNK_BYTES_MAX} bytes")])
        if request.chunk:
            yield request.chunk


def _header(header: statement_service_pb2.ImportStatementHeader) -> Header:
    fields = Fields("header")
    if header.request_id:
        fields.request_id(header.request_id)
    if not _CHANNEL.fullmatch(header.channel):
        fields.fail("channel", "required: the name of a channel")
    fields.name("account", header.account, required=False)
    _date(fields, "business_date", header.business_date)
    if header.format:
        fields.enum("format", header.format, _FORMATS)
    fields.text("file_name", header.file_name, _FILE_NAME_MAX_CHARS)
    if header.size_bytes < 0:
        fields.fail("size_bytes", "must not be negative")
    if header.sha256 and not _SHA256.fullmatch(header.sha256):
        fields.fail("sha256", "must be 64 hexadecimal digits, in lower case")
    fields.id("replaces_statement_id", header.replaces_statement_id, "stm", required=False)
    fields.raise_if_any()
    context = current()

    def origin(size_bytes: int, sha256: str) -> Origin:
        if not header.request_id:
            return Origin(trigger="rpc", key="", context=context)
        told = statement_service_pb2.ImportStatementHeader()
        told.CopyFrom(header)
        told.size_bytes, told.sha256 = size_bytes, sha256
        return Origin.rpc(context, _IMPORT, header.channel, header.request_id, told)

    return Header(
        origin=origin,
        context=context,
        channel=header.channel,
        account=header.account,
        business_date=header.business_date,
        format=_FORMAT_NAMES.get(header.format),
        file_name=header.file_name,
        size_bytes=header.size_bytes,
        sha256=header.sha256,
        replaces_id=header.replaces_statement_id,
    )


def _date(fields: Fields, field: str, value: str, *, required: bool = True) -> str:
    if not value and not required:
        return ""
    try:
        if date.fromisoformat(value).isoformat() != value:
            raise ValueError
    except ValueError:
        fields.fail(field, 'must be a day as "2026-11-29"')
    return value
