"""A ledger transfer: through the batch executor, and with one transaction per request.

Both carry out the same command with the same statements; the only difference is how many commands share a
transaction. Accounts are uniform (every transfer its own pair of a thousand) or hot (all credit one account).
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar, cast

from google.protobuf.wrappers_pb2 import StringValue
from sqlalchemy.exc import DBAPIError

from bench.measure import Sample, drive
from pay_core import ledger
from pay_core.ledger import AccountKind, AccountRef, Draft, Leg
from paykit import context as business_context
from paykit.clock import SystemClock
from paykit.settings import ExecutorSettings, ShardSettings
from paykit.store.batch import Batch
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.engines import ShardEngines, is_contention
from paykit.store.migrate import migrate
from paykit.store.row import Key
from paykit.store.statements import StaleRow
from paykit.store.store import Store
from paykit.store.transaction import Waiting, prepare_batch

CALLERS = 64
ACCOUNTS = 1000
EXECUTOR, BASELINE = "executor", "one transaction per request"
BASELINE_CONNECTIONS = 16  # a usual pool; see docs/performance.md for one per caller

_CLOCK = SystemClock()
_numbers = itertools.count()

R = TypeVar("R")


class LedgerTransfer(Command[str]):
    """One journal between two accounts of a slot, recorded and announced like any other."""

    result_type = str

    def __init__(self, slot: int, debit: AccountRef, credit: AccountRef) -> None:
        context = business_context.mint(slot, _CLOCK.now_ms(), caller="bench")
        request_id = f"bench-{next(_numbers)}"
        request = StringValue(value=request_id)
        super().__init__(slot, Origin.rpc(context, "LedgerTransfer", debit.owner_id, request_id, request))
        self.debit, self.credit = debit, credit

    def reads(self, rows: Rows) -> Iterable[Key]:
        return ledger.account_keys([self.debit, self.credit])

    def decide(self, work: Work) -> str:
        draft = Draft(self.slot, "EUR")
        draft.move(work.new_id("ins"), 1, Leg.LOCAL, self.debit, self.credit)
        return ledger.post(work, draft, work.new_id("pay")).id


def _uniform() -> LedgerTransfer:
    slot = random.randrange(ACCOUNTS)
    payer = AccountRef(slot, f"payer{slot}", AccountKind.SUSPENSE, "EUR")
    payee = AccountRef(slot, f"payee{slot}", AccountKind.SUSPENSE, "EUR")
    return LedgerTransfer(slot, payer, payee)


def _hot() -> LedgerTransfer:
    payer = AccountRef(7, f"hotpayer{random.randrange(ACCOUNTS)}", AccountKind.SUSPENSE, "EUR")
    return LedgerTransfer(7, payer, AccountRef(7, "hot", AccountKind.SUSPENSE, "EUR"))


PICKS: dict[str, Callable[[], LedgerTransfer]] = {"uniform accounts": _uniform, "one hot account": _hot}


class OnePerTransaction:
    """The same command with the same statements, each in a transaction of its own on a pooled connection."""

    def __init__(self, shards: dict[str, ShardSettings], store: Store) -> None:
        settings = ExecutorSettings(lanes=1, write_pool_size=BASELINE_CONNECTIONS - 1, pool_timeout_s=60)
        self._engines = {name: ShardEngines(shard.live, settings) for name, shard in shards.items()}
        self._store = store

    async def run(self, command: Command[R]) -> R:
        """Its result. Runs it again where it lost a race, as such a service would."""
        engine = self._engines[self._store.map.shard_of(command.slot)].writer
        waiting = Waiting(command, asyncio.get_running_loop().create_future(), 0.0)
        while True:
            async with engine.connect() as connection:
                try:
                    batch = Batch(_CLOCK.now_ms(), 5_000)
                    outcome = await connection.run_sync(prepare_batch, batch, [waiting], 1, True)
                    await connection.commit()
                    ((_, result),) = outcome.done
                    return cast(R, result)
                except (StaleRow, DBAPIError) as error:
                    await connection.rollback()
                    if isinstance(error, DBAPIError) and not is_contention(error):
                        raise

    async def close(self) -> None:
        for engines in self._engines.values():
            await engines.dispose()


async def _one(execute: Callable[[LedgerTransfer], Awaitable[object]], pick: Callable[[], LedgerTransfer]) -> None:
    await execute(pick())


async def run(shards: dict[str, ShardSettings], rounds: int, seconds: float) -> dict[tuple[str, str], list[Sample]]:
    """Interleaved samples by (accounts, way): ways are EXECUTOR and BASELINE."""
    await migrate("pay_core", shards, 1)
    store = Store("pay_core", shards, 1, _CLOCK, ExecutorSettings())
    await store.start()
    baseline = OnePerTransaction(shards, store)
    ways: dict[str, Callable[[LedgerTransfer], Awaitable[object]]] = {
        EXECUTOR: store.run,
        BASELINE: baseline.run,
    }
    samples: dict[tuple[str, str], list[Sample]] = {}
    try:
        # Every account is made first: what is measured is the transfer.
        for _ in range(8 * ACCOUNTS // CALLERS):
            await asyncio.gather(*(store.run(pick()) for pick in PICKS.values() for _ in range(CALLERS)))
        for _ in range(rounds):
            for accounts, pick in PICKS.items():
                for way, execute in ways.items():
                    one = partial(_one, execute, pick)
                    samples.setdefault((accounts, way), []).append(await drive(one, CALLERS, seconds))
    finally:
        await baseline.close()
        await store.stop()
    return samples
