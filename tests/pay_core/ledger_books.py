"""What tests of the ledger on real shards have in common: reading it, its end of day, and what must hold after."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import select

from pay_core import closing, ledger
from pay_core.end_of_day import EndOfDay
from pay_core.ledger import AccountKind, AccountRef
from pay_core.tables import Account, BalanceSnapshot, Book, Closing, Entry
from paykit import context as business_context
from paykit.store.store import Store

DRAIN_MS = 60_000


def user(owner: str, currency: str = "EUR") -> AccountRef:
    """A user's account."""
    return ledger.owned(owner, AccountKind.USER, currency)


async def rows(store: Store, row_type: type[Any]) -> list[Any]:
    """All rows of a table."""
    found: list[Any] = await store.fetch_everywhere(row_type, select(row_type.__table__), shadow=False)
    return found


async def account(store: Store, ref: AccountRef) -> Account:
    """An account as it is."""
    (found,) = [row for row in await rows(store, Account) if row.account_key == ref.account_key]
    assert isinstance(found, Account)
    return found


async def run_due(store: Store, end_of_day: EndOfDay) -> int:
    """Fires what is due of the end of day, once; how much it was."""
    count = 0
    now_ms = store.clock.now_ms()
    for row_type, fire in ((Book, end_of_day.step), (Closing, end_of_day.write)):
        for row in await rows(store, row_type):
            if row.due_at_ms is not None and row.due_at_ms <= now_ms:
                with business_context.use(business_context.unpack(row.context)):
                    await fire(row)
                count += 1
    return count


async def settle(store: Store, end_of_day: EndOfDay) -> None:
    """Fires until nothing is due."""
    for _ in range(100):
        if not await run_due(store, end_of_day):
            return
    raise AssertionError("something is due for ever")


async def check_snapshots(store: Store) -> None:
    """Snapshots, closings and entries say the same of every closed date."""
    kinds = {row.id: row for row in await rows(store, Account)}
    dated: dict[tuple[str, str], list[int]] = {}
    for entry in await rows(store, Entry):
        dated.setdefault((entry.account_id, entry.accounting_date), []).append(entry.amount_minor)
    closings = {(row.slot, row.currency, row.accounting_date): row for row in await rows(store, Closing)}
    assert {row.state for row in closings.values()} <= {"DONE"}
    snapshots = {(row.account_id, row.accounting_date): row for row in await rows(store, BalanceSnapshot)}
    expected = {
        (account_id, date)
        for account_id, date in dated
        if (kinds[account_id].slot, kinds[account_id].currency, date) in closings
    }
    assert set(snapshots) == expected
    for (account_id, date), row in snapshots.items():
        moved = dated[account_id, date]
        assert row.credit_minor - row.debit_minor == sum(moved)
        assert row.credit_minor == sum(minor for minor in moved if minor > 0)
        until = [minor for (id_, day), minors in dated.items() if id_ == account_id and day <= date for minor in minors]
        assert row.balance_minor == sum(until)
    for (slot, currency, date), row in closings.items():
        latest: dict[str, BalanceSnapshot] = {}
        for snapshot in sorted(snapshots.values(), key=lambda snapshot: snapshot.accounting_date):
            if (snapshot.slot, snapshot.currency) == (slot, currency) and snapshot.accounting_date <= date:
                latest[snapshot.account_id] = snapshot
        assert sum(snapshot.balance_minor for snapshot in latest.values()) == 0
        by_kind = Counter[str]()
        for snapshot in latest.values():
            by_kind[snapshot.account_kind] += snapshot.balance_minor
        totals = closing.totals_of(row)
        assert {kind: total.balance_minor for kind, total in totals.items()} == by_kind
        assert sum(total.account_count for total in totals.values()) == len(latest)
