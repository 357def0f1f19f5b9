"""What many callers and two processes at once can never do: give back more than was taken, take more than there is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select

from pay_core.chains import Order
from pay_core.commands import Refund, SettleInstruction, StartPayment
from pay_core.ledger import AccountKind
from pay_core.orchestration import PaymentView
from pay_core.payment import CHANNEL, Funding, Operation, Payee
from pay_core.tables import Account, Entry, Instruction, Payment
from pay_core.tools.base import Outcome
from paykit import context as business_context
from paykit.clock import SystemClock
from paykit.errors import FailedPrecondition
from paykit.ids import new_id, slot_of
from paykit.settings import ExecutorSettings
from paykit.store.command import Origin
from paykit.store.store import Store
from tests.conftest import MakeShards
from tests.pay_core.world import World, bank, card
from tests.schema import make_schema

PAID = 10_000
TERMS = World().terms()


@pytest.fixture
async def processes(make_shards: MakeShards) -> AsyncIterator[tuple[Store, Store]]:
    """Two processes of the service on the same shards."""
    shards = make_shards(1, ("live",))
    await make_schema("pay_core", shards)
    stores = [Store("pay_core", shards, 1, SystemClock(), ExecutorSettings()) for _ in range(2)]
    for store in stores:
        await store.start()
    yield stores[0], stores[1]
    for store in stores:
        await store.stop()


def timer_origin() -> Origin:
    """Each command is another one."""
    return Origin.timer(business_context.mint(slot_of("ann"), SystemClock().now_ms(), caller="tester"))


async def paid(store: Store, order: Order) -> PaymentView:
    """A payment that begins with a channel's answer, which is yes."""
    started = await store.run(StartPayment(timer_origin(), order, "", TERMS))
    (instruction,) = [ins for ins in started.chain if ins.state == "PROCESSING"]
    outcome = Outcome("", new_id("chn", started.payment.slot, 1), (order.amount_minor, "EUR"))
    command = SettleInstruction(
        timer_origin(), started.payment.id, instruction.id, tool=CHANNEL, outcome=outcome, terms=TERMS
    )
    await store.run(command)
    return started


async def balances(store: Store) -> dict[str, int]:
    """Every account's balance by its key, each the sum of its entries."""
    accounts = await store.fetch_everywhere(Account, select(Account.__table__), shadow=False)
    entries: Counter[str] = Counter()
    for entry in await store.fetch_everywhere(Entry, select(Entry.__table__), shadow=False):
        entries[entry.account_id] += entry.amount_minor
    assert all(account.balance_minor == entries[account.id] for account in accounts)
    return {account.account_key: account.balance_minor for account in accounts}


async def test_two_hundred_concurrent_refunds_never_exceed_what_was_captured(processes: tuple[Store, Store]) -> None:
    store = processes[0]
    # The payee's account lies on the payment's slot: its money is taken in the same decision.
    fundings, payees = (card(PAID),), (Payee("ann", AccountKind.MERCHANT, PAID),)
    payment = (await paid(store, Order(Operation.TRANSFER, "ann", "EUR", PAID, fundings, payees))).payment
    refunds = [Refund(timer_origin(), payment.id, "EUR", 150 + number % 7, "", TERMS) for number in range(200)]
    answers = await asyncio.gather(
        *(processes[number % 2].run(refund) for number, refund in enumerate(refunds)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, FailedPrecondition)]
    accepted = [answer for answer in answers if isinstance(answer, PaymentView)]
    assert len(refused) + len(accepted) == 200, [a for a in answers if a not in refused and a not in accepted][:3]
    assert {error.reason for error in refused} == {"REFUND_EXCEEDS_PAYMENT"}
    total_minor = sum(view.payment.amount_minor for view in accepted)
    assert PAID - 156 < total_minor <= PAID
    rows = await store.fetch_everywhere(Payment, select(Payment.__table__), shadow=False)
    original = next(row for row in rows if row.id == payment.id)
    assert original.refunding_minor + original.refunded_minor == total_minor
    chain = await store.fetch_everywhere(Instruction, select(Instruction.__table__), shadow=False)
    counted = {ins.action: ins.refunded_minor for ins in chain if ins.payment_id == payment.id}
    assert counted == {"COLLECT": total_minor, "DISBURSE": total_minor}
    found = await balances(store)
    assert found["ann/MERCHANT/EUR"] == PAID - total_minor
    assert sum(found.values()) == 0


async def test_five_hundred_concurrent_withdrawals_never_pass_the_floor(processes: tuple[Store, Store]) -> None:
    store = processes[0]
    await paid(store, Order(Operation.RECHARGE, "ann", "EUR", PAID, (card(PAID),)))
    withdrawals = [
        StartPayment(timer_origin(), Order(Operation.WITHDRAW, "ann", "EUR", 37, (bank(37),)), "", TERMS)
        for _ in range(500)
    ]
    answers = await asyncio.gather(*(processes[number % 2].run(one) for number, one in enumerate(withdrawals)))
    states = Counter((view.payment.state, view.payment.failure_reason) for view in answers)
    assert states == {("PROCESSING", ""): PAID // 37, ("FAILED", "INSUFFICIENT_FUNDS"): 500 - PAID // 37}
    found = await balances(store)
    assert found["ann/USER/EUR"] == PAID % 37
    assert found[f"internal.{slot_of('ann')}/CLEARING/EUR"] == PAID - PAID % 37
    assert sum(found.values()) == 0


async def test_one_balance_never_pays_twice_from_two_processes(processes: tuple[Store, Store]) -> None:
    store = processes[0]
    await paid(store, Order(Operation.RECHARGE, "ann", "EUR", PAID, (card(PAID),)))
    order = Order(
        Operation.TRANSFER,
        "ann",
        "EUR",
        PAID // 10,
        (Funding(PAID // 10),),
        (Payee("ann", AccountKind.MERCHANT, PAID // 10),),
    )
    commands = [StartPayment(timer_origin(), order, "", TERMS) for _ in range(60)]
    answers = await asyncio.gather(*(processes[number % 2].run(one) for number, one in enumerate(commands)))
    assert Counter(view.payment.state for view in answers) == {"SUCCEEDED": 10, "FAILED": 50}
    found = await balances(store)
    assert (found["ann/USER/EUR"], found["ann/MERCHANT/EUR"]) == (0, PAID)
