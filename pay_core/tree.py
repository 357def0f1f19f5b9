"""All that pay_core did for the sources of one order: payments, instructions, journals and cases, as one picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, select

from pay_core.ledger import slot_of_owner
from pay_core.orchestration import PaymentView
from pay_core.tables import Account, Entry, Instruction, Journal, Payment, PaymentCase
from paykit.errors import FailedPrecondition
from paykit.store.queries import Query, among
from paykit.store.reads import Snapshot
from paykit.store.row import RowT
from paykit.store.statements import as_rows
from paykit.store.store import Store

SOURCES_MAX = 1_000
_ROWS_MAX = 20_000  # of one kind: far more than an order has, and what a message can carry
_VALUES_MAX = 1_000  # in one statement


def _by(column: Column[Any]) -> Query:
    """The rows whose ``column`` is one of some values."""
    return Query(select(column.table).where(among(column)).limit(_ROWS_MAX + 1), column)


_BY_SOURCE, _BY_ID = _by(Payment.__table__.c.source_id), _by(Payment.__table__.c.id)
_CASES = _by(PaymentCase.__table__.c.payment_id)
_INSTRUCTIONS = _by(Instruction.__table__.c.payment_id)
_JOURNAL, _ENTRY, _ACCOUNT = Journal.__table__, Entry.__table__, Account.__table__
# One record for each entry, its journal and account beside it: BookedJournal, then JournalLine. No journal is without.
_JOURNALS = Query(
    select(
        _JOURNAL.c.id,
        _JOURNAL.c.payment_id,
        _JOURNAL.c.slot,
        _JOURNAL.c.accounting_date,
        _JOURNAL.c.posted_at_ms,
        _ENTRY.c.account_id,
        _ACCOUNT.c.owner_id,
        _ACCOUNT.c.kind,
        _ENTRY.c.currency,
        _ENTRY.c.amount_minor,
        _ENTRY.c.balance_after_minor,
    )
    .join_from(_JOURNAL, _ENTRY, _ENTRY.c.journal_id == _JOURNAL.c.id)
    .join(_ACCOUNT, _ACCOUNT.c.id == _ENTRY.c.account_id)
    .where(among(_JOURNAL.c.payment_id))
    .order_by(_ENTRY.c.id)
    .limit(_ROWS_MAX + 1),
    _JOURNAL.c.payment_id,
)


class JournalLine(NamedTuple):
    """An entry, and whose account it changed."""

    account_id: str
    owner_id: str
    account_kind: str
    currency: str
    amount_minor: int
    balance_after_minor: int


class BookedJournal(NamedTuple):
    """A journal and its entries, oldest first."""

    id: str
    payment_id: str
    slot: int
    accounting_date: str
    posted_at_ms: int
    lines: list[JournalLine]


class PaymentTree(NamedTuple):
    """What was found, each list oldest first."""

    payments: list[PaymentView]
    journals: list[BookedJournal]
    cases: list[PaymentCase]


async def payment_tree(store: Store, source_ids: Sequence[str], slot: int, *, shadow: bool) -> PaymentTree:
    """The payments made for ``source_ids`` on ``slot``, and those that carry out decisions on their cases.

    Payments, instructions, cases and the journals of that slot's shard are read in one snapshot: a payment is in it
    with all that the commands which made it what it is have written. The journals that moved its money into or out of
    accounts on other shards are read after it: one that the snapshot's state follows from (a debit there that was
    answered) is among them, and there may be later ones. A journal is always whole. FailedPrecondition
    (TREE_TOO_LARGE) beyond 20,000 rows of a kind.
    """
    async with store.snapshot(slot, shadow=shadow) as snapshot:
        payments = await _rows(snapshot, Payment, _BY_SOURCE, source_ids)
        cases: list[PaymentCase] = []
        fresh = payments
        while fresh:
            found = await _rows(snapshot, PaymentCase, _CASES, [payment.id for payment in fresh])
            cases += found
            known = {payment.id for payment in payments}
            decided = [case.resolution_payment_id for case in found if case.resolution_payment_id]
            fresh = await _rows(snapshot, Payment, _BY_ID, [id_ for id_ in decided if id_ not in known])
            payments += fresh
        payment_ids = [payment.id for payment in payments]
        instructions = await _rows(snapshot, Instruction, _INSTRUCTIONS, payment_ids)
        journals = await _journals(snapshot, payment_ids)
    here = store.map.shard_of(slot)
    for other_slot, there in _elsewhere(store, here, instructions).items():
        async with store.snapshot(other_slot, shadow=shadow) as snapshot:
            journals += await _journals(snapshot, there)
    chains: dict[str, list[Instruction]] = defaultdict(list)
    for instruction in sorted(instructions, key=lambda row: row.seq):
        chains[instruction.payment_id].append(instruction)
    return PaymentTree(
        [PaymentView(payment, chains[payment.id]) for payment in sorted(payments, key=lambda row: row.id)],
        sorted(journals, key=lambda journal: (journal.posted_at_ms, journal.id)),
        sorted(cases, key=lambda row: row.id),
    )


def _elsewhere(store: Store, here: str, instructions: Iterable[Instruction]) -> Mapping[int, list[str]]:
    """The payments that may have journals on other shards: by one slot of each such shard."""
    slots: dict[str, int] = {}
    found: dict[int, dict[str, None]] = defaultdict(dict)
    for instruction in instructions:
        if instruction.owner_id:
            slot = slot_of_owner(instruction.owner_id)
            shard = store.map.shard_of(slot)
            if shard != here:
                found[slots.setdefault(shard, slot)][instruction.payment_id] = None
    return {slot: list(payment_ids) for slot, payment_ids in found.items()}


async def _journals(snapshot: Snapshot, payment_ids: Sequence[str]) -> list[BookedJournal]:
    journals: dict[str, BookedJournal] = {}
    for found in await _records(snapshot, _JOURNALS, payment_ids):
        id_, payment_id, slot, accounting_date, posted_at_ms, *line = found
        journal = journals.get(id_)
        if journal is None:
            journal = journals[id_] = BookedJournal(id_, payment_id, slot, accounting_date, posted_at_ms, [])
        journal.lines.append(JournalLine(*line))
    return list(journals.values())


async def _rows(snapshot: Snapshot, row_type: type[RowT], query: Query, values: Sequence[str]) -> list[RowT]:
    return as_rows(row_type, await _records(snapshot, query, values))


async def _records(snapshot: Snapshot, query: Query, values: Sequence[str]) -> list[Sequence[Any]]:
    found: list[Sequence[Any]] = []
    for start in range(0, len(values), _VALUES_MAX):
        found += await snapshot.query(query, values[start : start + _VALUES_MAX])
        if len(found) > _ROWS_MAX:
            raise FailedPrecondition(f"the order has more than {_ROWS_MAX} rows of a kind", reason="TREE_TOO_LARGE")
    return found
