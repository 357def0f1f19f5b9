"""Debits of one hot account: through the executor, and with one transaction per debit.

The account is a user's, so it has a floor, and every debit looks at what is left. What is measured is also proved: the
balance falls by exactly what was debited, and many at once cannot take more than there is.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from google.protobuf.wrappers_pb2 import StringValue
from sqlalchemy import select

from bench.children import LoadFailed
from bench.ledger import BASELINE, CALLERS, EXECUTOR, OnePerTransaction
from bench.measure import Sample, drive
from pay_core import ledger
from pay_core.ledger import AccountKind, AccountRef, Draft, Leg
from pay_core.tables import Account
from paykit import context as business_context
from paykit.clock import SystemClock
from paykit.ids import slot_of
from paykit.settings import ExecutorSettings, ShardSettings
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.migrate import migrate
from paykit.store.row import Key
from paykit.store.store import Store

OWNER = "hot"
FUNDS_MINOR = 1_000_000_000
PAYEES = 1_000
LAST_DEBITS = 500  # of a fifth of what they would need: four in five must be refused

_CLOCK = SystemClock()
_SLOT = slot_of(OWNER)
_HOT = ledger.owned(OWNER, AccountKind.USER, "EUR")
_HOT_ACCOUNT = select(Account.__table__).where(Account.__table__.c.account_key == _HOT.account_key)
_numbers = itertools.count()


class Debit(Command[bool]):
    """Money of the hot account to another of its slot; False, and nothing moved, where there is too little."""

    result_type = bool

    def __init__(self, amount_minor: int) -> None:
        context = business_context.mint(_SLOT, _CLOCK.now_ms(), caller="bench")
        request_id = f"debit-{next(_numbers)}"
        super().__init__(_SLOT, Origin.rpc(context, "Debit", OWNER, request_id, StringValue(value=request_id)))
        self.amount_minor = amount_minor
        self.payee = AccountRef(_SLOT, f"payee{random.randrange(PAYEES)}", AccountKind.SUSPENSE, "EUR")

    def reads(self, rows: Rows) -> Iterable[Key]:
        return ledger.account_keys([_HOT, self.payee])

    def decide(self, work: Work) -> bool:
        draft = Draft(self.slot, "EUR")
        if ledger.refusal(work, _HOT, self.amount_minor, draft):
            return False
        draft.move(work.new_id("ins"), self.amount_minor, Leg.LOCAL, _HOT, self.payee)
        ledger.post(work, draft, work.new_id("pay"))
        return True


class Fund(Debit):
    """The other way round: from where no floor is."""

    def decide(self, work: Work) -> bool:
        draft = Draft(self.slot, "EUR")
        draft.move(work.new_id("ins"), self.amount_minor, Leg.LOCAL, self.payee, _HOT)
        ledger.post(work, draft, work.new_id("pay"))
        return True


class Proof:
    """Counts what was debited, and compares it with the account."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.debited_minor = 0

    async def debit(self, execute: Callable[[Debit], Awaitable[bool]], amount_minor: int = 1) -> bool:
        """One debit; whether there was enough."""
        done = await execute(Debit(amount_minor))
        self.debited_minor += amount_minor if done else 0
        return done

    async def expect_exact(self) -> int:
        """The balance, which is what was there less what was debited; LoadFailed where it is not."""
        (account,) = await self._store.fetch(Account, _HOT_ACCOUNT, slot=_SLOT, shadow=False)
        balance_minor = account.balance_minor
        if balance_minor != FUNDS_MINOR - self.debited_minor:
            raise LoadFailed(f"{FUNDS_MINOR} less {self.debited_minor} debited is not {balance_minor}")
        return balance_minor

    async def expect_floor(self, execute: Callable[[Debit], Awaitable[bool]]) -> None:
        """Many at once want more than is left: just as many get it as there is money for."""
        left_minor = await self.expect_exact()
        amount_minor = left_minor // (LAST_DEBITS // 5)
        done = sum(await asyncio.gather(*(self.debit(execute, amount_minor) for _ in range(LAST_DEBITS))))
        if await self.expect_exact() != left_minor - done * amount_minor or done != left_minor // amount_minor:
            raise LoadFailed(f"{done} debits of {amount_minor} out of {left_minor}")


async def run(shards: dict[str, ShardSettings], rounds: int, seconds: float) -> dict[str, list[Sample]]:
    """Interleaved samples by way: EXECUTOR and BASELINE. LoadFailed where a balance is not exact."""
    await migrate("pay_core", shards, 1)
    store = Store("pay_core", shards, 1, _CLOCK, ExecutorSettings())
    await store.start()
    baseline = OnePerTransaction(shards, store)
    ways: dict[str, Callable[[Debit], Awaitable[bool]]] = {EXECUTOR: store.run, BASELINE: baseline.run}
    proof = Proof(store)
    samples: dict[str, list[Sample]] = {way: [] for way in ways}
    try:
        await store.run(Fund(FUNDS_MINOR))
        for _ in range(4 * PAYEES // CALLERS):  # every account is made first
            await asyncio.gather(*(proof.debit(store.run) for _ in range(CALLERS)))
        for _ in range(rounds):
            for way, execute in ways.items():
                samples[way].append(await drive(partial(proof.debit, execute), CALLERS, seconds))
                await proof.expect_exact()
        await proof.expect_floor(store.run)
    finally:
        await baseline.close()
        await store.stop()
    return samples
