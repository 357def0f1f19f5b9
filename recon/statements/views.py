"""Statements and their lines as the protos show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from paymesh.recon.v1 import break_pb2, statement_pb2, statement_service_pb2
from recon.statements.importing import Phase, Progress
from recon.statements.judging import ORDER_PREFIX, LineState
from recon.statements.model import Format, LineKind
from recon.statements.states import StatementState
from recon.tables import Statement, StatementBalance, StatementLine
from recon.views import TYPES

FORMATS = {one.value: statement_pb2.StatementFormat.Value(f"STATEMENT_FORMAT_{one}") for one in Format}
STATES = {one.value: statement_pb2.StatementState.Value(f"STATEMENT_STATE_{one}") for one in StatementState}
LINE_KINDS = {one.value: statement_pb2.StatementLineKind.Value(f"STATEMENT_LINE_KIND_{one}") for one in LineKind}
PHASES = {one: statement_service_pb2.ImportPhase.Value(f"IMPORT_PHASE_{one}") for one in Phase}

_NO_TYPE = break_pb2.BREAK_TYPE_UNSPECIFIED


def statement_to_proto(
    row: Statement,
    balances: Iterable[statement_pb2.StatementBalance] = (),
    totals: Iterable[statement_pb2.StatementTotal] = (),
) -> statement_pb2.Statement:
    """A statement; lists leave balances and totals out."""
    return statement_pb2.Statement(
        statement_id=row.id,
        channel=row.channel,
        account=row.account,
        business_date=row.business_date,
        format=FORMATS[row.format],
        state=STATES[row.state],
        file_name=row.file_name,
        sha256=row.file_digest,
        size_bytes=row.size_bytes,
        line_count=row.line_count,
        known_line_count=row.known_line_count,
        replaces_statement_id=row.replaces_id,
        replaced_by_statement_id=row.replaced_by_id,
        balances=balances,
        totals=totals,
        biz_id=row.biz_id,
        create_time=_timestamp(row.created_at_ms),
        finish_time=None if row.finished_at_ms is None else _timestamp(row.finished_at_ms),
        version=row.version,
    )


def balance_to_proto(row: StatementBalance, previous: StatementBalance | None) -> statement_pb2.StatementBalance:
    """A balance, and how it fits the one before it."""
    continuity, gap_minor = continuity_of(row, previous)
    return statement_pb2.StatementBalance(
        account=row.account,
        currency_code=row.currency,
        has_opening=row.opening_minor is not None,
        opening_minor=row.opening_minor or 0,
        has_closing=row.closing_minor is not None,
        closing_minor=row.closing_minor or 0,
        from_date=row.from_date,
        to_date=row.to_date,
        continuity=continuity,
        previous_statement_id="" if previous is None else previous.statement_id,
        gap_minor=gap_minor,
    )


def continuity_of(
    row: StatementBalance, previous: StatementBalance | None
) -> tuple[statement_pb2.Continuity.ValueType, int]:
    """How an opening balance fits the closing balance before it, and by how much it is higher."""
    if previous is None:
        return statement_pb2.CONTINUITY_FIRST, 0
    if row.opening_minor is None or previous.closing_minor is None:
        return statement_pb2.CONTINUITY_UNKNOWN, 0
    gap_minor = row.opening_minor - previous.closing_minor
    # Several files of one day are common: they follow each other by their balances.
    if gap_minor and row.from_date <= previous.to_date:
        return statement_pb2.CONTINUITY_OVERLAP, gap_minor
    return statement_pb2.CONTINUITY_GAP if gap_minor else statement_pb2.CONTINUITY_CONTINUOUS, gap_minor


def totals_to_proto(found: Sequence[tuple[Any, ...]]) -> list[statement_pb2.StatementTotal]:
    """The current lines by kind, currency and difference; ``found`` as queries.totals_of gives it, of many shards."""
    sums: dict[tuple[str, str, str], list[int]] = {}
    for kind, currency, difference, state, *numbers in found:
        if state == LineState.CURRENT:
            counted = sums.setdefault((kind, currency, difference), [0, 0, 0])
            for at, number in enumerate(numbers):
                counted[at] += int(number)
    return [
        statement_pb2.StatementTotal(
            kind=LINE_KINDS[kind],
            currency_code=currency,
            difference=TYPES[difference] if difference else _NO_TYPE,
            line_count=count,
            amount_minor=amount_minor,
            fee_minor=fee_minor,
        )
        for (kind, currency, difference), (count, amount_minor, fee_minor) in sorted(sums.items())
    ]


def line_to_proto(row: StatementLine, is_done: bool) -> statement_pb2.StatementLine:
    """A line of a statement, all of whose lines are matched where ``is_done``."""
    return statement_pb2.StatementLine(
        line_id=row.id,
        statement_id=row.statement_id,
        line_no=row.line_no,
        kind=LINE_KINDS[row.kind],
        provider_line_id=row.provider_line_id,
        channel_order_id=row.match_ref if row.match_ref.startswith(ORDER_PREFIX) else "",
        provider_reference=row.provider_reference,
        amount_minor=row.amount_minor,
        fee_minor=row.fee_minor,
        currency_code=row.currency,
        business_date=row.business_date,
        is_reversal=bool(row.is_reversal),
        outcome=_outcome(row, is_done),
        difference=TYPES[row.difference] if row.difference else _NO_TYPE,
        break_id=row.break_id or "",
        account=row.account,
    )


def _outcome(row: StatementLine, is_done: bool) -> statement_pb2.StatementLineOutcome.ValueType:
    if row.state == LineState.REPLACED:
        return statement_pb2.STATEMENT_LINE_OUTCOME_REPLACED
    if row.kind != LineKind.MOVEMENT:
        return statement_pb2.STATEMENT_LINE_OUTCOME_COUNTED
    if row.difference:
        return statement_pb2.STATEMENT_LINE_OUTCOME_DIFFERS
    return statement_pb2.STATEMENT_LINE_OUTCOME_AGREED if is_done else statement_pb2.STATEMENT_LINE_OUTCOME_WAITING


def progress_to_proto(
    progress: Progress, statement: statement_pb2.Statement | None
) -> statement_service_pb2.ImportStatementResponse:
    """How far an import is."""
    return statement_service_pb2.ImportStatementResponse(
        phase=PHASES[progress.phase],
        received_bytes=progress.received_bytes,
        read_line_count=progress.read_lines,
        stored_line_count=progress.stored_lines,
        matched_line_count=progress.matched_lines,
        opened_break_count=progress.opened_breaks,
        closed_break_count=progress.closed_breaks,
        was_known=progress.was_known,
        statement=statement,
    )


def _timestamp(ms: int) -> Timestamp:
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)
