"""Whatever order books roll, drain and close in: no entry gets a closed date, and none a date that is passed over."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pay_core import closing, ledger
from pay_core.bookkeeping import AskToClose, CloseBook, RollBook
from pay_core.chart import POINTS_UNIT, AccountKind
from pay_core.ledger import Draft
from pay_core.tables import Book, Closing, Entry
from paykit.store.command import Work
from tests.pay_core.ledger_desk import ANN, DAY_MS, FEES, OUTSIDE, Decide, Desk, origin

POINTS = ledger.owned("ann", AccountKind.POINTS, POINTS_UNIT)
ISSUED = ledger.internal(ANN.slot, AccountKind.POINTS_ISSUED, POINTS_UNIT)
DOLLARS = ledger.internal(ANN.slot, AccountKind.FEES, "USD")
DOLLARS_OUTSIDE = ledger.internal(ANN.slot, AccountKind.EXTERNAL, "USD", "card")
DRAIN_MS = DAY_MS // 4
BOOKS = st.integers(0, 2)


class DatesUnderWay(RuleBasedStateMachine):
    """Euros, dollars and points of one slot; their books are looked at late, in any order, or not for days."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.dates: list[str] = [""]  # that payments got at intake
        self.entry_count = 0

    @rule(hours=st.integers(1, 80))
    def time_passes(self, hours: int) -> None:
        self.desk.now_ms += hours * DAY_MS // 24

    @rule(unit=st.sampled_from(["EUR", "USD"]))
    def takes_a_payment_in(self, unit: str) -> None:
        refs = [FEES if unit == "EUR" else DOLLARS]
        date = self.desk.run(Decide(refs, lambda work: ledger.intake_date(work, ANN.slot, unit)))
        self.dates = [*self.dates, date][-6:]

    @rule(with_euros=st.booleans(), with_dollars=st.booleans(), with_points=st.booleans(), which=st.integers(0, 5))
    def posts(self, with_euros: bool, with_dollars: bool, with_points: bool, which: int) -> None:
        pairs = [(OUTSIDE, FEES)] * with_euros
        pairs += [(DOLLARS_OUTSIDE, DOLLARS)] * with_dollars
        pairs += [(ISSUED, POINTS)] * with_points
        if not pairs:
            return
        date = self.dates[which % len(self.dates)]

        def decide(work: Work) -> str:
            draft = Draft(ANN.slot, pairs[0][0].currency)
            for debit, credit in pairs:
                draft.shift(debit, credit, 1)
            return ledger.post(work, draft, work.new_id("pay"), date).accounting_date

        closed = {book.currency: book.closed_through for book in self.desk.all(Book)}
        dated = self.desk.run(Decide([ref for pair in pairs for ref in pair], decide))
        self.entry_count += 2 * len(pairs)
        assert all(dated > closed.get(debit.currency, "") for debit, _ in pairs)
        assert dated >= date

    @rule(which=BOOKS)
    def rolls(self, which: int) -> None:
        for book in self.desk.all(Book)[which : which + 1]:
            self.desk.run(RollBook(origin(book.slot, "", now_ms=self.desk.now_ms), book, DRAIN_MS))

    @rule(which=BOOKS, waiting_count=st.integers(0, 1))
    def closes(self, which: int, waiting_count: int) -> None:
        for book in self.desk.all(Book)[which : which + 1]:
            self.desk.run(CloseBook(origin(book.slot, ""), book, waiting_count))

    @rule(which=BOOKS)
    def is_asked_to_close_today(self, which: int) -> None:
        for book in self.desk.all(Book)[which : which + 1]:
            self.desk.run(AskToClose(origin(book.slot, ""), book, closing.date_at(self.desk.now_ms)))

    @invariant()
    def every_closed_entry_is_of_a_closing(self) -> None:
        books = {book.currency: book for book in self.desk.all(Book)}
        closings = {(row.currency, row.accounting_date) for row in self.desk.all(Closing)}
        entries = self.desk.all(Entry)
        assert len(entries) == self.entry_count
        for entry in entries:
            book = books[entry.currency]
            if entry.accounting_date <= book.closed_through:
                assert (entry.currency, entry.accounting_date) in closings
            elif book.state == "CLOSING":
                assert entry.accounting_date == book.closing_date or entry.accounting_date >= book.open_date
            else:
                assert entry.accounting_date >= book.open_date

    @invariant()
    def books_are_whole(self) -> None:
        for book in self.desk.all(Book):
            assert book.due_at_ms is not None
            assert (book.state == "CLOSING") == bool(book.closing_date) == (book.drain_until_ms is not None)
            if book.state == "OPEN":
                assert book.closed_through == closing.days_after(book.open_date, -1)
            else:
                assert book.closed_through < book.closing_date < book.open_date


TestDatesUnderWay = DatesUnderWay.TestCase
TestDatesUnderWay.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
