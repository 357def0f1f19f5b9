"""Copies of payments are payments: other ids and times, the same relations and accounts."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from bench import fill
from bench.debits import FUNDS_MINOR, Debit, Fund
from pay_core.tables import Account, Entry, Journal
from paykit.clock import SystemClock
from paykit.ids import is_id, slot_in, time_ms_in
from paykit.settings import ExecutorSettings, ShardSettings
from paykit.store.migrate import migrate
from paykit.store.row import Row
from paykit.store.store import Store
from paykit.store.system import CommandRecord
from tests.conftest import MakeDatabases

COPIES = 60
DEBITS = 5
DAY_MS = 86_400_000


def _rows(url: str, kind: type[Row]) -> list[Any]:
    with fill.connect(url) as connection:
        return list(connection.execute(select(kind.__table__).order_by(kind.__table__.c.id)))


async def test_a_database_is_filled_with_older_copies_and_what_they_are_copies_of(
    make_databases: MakeDatabases, mariadb_servers: list[str]
) -> None:
    source, *_, target = make_databases(1 + len(mariadb_servers))  # both on the first server
    for url in (source, target):
        await migrate("pay_core", {"s0": ShardSettings(live=url)}, 1)
    clock = SystemClock()
    store = Store("pay_core", {"s0": ShardSettings(live=source)}, 1, clock, ExecutorSettings())
    await store.start()
    await store.run(Fund(FUNDS_MINOR))
    for _ in range(DEBITS):
        await store.run(Debit(1))
    await store.stop()
    fill.fill(source, target, COPIES, clock.now_ms())

    for kind in (Journal, Entry, CommandRecord):
        originals, found = _rows(source, kind), _rows(target, kind)
        assert len(found) == (1 + COPIES) * len(originals), kind
        assert set(originals) <= set(found), kind
    assert _rows(target, Account) == _rows(source, Account)

    journals = {journal.id: journal for journal in _rows(target, Journal)}
    accounts = {account.id for account in _rows(source, Account)}
    oldest_ms = min(journal.posted_at_ms for journal in journals.values())
    assert 29 * DAY_MS < clock.now_ms() - oldest_ms < 31 * DAY_MS
    for entry in _rows(target, Entry):
        journal = journals[entry.journal_id]
        assert is_id(entry.id, "ent")
        assert slot_in(entry.id) == entry.slot
        assert abs(time_ms_in(entry.id) - entry.posted_at_ms) < 2**19
        assert (entry.payment_id, entry.posted_at_ms, entry.accounting_date) == (
            journal.payment_id,
            journal.posted_at_ms,
            journal.accounting_date,
        )
        assert entry.account_id in accounts
    assert fill.finish(target) > fill.finish(source) > 0
