"""Trial balances and statements, on real shards."""

from __future__ import annotations

import asyncio

from pay_core import closing, ledger, ledger_queries
from pay_core.end_of_day import EndOfDay
from pay_core.ledger import AccountKind, AccountRef
from pay_core.ledger_queries import Position
from pay_core.tables import Book
from paykit.clock import ManualClock
from paykit.store.store import Store
from tests.pay_core.ledger_books import DRAIN_MS, account, rows, settle, user
from tests.pay_core.ledger_desk import DAY_MS, TODAY, TOMORROW, Post, outside_of

AFTER_TOMORROW = "2023-11-17"


class TestReads:
    async def test_adds_up_a_trial_balance_over_all_shards_as_far_as_books_are_closed(
        self, store: Store, clock: ManualClock
    ) -> None:
        refs = [user(f"u{number}") for number in range(30)]
        assert len({store.map.shard_of(ref.slot) for ref in refs}) == 2
        await asyncio.gather(*(store.run(Post(outside_of(ref), ref, 10)) for ref in refs))
        books = len(await rows(store, Book))
        before = await ledger_queries.trial_balance(store, TODAY, shadow=False)
        assert (before.closed_count, before.pending_count, before.totals) == (0, books, {})
        clock.advance(DAY_MS)
        await settle(store, EndOfDay(store, DRAIN_MS))
        found = await ledger_queries.trial_balance(store, TODAY, shadow=False)
        assert (found.closed_count, found.pending_count) == (books, 0)
        assert found.totals["EUR", "USER"] == closing.KindTotal("USER", 30, 300, 300, 0)
        assert found.totals["EUR", "EXTERNAL"].balance_minor == -300

    async def test_states_an_account_alike_before_and_after_its_dates_are_closed(
        self, store: Store, clock: ManualClock
    ) -> None:
        ref, end_of_day = user("ann"), EndOfDay(store, DRAIN_MS)
        fees = ledger.internal(ref.slot, AccountKind.FEES, "EUR")
        stated = []
        for date, amount_minor in ((TODAY, 100), (TOMORROW, 70), (AFTER_TOMORROW, 50)):
            await store.run(Post(outside_of(ref), ref, amount_minor))
            await store.run(Post(ref, fees, 30))
            stated.append(await self._sums(store, ref, date, date))
            clock.advance(DAY_MS)
            await settle(store, end_of_day)
        assert stated == [(0, 100, 30, 2, False), (70, 70, 30, 2, False), (110, 50, 30, 2, False)]
        again = [await self._sums(store, ref, date, date) for date in (TODAY, TOMORROW, AFTER_TOMORROW)]
        assert again == [(*sums[:4], True) for sums in stated]
        assert await self._sums(store, ref, TODAY, AFTER_TOMORROW) == (0, 220, 90, 6, True)
        assert await self._sums(store, ref, "2023-11-18", "2023-11-30") == (130, 0, 0, 0, False)

    async def test_pages_a_statement_oldest_first_without_gap_or_repeat(self, store: Store, clock: ManualClock) -> None:
        ref = user("ann")
        for number in range(11):
            await store.run(Post(outside_of(ref), ref, 1 + number))
            if number == 4:
                clock.advance(DAY_MS)
                await settle(store, EndOfDay(store, DRAIN_MS))
        account_id = (await account(store, ref)).id
        amounts: list[int] = []
        after: Position | None = None
        while True:
            page = await ledger_queries.statement_of(store, account_id, TODAY, TOMORROW, after, 4, shadow=False)
            amounts += [row.amount_minor for row in page.entries]
            if len(page.entries) < 4:
                break
            after = Position(page.entries[-1].accounting_date, page.entries[-1].id)
        assert sorted(amounts) == list(range(1, 12))
        assert set(amounts[:5]) == {1, 2, 3, 4, 5}, "the older date comes first"

    async def _sums(
        self, store: Store, ref: AccountRef, from_date: str, to_date: str
    ) -> tuple[int, int, int, int, bool]:
        account_id = (await account(store, ref)).id
        found = await ledger_queries.statement_of(store, account_id, from_date, to_date, None, 100, shadow=False)
        return found.opening_minor, found.credit_minor, found.debit_minor, len(found.entries), found.is_final
