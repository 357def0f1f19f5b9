"""1, accounting dates: journals lie in dates that were open, and what was closed says what the entries say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import Slice, grouped
from pay_core.closing import BookState, ClosingState, KindTotal, is_date, totals_of
from pay_core.tables import Account, BalanceSnapshot, Book, Closing, Entry, Journal, Payment


class _Moved(NamedTuple):
    """What entries of one book and date did: journals that have any, and credits and debits per account."""

    journals: set[str]
    credits: Counter[str]
    debits: Counter[str]


def journals_are_dated(world: Slice, tally: Tally) -> None:
    """A payment has an accounting date, and its journals none before it; entries have their journal's. What lies in a
    closed date has a closing, and nothing lies in a date before the book's first."""
    for payment in world.rows(Payment):
        tally.expect(is_date(payment.accounting_date), payment.id, f"has the date {payment.accounting_date!r}")
    dates = {}
    for journal in world.rows(Journal):
        tally.count()
        dates[journal.id] = journal.accounting_date
        owner = world.payments.get(journal.payment_id)
        is_early = owner is not None and journal.accounting_date < owner.accounting_date
        tally.expect(
            not is_early, journal.id, f"dated {journal.accounting_date}, before its payment {journal.payment_id}"
        )
    closed = {(row.slot, row.currency, row.accounting_date) for row in world.rows(Closing)}
    books = {(row.slot, row.currency): row for row in world.rows(Book)}
    used: dict[tuple[int, str, str], str] = {}
    for entry in world.rows(Entry):
        used.setdefault((entry.slot, entry.currency, entry.accounting_date), entry.journal_id)
        dated = dates.get(entry.journal_id, entry.accounting_date)
        tally.expect(entry.accounting_date == dated, entry.id, f"dated {entry.accounting_date}, its journal {dated}")
    for (slot, currency, date), journal_id in used.items():
        book = books.get((slot, currency))
        if book is None:
            tally.violate(journal_id, f"there is no book of {currency} on slot {slot}")
        elif date <= book.closed_through:
            is_counted = (slot, currency, date) in closed
            tally.expect(is_counted, journal_id, f"dated {date}, closed without it through {book.closed_through}")


def closings_agree(world: Slice, tally: Tally) -> None:
    """Every closing that is DONE agrees with the entries of its date, its snapshots with all up to it, and the totals
    with both. So nothing was posted into a date after it was closed."""
    moved = _moves(world)
    snapshots = grouped(world.rows(BalanceSnapshot), "accounting_date")
    balances = _Balances(world)
    nothing = _Moved(set(), Counter(), Counter())
    for closing in world.rows(Closing):
        tally.count()
        if closing.state != ClosingState.DONE:
            lags = world.scope.may_be_open(closing.created_at_ms)
            tally.expect(lags, closing.id, f"{closing.state} since {closing.created_at_ms}")
            continue
        of_date = moved.get((closing.slot, closing.currency, closing.accounting_date), nothing)
        told = (closing.journal_count, closing.credit_minor, closing.debit_minor)
        due = (len(of_date.journals), of_date.credits.total(), of_date.debits.total())
        tally.expect(told == due, closing.id, f"says journals, credits and debits {told}, entries say {due}")
        tally.expect(due[1] == due[2], closing.id, f"credits {due[1]} are not debits {due[2]}")
        of_book = [
            row
            for row in snapshots.get(closing.accounting_date, [])
            if (row.slot, row.currency) == (closing.slot, closing.currency)
        ]
        for flaw in _snapshot_flaws(of_book, of_date, balances):
            tally.violate(closing.id, flaw)
        totals = list(totals_of(closing).values())
        wanted = balances.totals(closing)
        tally.expect(totals == wanted, closing.id, f"says {totals}, entries say {wanted}")


def _moves(world: Slice) -> dict[tuple[int, str, str], _Moved]:
    moved: dict[tuple[int, str, str], _Moved] = {}
    for entry in world.rows(Entry):
        key = (entry.slot, entry.currency, entry.accounting_date)
        of_date = moved.get(key)
        if of_date is None:
            of_date = moved[key] = _Moved(set(), Counter(), Counter())
        of_date.journals.add(entry.journal_id)
        side = of_date.credits if entry.amount_minor > 0 else of_date.debits
        side[entry.account_id] += abs(entry.amount_minor)
    return moved


def _snapshot_flaws(of_book: list[BalanceSnapshot], of_date: _Moved, balances: _Balances) -> Iterator[str]:
    known = {row.account_id: row for row in of_book}
    for account_id in sorted(known.keys() ^ (of_date.credits.keys() | of_date.debits.keys())):
        yield f"{account_id} moved without a snapshot, or has one and did not move"
    for account_id, row in known.items():
        told = (row.balance_minor, row.credit_minor, row.debit_minor)
        balance_minor = balances.at(account_id, row.accounting_date)
        due = (balance_minor, of_date.credits[account_id], of_date.debits[account_id])
        if told != due:
            yield f"snapshot {row.id} says balance, credits and debits {told}, entries say {due}"


class _Balances:
    """What accounts held at the end of dates, by their entries."""

    def __init__(self, world: Slice) -> None:
        self._entries = world.entries_of
        self._accounts = grouped(world.rows(Account), "currency")

    def at(self, account_id: str, date: str) -> int:
        """The balance of an account at the end of a date."""
        entries = self._entries.get(account_id, [])
        return sum(entry.amount_minor for entry in entries if entry.accounting_date <= date)

    def totals(self, closing: Closing) -> list[KindTotal]:
        """As the closing should have them: the accounts of its book that had moved by then, by kind."""
        date, found = closing.accounting_date, dict[str, KindTotal]()
        for account in self._accounts.get(closing.currency, []):
            if account.slot != closing.slot:
                continue
            entries = [entry for entry in self._entries.get(account.id, []) if entry.accounting_date <= date]
            if not entries:
                continue
            before = found.get(account.kind, KindTotal(account.kind))
            amounts = [entry.amount_minor for entry in entries if entry.accounting_date == date]
            found[account.kind] = KindTotal(
                account.kind,
                before.account_count + 1,
                before.balance_minor + sum(entry.amount_minor for entry in entries),
                before.credit_minor + sum(amount for amount in amounts if amount > 0),
                before.debit_minor - sum(amount for amount in amounts if amount < 0),
            )
        return sorted(found.values(), key=lambda total: total.kind)


def books_go_forward(world: Slice, tally: Tally) -> None:
    """A book has one date open, all before it closed, and one that drains only while it is CLOSING."""
    for book in world.rows(Book):
        tally.count()
        is_closing = book.state == BookState.CLOSING
        tally.expect(bool(book.closing_date) == is_closing, book.id, f"{book.state}, closing {book.closing_date!r}")
        is_in_order = book.closed_through < (book.closing_date or book.open_date) <= book.open_date
        dates = (book.closed_through, book.closing_date, book.open_date)
        tally.expect(is_in_order, book.id, f"closed through, closing and open are {dates}")


INVARIANTS = (
    Invariant("1o", "books go forward, date by date", "books", books_go_forward),
    Invariant("1p", "journals lie in dates that were open", "journals", journals_are_dated),
    Invariant("1q", "closings agree with the entries", "closings", closings_agree),
)
