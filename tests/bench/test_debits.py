"""The measured debits are proved: an account that does not fit fails the run."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from bench import debits
from bench.children import LoadFailed
from bench.debits import Proof
from bench.ledger import BASELINE, EXECUTOR
from paykit.clock import SystemClock
from paykit.settings import ExecutorSettings, ShardSettings
from paykit.store.migrate import migrate
from paykit.store.store import Store
from tests.conftest import MakeDatabases, MakeShards


@pytest_asyncio.fixture
async def store(make_shards: MakeShards) -> AsyncIterator[Store]:
    shards = make_shards(1, ["live"])
    await migrate("pay_core", shards, 1)
    found = Store("pay_core", shards, 1, SystemClock(), ExecutorSettings())
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


async def test_many_debits_at_once_are_exact_and_stop_at_the_floor(store: Store) -> None:
    await store.run(debits.Fund(debits.FUNDS_MINOR))
    proof = Proof(store)
    assert await proof.debit(store.run)
    await proof.expect_floor(store.run)
    assert 0 <= await proof.expect_exact() < debits.FUNDS_MINOR // 100


async def test_a_debit_that_is_not_in_the_balance_fails_the_run(store: Store) -> None:
    await store.run(debits.Fund(debits.FUNDS_MINOR))
    proof = Proof(store)
    proof.debited_minor = 1
    with pytest.raises(LoadFailed, match="1 debited"):
        await proof.expect_exact()


async def test_both_ways_are_measured_and_proved(make_databases: MakeDatabases) -> None:
    (url,) = make_databases(1)
    samples = await debits.run({"s0": ShardSettings(live=url)}, rounds=1, seconds=0.2)
    assert {way: len(found) for way, found in samples.items()} == {EXECUTOR: 1, BASELINE: 1}
