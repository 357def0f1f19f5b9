"""The commands of the ledger that are no payment's: freezes, overdrafts, and the end of day."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pay_core import closing
from pay_core.chart import CHART, AccountKind, KindRules
from pay_core.closing import BookState, ClosingState, Move
from pay_core.tables import Account, BalanceSnapshot, Book, Closing
from paykit.errors import FailedPrecondition, NotFound
from paykit.ids import slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key

_LOOK_AGAIN_MS = 1_000  # while payments drain, or a closing before is being written


class _AccountCommand(Command[Account]):
    """Changes one account. ``reason`` is a constant that says why."""

    result_type = Account

    def __init__(self, origin: Origin, account_id: str, reason: str) -> None:
        super().__init__(slot_in(account_id), origin)
        self.account_id, self.reason = account_id, reason

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Account, self.account_id)

    def _account(self, work: Work) -> tuple[Account, KindRules]:
        account = work.get(Account, self.account_id)
        if account is None:
            raise NotFound(f"no account {self.account_id}", reason="ACCOUNT_NOT_FOUND")
        return account, CHART[AccountKind(account.kind)]


def _refused(account: Account, what: str, reason: str) -> FailedPrecondition:
    return FailedPrecondition(f"account {account.id} {what}", reason=reason, subject=account.id)


class FreezeAccount(_AccountCommand):
    """Nothing leaves the account any more. FailedPrecondition: FREEZE_NOT_ALLOWED, ALREADY_FROZEN."""

    def decide(self, work: Work) -> Account:
        account, rules = self._account(work)
        if not rules.may_freeze:
            raise _refused(account, f"is of kind {account.kind}, which is never frozen", "FREEZE_NOT_ALLOWED")
        if account.freeze_reason:
            # One reason must not take the place of another: lifting it would lift both.
            raise _refused(account, f"is frozen already: {account.freeze_reason}", "ALREADY_FROZEN")
        frozen = msgspec.structs.replace(account, freeze_reason=self.reason)
        return work.update(frozen, parent_id=account.owner_id, note=f"frozen: {self.reason}")


class UnfreezeAccount(_AccountCommand):
    """Lifts a freeze. FailedPrecondition: NOT_FROZEN."""

    def decide(self, work: Work) -> Account:
        account, _ = self._account(work)
        if not account.freeze_reason:
            raise _refused(account, "is not frozen", "NOT_FROZEN")
        note = f"{account.freeze_reason} lifted: {self.reason}"
        thawed = msgspec.structs.replace(account, freeze_reason="")
        return work.update(thawed, parent_id=account.owner_id, note=note)


class SetOverdraft(_AccountCommand):
    """Says how far below zero an account may go. FailedPrecondition: OVERDRAFT_NOT_ALLOWED, OVERDRAFT_IN_USE."""

    def __init__(self, origin: Origin, account_id: str, reason: str, overdraft_minor: int) -> None:
        super().__init__(origin, account_id, reason)
        assert overdraft_minor >= 0
        self.overdraft_minor = overdraft_minor

    def decide(self, work: Work) -> Account:
        account, rules = self._account(work)
        if not rules.may_overdraw:
            raise _refused(account, f"is of kind {account.kind}, which is never overdrawn", "OVERDRAFT_NOT_ALLOWED")
        free_minor = account.balance_minor - account.held_minor
        if free_minor < -self.overdraft_minor:
            raise _refused(account, f"is overdrawn by {-free_minor} now", "OVERDRAFT_IN_USE")
        allowed = msgspec.structs.replace(account, floor_minor=-self.overdraft_minor)
        note = f"overdraft {self.overdraft_minor}: {self.reason}"
        return work.update(allowed, parent_id=account.owner_id, note=note)


class _BookCommand(Command[Book]):
    """A step of one book; it answers with the book as it then is."""

    def __init__(self, origin: Origin, book: Book) -> None:
        super().__init__(book.slot, origin)
        self.book_id = book.id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Book, self.book_id)

    def _book(self, work: Work) -> Book:
        book = work.get(Book, self.book_id)
        assert book is not None, "books are never removed"
        return book


class AskToClose(_BookCommand):
    """Somebody wants the dates up to ``accounting_date`` closed now: the book's timer does it."""

    def __init__(self, origin: Origin, book: Book, accounting_date: str) -> None:
        super().__init__(origin, book)
        self.accounting_date = accounting_date

    def decide(self, work: Work) -> Book:
        book = self._book(work)
        if book.open_date > self.accounting_date:
            return book
        # Who asked for a later date before still wants it.
        through = max(book.close_through, self.accounting_date)
        asked = msgspec.structs.replace(book, close_through=through, due_at_ms=work.now_ms)
        return work.update(asked, note=f"to close through {self.accounting_date}")


class RollBook(_BookCommand):
    """The date is over: the next one is open from here on, and the old one drains where the book was used on it."""

    def __init__(self, origin: Origin, book: Book, drain_ms: int) -> None:
        super().__init__(origin, book)
        self.drain_ms = drain_ms

    def decide(self, work: Work) -> Book:
        book = self._book(work)
        rolled = closing.roll(book, work.now_ms, self.drain_ms)
        if rolled is not book:
            return work.update(rolled)
        if book.state == BookState.OPEN and book.due_at_ms is not None and book.due_at_ms <= work.now_ms:
            return work.update(msgspec.structs.replace(book, due_at_ms=closing.end_ms(book.open_date)))
        return book


class CloseBook(_BookCommand):
    """Closes the date that drains, unless it waits for payments under way (``waiting_count``) and still may."""

    def __init__(self, origin: Origin, book: Book, waiting_count: int) -> None:
        super().__init__(origin, book)
        self.closing_date, self.waiting_count = book.closing_date, waiting_count

    def decide(self, work: Work) -> Book:
        book = self._book(work)
        if book.state != BookState.CLOSING or book.closing_date != self.closing_date:
            return book
        assert book.drain_until_ms is not None
        if self.waiting_count and work.now_ms < book.drain_until_ms:
            due_at_ms = min(work.now_ms + _LOOK_AGAIN_MS, book.drain_until_ms)
            return work.update(msgspec.structs.replace(book, due_at_ms=due_at_ms))
        row = Closing(
            id=work.new_id("cls"),
            slot=book.slot,
            closing_key=f"{book.book_key}/{book.closing_date}",
            currency=book.currency,
            accounting_date=book.closing_date,
            state=closing.CLOSING.initial.value,
            journal_count=0,
            debit_minor=0,
            credit_minor=0,
            carried_payment_count=self.waiting_count,
            due_at_ms=work.now_ms,
            context=book.context,
            created_at_ms=work.now_ms,
            previous_id=book.last_closing_id,
        )
        work.insert(row, parent_id=book.id, note=book.closing_date)
        return work.update(closing.close(book, work.now_ms, row.id))


class WriteSnapshots(Command[Closing]):
    """Adds a page of a closed date's journals, those after ``counted_through``, to its snapshots and totals.

    It answers with the closing as it then is; the page is not added where somebody else has added it already.
    """

    def __init__(
        self,
        origin: Origin,
        row: Closing,
        moves: list[Move],
        journal_count: int,
        through: str,
        *,
        is_last: bool,
    ) -> None:
        super().__init__(row.slot, origin)
        self.closing_id, self.counted_through, self.date = row.id, row.counted_through, row.accounting_date
        self.previous_id = row.previous_id
        self.moves, self.journal_count, self.through, self.is_last = moves, journal_count, through, is_last

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Closing, self.closing_id)
        if self.previous_id:
            yield key(Closing, self.previous_id)
        for move in self.moves:
            yield key(BalanceSnapshot, self._snapshot_key(move), "snapshot_key")

    def _snapshot_key(self, move: Move) -> str:
        return f"{move.account_id}/{self.date}"

    def decide(self, work: Work) -> Closing:
        row = work.get(Closing, self.closing_id)
        assert row is not None, "closings are never removed"
        if row.state != ClosingState.PENDING or row.counted_through != self.counted_through:
            return row
        if row.counted_through:
            totals = closing.totals_of(row)
        else:
            previous = work.get(Closing, self.previous_id) if self.previous_id else None
            assert previous is None or previous.state == ClosingState.DONE
            totals = closing.carried_totals(previous)
        for move in self.moves:
            is_new = self._add(work, row, move) and move.opening_minor is None
            closing.add_move(totals, move, is_new=is_new)
        counted = closing.count_page(row, totals, self.journal_count, self.through, is_last=self.is_last)
        return work.update(counted)

    def _add(self, work: Work, row: Closing, move: Move) -> bool:
        """Whether it is the account's first page of the date."""
        found = work.get(BalanceSnapshot, self._snapshot_key(move), "snapshot_key")
        if found is not None:
            more = msgspec.structs.replace(
                found,
                balance_minor=found.balance_minor + move.credit_minor - move.debit_minor,
                debit_minor=found.debit_minor + move.debit_minor,
                credit_minor=found.credit_minor + move.credit_minor,
            )
            work.update(more, audit=False)
            return False
        snapshot = BalanceSnapshot(
            id=work.new_id("snp"),
            slot=row.slot,
            snapshot_key=self._snapshot_key(move),
            account_id=move.account_id,
            account_kind=move.kind,
            currency=row.currency,
            accounting_date=row.accounting_date,
            balance_minor=(move.opening_minor or 0) + move.credit_minor - move.debit_minor,
            debit_minor=move.debit_minor,
            credit_minor=move.credit_minor,
        )
        work.insert(snapshot, audit=False)
        return True


class WaitForPrevious(Command[None]):
    """The closing before is still being written: looks again a little later."""

    def __init__(self, origin: Origin, row: Closing) -> None:
        super().__init__(row.slot, origin)
        self.closing_id = row.id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Closing, self.closing_id)

    def decide(self, work: Work) -> None:
        row = work.get(Closing, self.closing_id)
        if row is not None and row.state == ClosingState.PENDING:
            work.update(msgspec.structs.replace(row, due_at_ms=work.now_ms + _LOOK_AGAIN_MS))
