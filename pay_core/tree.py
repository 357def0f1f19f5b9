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
from paykit.store.reads import Snapshot
from paykit.store.row import RowT
from paykit.store.store import Store

SOURCES_MAX = 1_000
_ROWS_MAX = 20_000  # of one kind: far more than an order has, and what a message can carry
_VALUES_MAX = 1_000  # in one statement


class BookedJournal(NamedTuple):
    """A journal, and its entries with the accounts they change."""

    journal: Journal
    lines: list[tuple[Entry, Account]]


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
        payments = await _by(snapshot, Payment, "source_id", source_ids)
        cases: list[PaymentCase] = []
        fresh = payments
        while fresh:
            found = await _by(snapshot, PaymentCase, "payment_id", [payment.id for payment in fresh])
            cases += found
            known = {payment.id for payment in payments}
            decided = [case.resolution_payment_id for case in found if case.resolution_payment_id]
            fresh = await _by(snapshot, Payment, "id", [id_ for id_ in decided if id_ not in known])
            payments += fresh
        payment_ids = [payment.id for payment in payments]
        instructions = await _by(snapshot, Instruction, "payment_id", payment_ids)
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
        sorted(journals, key=lambda booked: (booked.journal.posted_at_ms, booked.journal.id)),
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
    journals = await _by(snapshot, Journal, "payment_id", payment_ids)
    entries = await _by(snapshot, Entry, "journal_id", [journal.id for journal in journals])
    account_ids = list(dict.fromkeys(entry.account_id for entry in entries))
    accounts = {account.id: account for account in await _by(snapshot, Account, "id", account_ids)}
    lines: dict[str, list[tuple[Entry, Account]]] = defaultdict(list)
    for entry in sorted(entries, key=lambda row: row.id):
        lines[entry.journal_id].append((entry, accounts[entry.account_id]))
    return [BookedJournal(journal, lines[journal.id]) for journal in journals]


async def _by(snapshot: Snapshot, row_type: type[RowT], column: str, values: Sequence[str]) -> list[RowT]:
    """The rows whose ``column`` is one of ``values``."""
    table = row_type.__table__
    key: Column[Any] = table.c[column]
    found: list[RowT] = []
    for start in range(0, len(values), _VALUES_MAX):
        statement = select(table).where(key.in_(values[start : start + _VALUES_MAX])).limit(_ROWS_MAX + 1 - len(found))
        found += await snapshot.fetch(row_type, statement)
        if len(found) > _ROWS_MAX:
            raise FailedPrecondition(
                f"the order has more than {_ROWS_MAX} rows of {table.name}", reason="TREE_TOO_LARGE"
            )
    return found
