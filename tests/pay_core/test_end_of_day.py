"""The end of day on real shards: dates close while postings go on, once, whoever does it."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

import pytest

from pay_core import closing, ledger, ledger_queries
from pay_core.bookkeeping import AskToClose, CloseBook, RollBook, WriteSnapshots
from pay_core.chart import POINTS_UNIT, AccountKind
from pay_core.end_of_day import EndOfDay
from pay_core.tables import BalanceSnapshot, Book, Closing, Journal, Payment
from paykit import context as business_context
from paykit.clock import ManualClock
from paykit.ids import slot_of
from paykit.store.command import Work
from paykit.store.store import Store
from tests.pay_core.conftest import OpenStore
from tests.pay_core.ledger_books import DRAIN_MS, check_snapshots, rows, run_due, settle, user
from tests.pay_core.ledger_desk import DAY_MS, TODAY, TOMORROW, Decide, Post, origin, outside_of, owners_on

AFTER_TOMORROW = "2023-11-17"


class TestEndOfDay:
    async def test_two_processes_open_one_book(self, open_store: OpenStore) -> None:
        stores = [await open_store(), await open_store()]
        refs = [user(owner) for owner in owners_on(slot_of("ann"), 20)]
        await asyncio.gather(*(stores[n % 2].run(Post(outside_of(ref), ref, 5)) for n, ref in enumerate(refs)))
        (book,) = await rows(stores[0], Book)
        assert (book.book_key, book.open_date) == (f"{slot_of('ann')}/EUR", TODAY)

    async def test_closes_a_date_while_postings_go_on(self, open_store: OpenStore, clock: ManualClock) -> None:
        stores = [await open_store(), await open_store()]
        end_of_day = [EndOfDay(store, DRAIN_MS, page_size=7) for store in stores]
        owners = [user(f"u{number}") for number in range(12)]
        is_over = asyncio.Event()
        done: asyncio.Queue[str] = asyncio.Queue()

        async def post(store: Store, seed: int) -> None:
            number = seed
            while not is_over.is_set():
                ref = owners[number % len(owners)]
                number += 1
                date = (TODAY, TOMORROW, "")[number % 3]
                done.put_nowait(await store.run(Post(outside_of(ref), ref, 1 + number % 5, date=date)))

        async def posted(more: int) -> None:
            for _ in range(more):
                await done.get()

        posting = [asyncio.create_task(post(stores[seed % 2], seed)) for seed in range(6)]
        await posted(60)
        for _ in range(2):
            clock.advance(DAY_MS)
            await posted(30)
            await asyncio.gather(*(settle(stores[n], end_of_day[n]) for n in (0, 1)))
            await posted(30)
        is_over.set()
        await asyncio.gather(*posting)
        await settle(stores[0], end_of_day[0])
        books = await rows(stores[0], Book)
        assert {(row.state, row.open_date, row.closed_through) for row in books} == {("OPEN", AFTER_TOMORROW, TOMORROW)}
        await check_snapshots(stores[0])
        dates = Counter(row.accounting_date for row in await rows(stores[0], Journal))
        assert set(dates) == {TODAY, TOMORROW, AFTER_TOMORROW}
        journals = Counter[str]()
        for row in await rows(stores[0], Closing):
            journals[row.accounting_date] += row.journal_count
        assert journals == {date: dates[date] for date in (TODAY, TOMORROW)}, "a journal came after its date had closed"

    async def test_waits_for_payments_under_way_no_longer_than_the_drain(
        self, store: Store, clock: ManualClock
    ) -> None:
        ref = user("ann")
        await store.run(Post(outside_of(ref), ref, 5))
        clock.advance(DAY_MS)
        (book,) = await rows(store, Book)
        rolled = await store.run(RollBook(origin(book.slot, ""), book, DRAIN_MS))
        waiting = await store.run(CloseBook(origin(book.slot, ""), rolled, 2))
        assert (waiting.state, waiting.due_at_ms) == ("CLOSING", clock.now_ms() + 1_000)
        clock.advance(DRAIN_MS)
        closed = await store.run(CloseBook(origin(book.slot, ""), waiting, 2))
        assert closed.state == "OPEN"
        (row,) = await rows(store, Closing)
        assert (row.accounting_date, row.carried_payment_count) == (TODAY, 2)

    @pytest.mark.parametrize(
        ("state", "currency", "waits"),
        [
            ("PROCESSING", "EUR", {"EUR": 1, POINTS_UNIT: 1}),
            ("REVERSING", "USD", {"EUR": 0, POINTS_UNIT: 1}),
            ("AUTHORIZED", "EUR", {"EUR": 0, POINTS_UNIT: 0}),
            ("SUCCEEDED", "EUR", {"EUR": 0, POINTS_UNIT: 0}),
        ],
    )
    async def test_waits_for_payments_of_the_date_in_the_books_currency_and_points_for_all(
        self, store: Store, clock: ManualClock, state: str, currency: str, waits: dict[str, int]
    ) -> None:
        ref = user("ann")
        points = ledger.owned("ann", AccountKind.POINTS, POINTS_UNIT)
        await store.run(Post(outside_of(ref), ref, 5))
        await store.run(Post(ledger.internal(ref.slot, AccountKind.POINTS_ISSUED, POINTS_UNIT), points, 5))
        for date in (TODAY, TOMORROW):
            await store.run(Decide([ref], partial(self._pay, state, currency, date)))
        clock.advance(DAY_MS)
        counted = {}
        for book in await rows(store, Book):
            rolled = await store.run(RollBook(origin(book.slot, ""), book, DRAIN_MS))
            counted[book.currency] = await ledger_queries.payments_under_way(store, rolled, shadow=False)
        assert counted == waits

    def _pay(self, state: str, currency: str, date: str, work: Work) -> Payment:
        payment = Payment(
            id=work.new_id("pay"),
            slot=slot_of("ann"),
            biz_id=work.context.biz_id,
            operation="TRANSFER",
            state=state,
            payer_id="ann",
            currency=currency,
            amount_minor=5,
            source_id="order-1",
            original_payment_id=None,
            refunding_minor=0,
            refunded_minor=0,
            failure_reason="",
            caller="tester",
            context=b"",
            ask_count=0,
            due_at_ms=None,
            created_at_ms=work.now_ms,
            finished_at_ms=None,
            accounting_date=date,
        )
        return work.insert(payment)

    async def test_costs_idle_books_one_step_however_long_they_were_idle(
        self, store: Store, clock: ManualClock
    ) -> None:
        refs = [user(f"u{number}", currency) for number in range(40) for currency in ("EUR", "USD")]
        await asyncio.gather(*(store.run(Post(outside_of(ref), ref, 5)) for ref in refs))
        end_of_day = EndOfDay(store, DRAIN_MS)
        clock.advance(DAY_MS)
        await settle(store, end_of_day)
        closing_count = len(await rows(store, Closing))
        clock.advance(5 * DAY_MS)
        books = await rows(store, Book)
        assert await run_due(store, end_of_day) == len(books)
        assert await run_due(store, end_of_day) == 0
        assert {row.open_date for row in await rows(store, Book)} == {"2023-11-21"}
        assert len(await rows(store, Closing)) == closing_count
        balance = await ledger_queries.trial_balance(store, "2023-11-20", shadow=False)
        assert (balance.closed_count, balance.pending_count) == (len(books), 0)
        assert balance.totals["EUR", "USER"] == closing.KindTotal("USER", 40, 200, 0, 0)

    async def test_adds_a_page_once_whoever_else_adds_it(self, store: Store, clock: ManualClock) -> None:
        ref = user("ann")
        for _ in range(5):
            await store.run(Post(outside_of(ref), ref, 10))
        row = await self._closed(store, clock)
        page = await ledger_queries.closing_page(store, row, 2, shadow=False)
        command = WriteSnapshots(
            origin(row.slot, ""), row, page.moves, page.journal_count, page.through, is_last=page.is_last
        )
        first, second = await asyncio.gather(store.run(command), store.run(command))
        assert first.counted_through == second.counted_through == page.through
        await settle(store, EndOfDay(store, DRAIN_MS, page_size=2))
        await check_snapshots(store)
        (done,) = await rows(store, Closing)
        assert (done.journal_count, done.credit_minor, done.debit_minor) == (5, 50, 50)

    async def test_writes_no_snapshot_before_those_of_the_date_before(self, store: Store, clock: ManualClock) -> None:
        ref = user("ann")
        end_of_day = EndOfDay(store, DRAIN_MS)
        await store.run(Post(outside_of(ref), ref, 10))
        first = await self._closed(store, clock)
        await store.run(Post(outside_of(ref), ref, 7))
        clock.advance(DAY_MS)
        (book,) = await rows(store, Book)
        with business_context.use(business_context.unpack(book.context)):
            await end_of_day.step(book)
        (second,) = [row for row in await rows(store, Closing) if row.id != first.id]
        assert second.previous_id == first.id
        with business_context.use(business_context.unpack(second.context)):
            await end_of_day.write(second)
        assert await rows(store, BalanceSnapshot) == []
        clock.advance(1_000)
        await settle(store, end_of_day)
        clock.advance(1_000)
        await settle(store, end_of_day)
        balances = {
            row.accounting_date: row.balance_minor
            for row in await rows(store, BalanceSnapshot)
            if row.account_kind == "USER"
        }
        assert balances == {TODAY: 10, TOMORROW: 17}
        await check_snapshots(store)

    async def test_closes_the_current_date_where_it_is_asked_to(self, store: Store) -> None:
        ref = user("ann")
        await store.run(Post(outside_of(ref), ref, 10))
        (book,) = await ledger_queries.books_to_close(store, TODAY, shadow=False)
        await store.run(AskToClose(origin(book.slot, "c1"), book, TODAY))
        assert await ledger_queries.unclosed_count(store, TODAY, shadow=False) == 1
        await settle(store, EndOfDay(store, DRAIN_MS))
        assert await ledger_queries.unclosed_count(store, TODAY, shadow=False) == 0
        await store.run(Post(outside_of(ref), ref, 1, date=TODAY))
        (later,) = [row for row in await rows(store, Journal) if row.accounting_date != TODAY]
        assert later.accounting_date == TOMORROW
        await check_snapshots(store)

    async def test_closes_the_latest_of_the_dates_that_were_asked_for(self, store: Store, clock: ManualClock) -> None:
        ref = user("ann")
        await store.run(Post(outside_of(ref), ref, 10))
        (book,) = await ledger_queries.books_to_close(store, TODAY, shadow=False)
        clock.advance(DAY_MS)
        for number, date in enumerate((TOMORROW, TODAY)):
            await store.run(AskToClose(origin(book.slot, f"c{number}"), book, date))
        await settle(store, EndOfDay(store, DRAIN_MS))
        assert await ledger_queries.unclosed_count(store, TOMORROW, shadow=False) == 0

    async def _closed(self, store: Store, clock: ManualClock) -> Closing:
        """Today's closing of the one book there is, its snapshots not written."""
        clock.advance(DAY_MS)
        (book,) = await rows(store, Book)
        with business_context.use(business_context.unpack(book.context)):
            await EndOfDay(store, DRAIN_MS).step(book)
        (row,) = await rows(store, Closing)
        assert isinstance(row, Closing)
        return row
