"""What recon compares with what it heard: payments that are over, and posted journals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Select, case, cast, func, literal, select

from pay_core.convert import payment_proto
from pay_core.ledger import JOURNAL_POSTED, Booking, Leg, journal_event
from pay_core.orchestration import EVENTS
from pay_core.payment import PaymentState, SettlementMode
from pay_core.tables import Entry, Instruction, Journal, Payment
from paykit.ids import first_id
from paykit.records import RecordKind, RecordSource, Told
from paykit.store.queries import Query, among
from paykit.store.row import Row, RowT
from paykit.store.statements import as_rows
from paykit.store.store import Store
from paymesh.event.v1 import events_pb2

POSTED = "POSTED"

_payment, _entry = Payment.__table__.c, Entry.__table__.c
_CAPTURED = (SettlementMode.AUTHORIZE.value, SettlementMode.ESCROW.value)
_decode_bookings = msgspec.json.Decoder(list[tuple[str, int, str]]).decode


def _payments(where: ColumnElement[bool]) -> Select[Any]:
    paid_minor = case((_payment.settlement_mode.in_(_CAPTURED), _payment.captured_minor), else_=_payment.amount_minor)
    return select(
        _payment.id,
        _payment.slot,
        _payment.finished_at_ms.label("at_ms"),
        _payment.state,
        paid_minor.label("amount_minor"),
        _payment.currency,
        _payment.id.label("payment_id"),
    ).where(where)


def _over(start_ms: int, end_ms: int) -> Select[Any]:
    return _payments((_payment.finished_at_ms >= start_ms) & (_payment.finished_at_ms < end_ms))


def _journals(where: ColumnElement[bool]) -> Select[Any]:
    """The sums of the entries, not what the journals say of them. What belongs to no payment is left out."""
    debit_minor = cast(func.sum(-_entry.amount_minor), BigInteger)
    is_debit = (_entry.amount_minor < 0) & (_entry.payment_id != "")
    return (
        select(
            _entry.journal_id.label("id"),
            func.min(_entry.slot).label("slot"),
            func.min(_entry.posted_at_ms).label("at_ms"),
            literal(POSTED).label("state"),
            debit_minor.label("amount_minor"),
            func.min(_entry.currency).label("currency"),
            func.min(_entry.payment_id).label("payment_id"),
        )
        .where(where & is_debit)
        .group_by(_entry.journal_id)
    )


def _posted(start_ms: int, end_ms: int) -> Select[Any]:
    # A journal's id is of the time at which it was posted.
    return _journals((_entry.journal_id >= first_id("jnl", start_ms)) & (_entry.journal_id < first_id("jnl", end_ms)))


async def _tell_payments(store: Store, ids: Sequence[str], shadow: bool) -> Mapping[str, Told]:
    payments = await _rows(store, Payment, "id", ids, shadow)
    chains: dict[str, list[Instruction]] = {}
    for instruction in await _rows(store, Instruction, "payment_id", ids, shadow):
        chains.setdefault(instruction.payment_id, []).append(instruction)
    told = {}
    for payment in payments:
        chain = sorted(chains.get(payment.id, []), key=lambda ins: ins.seq)
        event = events_pb2.PaymentEvent(payment=payment_proto(payment, chain))
        subject = EVENTS.get(PaymentState(payment.state), "")
        told[payment.id] = Told(payment.biz_id, subject, event.SerializeToString())
    return told


async def _tell_journals(store: Store, ids: Sequence[str], shadow: bool) -> Mapping[str, Told]:
    entries: dict[str, list[tuple[str, int]]] = {}
    for entry in sorted(await _rows(store, Entry, "journal_id", ids, shadow), key=lambda entry: entry.id):
        entries.setdefault(entry.journal_id, []).append((entry.account_id, entry.amount_minor))
    told = {}
    for journal in await _rows(store, Journal, "id", ids, shadow):
        bookings = [Booking(id_, minor, Leg(leg)) for id_, minor, leg in _decode_bookings(journal.bookings)]
        event = journal_event(journal, bookings, entries.get(journal.id, []))
        told[journal.id] = Told(journal.biz_id, JOURNAL_POSTED, event.SerializeToString())
    return told


_QUERIES: dict[tuple[type[Row], str], Query] = {
    (row_type, column): Query(
        select(row_type.__table__).where(among(row_type.__table__.c[column])), row_type.__table__.c[column]
    )
    for row_type, column in (
        (Payment, "id"),
        (Instruction, "payment_id"),
        (Journal, "id"),
        (Entry, "journal_id"),
    )
}


async def _rows(store: Store, row_type: type[RowT], column: str, ids: Sequence[str], shadow: bool) -> list[RowT]:
    if not ids:
        return []
    return as_rows(row_type, await store.query_everywhere(_QUERIES[row_type, column], list(ids), shadow=shadow))


SOURCES = (
    RecordSource(RecordKind.PAYMENT, "pay", _over, lambda ids: _payments(_payment.id.in_(ids)), _tell_payments),
    RecordSource(RecordKind.JOURNAL, "jnl", _posted, lambda ids: _journals(_entry.journal_id.in_(ids)), _tell_journals),
)
