"""Hot accounts on real shards: debits stay exact, credits need no special path."""

from __future__ import annotations

import asyncio

from pay_core import ledger, transit
from pay_core.bookkeeping import SetOverdraft
from pay_core.ledger import AccountKind
from pay_core.tables import Entry
from paykit.errors import FailedPrecondition
from paykit.store.command import Command
from paykit.store.store import Store
from tests.pay_core.conftest import OpenStore
from tests.pay_core.ledger_books import account, rows, user
from tests.pay_core.ledger_desk import Post, origin, outside_of


class TestHotAccounts:
    async def test_500_draws_at_once_never_pass_the_floor(self, open_store: OpenStore) -> None:
        stores = [await open_store(), await open_store()]
        ref = user("ann")
        await stores[0].run(Post(outside_of(ref), ref, 10_000))
        fees = ledger.internal(ref.slot, AccountKind.FEES, "EUR")

        async def draw(number: int) -> bool:
            amount_minor = 50 + number % 7
            try:
                await stores[number % 2].run(Post(ref, fees, amount_minor, request_id=f"d{number}"))
            except FailedPrecondition as error:
                return error.reason != ledger.INSUFFICIENT_FUNDS
            return True

        drawn = await asyncio.gather(*(draw(number) for number in range(500)))
        taken = sum(50 + number % 7 for number, ok in enumerate(drawn) if ok)
        found = await account(stores[0], ref)
        assert found.balance_minor == 10_000 - taken >= 0
        assert found.balance_minor < 57, "money was left that somebody was refused"
        entries = [row for row in await rows(stores[0], Entry) if row.account_id == found.id]
        assert all(row.balance_after_minor >= 0 for row in entries)
        assert sum(row.amount_minor for row in entries) == found.balance_minor

    async def test_draws_of_other_slots_stop_at_the_overdraft(self, open_store: OpenStore) -> None:
        stores = [await open_store(), await open_store()]
        merchant = ledger.owned("shop", AccountKind.MERCHANT, "EUR")
        await stores[0].run(Post(outside_of(merchant), merchant, 700))
        account_id = (await account(stores[0], merchant)).id
        await stores[0].run(SetOverdraft(origin(merchant.slot, "o1"), account_id, "TEST", 300))

        async def draw(number: int) -> str:
            instruction_id = f"ins_{number}"
            command: Command[str] = transit.DrawTransit(
                origin(merchant.slot, instruction_id), instruction_id, "pay_1", "shop", merchant.kind, "EUR", 10
            )
            return await stores[number % 2].run(command)

        journals = await asyncio.gather(*(draw(number) for number in range(150)))
        assert sum(bool(journal_id) for journal_id in journals) == 100
        assert (await account(stores[1], merchant)).balance_minor == -300

    async def test_credits_by_the_thousand_need_no_special_path(self, store: Store) -> None:
        shop = ledger.owned("shop", AccountKind.MERCHANT, "EUR")
        await asyncio.gather(*(store.run(Post(outside_of(shop), shop, 1 + n % 3)) for n in range(3_000)))
        found = await account(store, shop)
        assert found.balance_minor == sum(1 + n % 3 for n in range(3_000))
        assert found.balance_minor + (await account(store, outside_of(shop))).balance_minor == 0
