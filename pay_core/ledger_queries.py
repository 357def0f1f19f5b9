"""Reads of the ledger that decide nothing: all statements in one place."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select

from pay_core.chart import POINTS_UNIT
from pay_core.closing import ClosingState, KindTotal, Move, carried_totals, totals_of
from pay_core.ledger import slot_of_owner
from pay_core.payment import PaymentState
from pay_core.tables import Account, BalanceSnapshot, Book, Closing, Entry, Hold, Journal, Payment
from paykit.errors import NotFound
from paykit.ids import slot_in
from paykit.store.reads import Snapshot
from paykit.store.store import Store

_ACCOUNT, _ENTRY, _JOURNAL, _HOLD = (row.__table__.c for row in (Account, Entry, Journal, Hold))
_BOOK, _CLOSING, _SNAPSHOT, _PAYMENT = (row.__table__.c for row in (Book, Closing, BalanceSnapshot, Payment))

_CREDIT = func.coalesce(func.sum(case((_ENTRY.amount_minor > 0, _ENTRY.amount_minor), else_=0)), 0)
_DEBIT = func.coalesce(func.sum(case((_ENTRY.amount_minor < 0, -_ENTRY.amount_minor), else_=0)), 0)


# Accounts, entries, holds


async def account_by_id(store: Store, account_id: str, *, shadow: bool) -> Account:
    """An account; NotFound (ACCOUNT_NOT_FOUND)."""
    statement = select(Account.__table__).where(_ACCOUNT.id == account_id)
    found = await store.fetch(Account, statement, slot=slot_in(account_id), shadow=shadow)
    if not found:
        raise NotFound(f"no account {account_id}", reason="ACCOUNT_NOT_FOUND")
    return found[0]


async def accounts_of(store: Store, owner_id: str, after_id: str | None, limit: int, *, shadow: bool) -> list[Account]:
    """An owner's accounts, oldest first, younger than ``after_id``."""
    statement = select(Account.__table__).where(_ACCOUNT.owner_id == owner_id).order_by(_ACCOUNT.id).limit(limit)
    if after_id is not None:
        statement = statement.where(_ACCOUNT.id > after_id)
    return await store.fetch(Account, statement, slot=slot_of_owner(owner_id), shadow=shadow)


class Position(NamedTuple):
    """Where a page of entries ends: entries are in order of accounting date, then of id."""

    accounting_date: str
    entry_id: str


def _after(position: Position) -> ColumnElement[bool]:
    date, entry_id = position
    return or_(_ENTRY.accounting_date > date, and_(_ENTRY.accounting_date == date, _ENTRY.id > entry_id))


def _before(position: Position) -> ColumnElement[bool]:
    date, entry_id = position
    return or_(_ENTRY.accounting_date < date, and_(_ENTRY.accounting_date == date, _ENTRY.id < entry_id))


async def entries_of(
    store: Store, account_id: str, before: Position | None, limit: int, *, shadow: bool
) -> list[Entry]:
    """An account's entries, newest first, before a position."""
    newest = (_ENTRY.accounting_date.desc(), _ENTRY.id.desc())
    statement = select(Entry.__table__).where(_ENTRY.account_id == account_id).order_by(*newest).limit(limit)
    if before is not None:
        statement = statement.where(_ENTRY.accounting_date <= before.accounting_date, _before(before))
    return await store.fetch(Entry, statement, slot=slot_in(account_id), shadow=shadow)


async def holds_of(store: Store, account_id: str, before_id: str | None, limit: int, *, shadow: bool) -> list[Hold]:
    """An account's holds, newest first, older than ``before_id``."""
    statement = select(Hold.__table__).where(_HOLD.account_id == account_id).order_by(_HOLD.id.desc()).limit(limit)
    if before_id is not None:
        statement = statement.where(_HOLD.id < before_id)
    return await store.fetch(Hold, statement, slot=slot_in(account_id), shadow=shadow)


# Statements


class Statement(NamedTuple):
    """An account over some dates. Credits and debits are positive; ``entries`` are one page."""

    account: Account
    opening_minor: int
    credit_minor: int
    debit_minor: int
    entries: list[Entry]
    is_final: bool


async def statement_of(
    store: Store, account_id: str, from_date: str, to_date: str, after: Position | None, limit: int, *, shadow: bool
) -> Statement:
    """An account from one date to another, both included, and a page of its entries; NotFound (ACCOUNT_NOT_FOUND).

    Sums of dates whose snapshots are written come from those; only later dates are added up from entries.
    """
    async with store.snapshot(slot_in(account_id), shadow=shadow) as snapshot:
        found = await snapshot.fetch(Account, select(Account.__table__).where(_ACCOUNT.id == account_id))
        if not found:
            raise NotFound(f"no account {account_id}", reason="ACCOUNT_NOT_FOUND")
        account = found[0]
        closed_through, written_through = await _written_through(snapshot, account)
        opening_minor = await _opening(snapshot, account_id, from_date, written_through)
        of_period = [
            _SNAPSHOT.account_id == account_id,
            _SNAPSHOT.accounting_date.between(from_date, to_date),
            _SNAPSHOT.accounting_date <= written_through,
        ]
        sums = (func.coalesce(func.sum(_SNAPSHOT.credit_minor), 0), func.coalesce(func.sum(_SNAPSHOT.debit_minor), 0))
        ((credit_minor, debit_minor),) = await snapshot.rows(select(*sums).where(*of_period))
        later = [
            _ENTRY.account_id == account_id,
            _ENTRY.accounting_date.between(from_date, to_date),
            _ENTRY.accounting_date > written_through,
        ]
        ((later_credit_minor, later_debit_minor),) = await snapshot.rows(select(_CREDIT, _DEBIT).where(*later))
        entries = await snapshot.fetch(Entry, _statement_page(account_id, from_date, to_date, after, limit))
    return Statement(
        account,
        opening_minor,
        credit_minor + later_credit_minor,
        debit_minor + later_debit_minor,
        entries,
        is_final=closed_through >= to_date,
    )


async def _written_through(snapshot: Snapshot, account: Account) -> tuple[str, str]:
    """Through which date the account's book is closed, and through which all snapshots are written."""
    of_book = _BOOK.book_key == f"{account.slot}/{account.currency}"
    books = await snapshot.fetch(Book, select(Book.__table__).where(of_book))
    closed_through = books[0].closed_through if books else ""
    pending = [
        _CLOSING.slot == account.slot,
        _CLOSING.currency == account.currency,
        _CLOSING.due_at_ms.is_not(None),
    ]
    ((first_pending,),) = await snapshot.rows(select(func.min(_CLOSING.accounting_date)).where(*pending))
    if first_pending is None:
        return closed_through, closed_through
    done = [_CLOSING.slot == account.slot, _CLOSING.currency == account.currency]
    done.append(_CLOSING.accounting_date < first_pending)
    ((last_done,),) = await snapshot.rows(select(func.max(_CLOSING.accounting_date)).where(*done))
    return closed_through, last_done or ""


async def _opening(snapshot: Snapshot, account_id: str, from_date: str, written_through: str) -> int:
    """The balance before a date: the last snapshot before it, and later dated entries."""
    last = (
        select(_SNAPSHOT.balance_minor)
        .where(_SNAPSHOT.account_id == account_id, _SNAPSHOT.accounting_date < from_date)
        .where(_SNAPSHOT.accounting_date <= written_through)
        .order_by(_SNAPSHOT.accounting_date.desc())
        .limit(1)
    )
    found = await snapshot.rows(last)
    later = [
        _ENTRY.account_id == account_id,
        _ENTRY.accounting_date < from_date,
        _ENTRY.accounting_date > written_through,
    ]
    total = select(func.coalesce(func.sum(_ENTRY.amount_minor), 0)).where(*later)
    ((later_minor,),) = await snapshot.rows(total)
    opening_minor: int = (found[0][0] if found else 0) + later_minor
    return opening_minor


def _statement_page(account_id: str, from_date: str, to_date: str, after: Position | None, limit: int) -> Select[Any]:
    first_date = from_date if after is None else after.accounting_date
    statement = (
        select(Entry.__table__)
        .where(_ENTRY.account_id == account_id, _ENTRY.accounting_date.between(first_date, to_date))
        .order_by(_ENTRY.accounting_date, _ENTRY.id)
        .limit(limit)
    )
    return statement if after is None else statement.where(_after(after))


# The end of day


async def payments_under_way(store: Store, book: Book, *, shadow: bool) -> int:
    """Payments of the date that a CLOSING book drains which are not over, nor authorised and waiting for a capture.

    Points move with payments in any currency.
    """
    conditions = [
        _PAYMENT.slot == book.slot,
        _PAYMENT.accounting_date == book.closing_date,
        _PAYMENT.state.in_([PaymentState.PROCESSING.value, PaymentState.REVERSING.value]),
    ]
    if book.currency != POINTS_UNIT:
        conditions.append(_PAYMENT.currency == book.currency)
    statement = select(func.count()).select_from(Payment.__table__).where(*conditions)
    ((count,),) = await _aggregate(store, book.slot, statement, shadow=shadow)
    return int(count)


async def _aggregate(store: Store, slot: int, statement: Select[Any], *, shadow: bool) -> list[tuple[Any, ...]]:
    return await store.aggregate("shadow" if shadow else "live", store.map.shard_of(slot), statement)


async def may_begin(store: Store, closing: Closing, *, shadow: bool) -> bool:
    """Whether the snapshots of the book's closing before are all written: these begin with them."""
    if not closing.previous_id:
        return True
    statement = select(_CLOSING.state).where(_CLOSING.id == closing.previous_id)
    ((state,),) = await _aggregate(store, closing.slot, statement, shadow=shadow)
    return bool(state == ClosingState.DONE)


class ClosingPage(NamedTuple):
    """What some journals of a closed date did to the accounts of a book. ``through``: the last of them."""

    moves: list[Move]
    journal_count: int
    through: str
    is_last: bool


async def closing_page(store: Store, closing: Closing, size: int, *, shadow: bool) -> ClosingPage:
    """The journals of a date behind those that are counted. They can no longer change, and nor can their number."""
    slot, date, currency = closing.slot, closing.accounting_date, closing.currency
    of_date = (_JOURNAL.slot == slot, _JOURNAL.accounting_date == date, _JOURNAL.id > closing.counted_through)
    ids = await _aggregate(
        store, slot, select(_JOURNAL.id).where(*of_date).order_by(_JOURNAL.id).limit(size), shadow=shadow
    )
    if not ids:
        return ClosingPage([], 0, closing.counted_through, is_last=True)
    through = str(ids[-1][0])
    entries = (
        select(_ENTRY.journal_id, _ENTRY.account_id, _ENTRY.amount_minor)
        .join_from(Journal.__table__, Entry.__table__, _ENTRY.journal_id == _JOURNAL.id)
        .where(*of_date, _JOURNAL.id <= through, _ENTRY.currency == currency)
    )
    credits: Counter[str] = Counter()
    debits: Counter[str] = Counter()
    journals: set[str] = set()
    for journal_id, account_id, amount_minor in await _aggregate(store, slot, entries, shadow=shadow):
        journals.add(journal_id)
        (credits if amount_minor > 0 else debits)[account_id] += abs(amount_minor)
    accounts = sorted(credits.keys() | debits.keys())
    before = await _accounts_before(store, slot, accounts, date, shadow=shadow)
    moves = [Move(id_, *before[id_], credits[id_], debits[id_]) for id_ in accounts]
    return ClosingPage(moves, len(journals), through, is_last=len(ids) < size)


async def _accounts_before(
    store: Store, slot: int, account_ids: list[str], date: str, *, shadow: bool
) -> dict[str, tuple[str, int | None]]:
    """The kind of each account, and its balance in the last snapshot before ``date``; None where it has none."""
    if not account_ids:
        return {}
    kinds = select(_ACCOUNT.id, _ACCOUNT.kind).where(_ACCOUNT.id.in_(account_ids))
    last = (
        select(_SNAPSHOT.account_id, func.max(_SNAPSHOT.accounting_date).label("last_date"))
        .where(_SNAPSHOT.account_id.in_(account_ids), _SNAPSHOT.accounting_date < date)
        .group_by(_SNAPSHOT.account_id)
        .subquery()
    )
    balances = select(_SNAPSHOT.account_id, _SNAPSHOT.balance_minor).join(
        last, and_(_SNAPSHOT.account_id == last.c.account_id, _SNAPSHOT.accounting_date == last.c.last_date)
    )
    openings: dict[str, int] = dict(await _aggregate(store, slot, balances, shadow=shadow))
    found = await _aggregate(store, slot, kinds, shadow=shadow)
    return {id_: (kind, openings.get(id_)) for id_, kind in found}


# Trial balances


async def books_to_close(store: Store, through: str, *, shadow: bool) -> list[Book]:
    """Books that have ``through`` or a date before it open for new payments."""
    statement = select(Book.__table__).where(_BOOK.open_date <= through).order_by(_BOOK.id)
    return await store.fetch_everywhere(Book, statement, shadow=shadow)


async def unclosed_count(store: Store, date: str, *, shadow: bool) -> int:
    """How many books have not closed a date."""
    statement = select(func.count()).select_from(Book.__table__).where(_BOOK.closed_through < date)
    mode = "shadow" if shadow else "live"
    found = await asyncio.gather(*(store.aggregate(mode, shard, statement) for shard in store.shards(mode)))
    return sum(int(count) for ((count,),) in found)


class TrialBalance(NamedTuple):
    """The books that have closed a date, added up by currency and kind of account."""

    closed_count: int
    pending_count: int
    carried_count: int
    totals: dict[tuple[str, str], KindTotal]


async def trial_balance(store: Store, date: str, *, shadow: bool) -> TrialBalance:
    """The trial balance of a date over all shards, as far as books have closed it and written its snapshots."""
    mode = "shadow" if shadow else "live"
    parts = await asyncio.gather(*(_shard_balance(store, mode, shard, date) for shard in store.shards(mode)))
    totals: dict[tuple[str, str], KindTotal] = {}
    for part in parts:
        for (currency, kind), total in part.totals.items():
            _add_total(totals, currency, kind, total)
    return TrialBalance(
        sum(part.closed_count for part in parts),
        sum(part.pending_count for part in parts),
        sum(part.carried_count for part in parts),
        totals,
    )


async def _shard_balance(store: Store, mode: str, shard: str, date: str) -> TrialBalance:
    # In this order no snapshot of the shard is needed: a book that is closed, and after that has no closing pending up
    # to the date, has all its closings up to the date DONE for good.
    books = await store.aggregate(mode, shard, select(_BOOK.slot, _BOOK.currency, _BOOK.closed_through))
    pending_closings = select(_CLOSING.slot, _CLOSING.currency).where(
        _CLOSING.due_at_ms.is_not(None), _CLOSING.accounting_date <= date
    )
    pending = {(slot, currency) for slot, currency in await store.aggregate(mode, shard, pending_closings)}
    pending |= {(slot, currency) for slot, currency, closed_through in books if closed_through < date}
    last = (
        select(_CLOSING.slot, _CLOSING.currency, func.max(_CLOSING.accounting_date).label("last_date"))
        .where(_CLOSING.accounting_date <= date)
        .group_by(_CLOSING.slot, _CLOSING.currency)
        .subquery()
    )
    of_book = and_(_CLOSING.slot == last.c.slot, _CLOSING.currency == last.c.currency)
    statement = select(Closing.__table__).join(last, and_(of_book, _CLOSING.accounting_date == last.c.last_date))
    totals: dict[tuple[str, str], KindTotal] = {}
    carried_count = 0
    for closing in await store.fetch_shard(Closing, statement, mode, shard):
        if (closing.slot, closing.currency) in pending:
            continue
        is_of_date = closing.accounting_date == date
        carried_count += closing.carried_payment_count if is_of_date else 0
        for kind, total in (totals_of(closing) if is_of_date else carried_totals(closing)).items():
            _add_total(totals, closing.currency, kind, total)
    return TrialBalance(len(books) - len(pending), len(pending), carried_count, totals)


def _add_total(totals: dict[tuple[str, str], KindTotal], currency: str, kind: str, more: KindTotal) -> None:
    before = totals.get((currency, kind), KindTotal(kind))
    totals[currency, kind] = KindTotal(
        kind,
        before.account_count + more.account_count,
        before.balance_minor + more.balance_minor,
        before.credit_minor + more.credit_minor,
        before.debit_minor + more.debit_minor,
    )
