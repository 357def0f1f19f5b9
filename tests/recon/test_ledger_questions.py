"""What recon asks of the ledger when a window passes: where a journal must show, and what proves that it does."""

from __future__ import annotations

import pytest

from paykit.clock import ManualClock
from paykit.context import use
from paykit.ids import slot_of
from paykit.store.store import Store
from paymesh.event.v1 import events_pb2
from paymesh.pay.v1 import payment_pb2
from recon import facts
from recon.expiry import Expiry
from recon.matching import MatchKind, MatchState
from tests.recon.neighbours import Neighbours
from tests.recon.support import NOW_MS, SLOT, CardPayment, expire, mint, owner_on, pair_of, row_of

USER = payment_pb2.ACCOUNT_KIND_USER
EXTERNAL = payment_pb2.ACCOUNT_KIND_EXTERNAL
IN_TRANSIT = payment_pb2.ACCOUNT_KIND_IN_TRANSIT


@pytest.mark.parametrize(
    ("booked_minor", "expected"), [(500, MatchState.MATCHED), (499, MatchState.BROKEN), (None, MatchState.BROKEN)]
)
async def test_the_journal_of_a_payee_is_looked_for_on_the_payees_account(
    expiry: Expiry,
    store: Store,
    clock: ManualClock,
    world: Neighbours,
    booked_minor: int | None,
    expected: MatchState,
) -> None:
    payment = CardPayment(500)
    world.payments = [payment.payment()]
    world.book(payment.payee_id, USER, "pay_other", 500)
    if booked_minor is not None:
        world.book(payment.payee_id, USER, payment.payment_id, booked_minor)
    said = facts.of_payment(payment.payment())
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_LEDGER, payment.disburse_id)
    assert match.state == expected


async def test_the_journal_of_a_charge_is_looked_for_on_the_slots_external_account(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment(500)
    world.payments = [payment.payment()]
    world.book(f"internal.{SLOT}", EXTERNAL, payment.payment_id, -500)
    for _ in range(250):
        world.book(f"internal.{SLOT}", EXTERNAL, "pay_other", -500)
    said = facts.of_payment(payment.payment())
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_LEDGER, payment.collect_id)
    assert match.state == MatchState.MATCHED
    assert [method for method, _ in world.asked].count("ListEntries") == 2


@pytest.mark.parametrize(
    ("tool", "kind"),
    [
        ("fees", payment_pb2.ACCOUNT_KIND_FEES),
        ("escrow", payment_pb2.ACCOUNT_KIND_ESCROW),
        ("suspense", payment_pb2.ACCOUNT_KIND_SUSPENSE),
        ("coupon", payment_pb2.ACCOUNT_KIND_MARKETING),
        ("coupon", payment_pb2.ACCOUNT_KIND_COUPON),
        ("coupon_account", payment_pb2.ACCOUNT_KIND_COUPON),
        ("points", payment_pb2.ACCOUNT_KIND_MARKETING),
    ],
)
@pytest.mark.parametrize(("booked_minor", "expected"), [(500, MatchState.MATCHED), (499, MatchState.BROKEN)])
async def test_the_journal_of_an_internal_tool_is_looked_for_on_the_slots_own_accounts(
    expiry: Expiry,
    store: Store,
    clock: ManualClock,
    world: Neighbours,
    tool: str,
    kind: payment_pb2.AccountKind.ValueType,
    booked_minor: int,
    expected: MatchState,
) -> None:
    payment = CardPayment(500)
    told = payment.payment()
    told.instructions[1].tool, told.instructions[1].owner_id = tool, ""
    reserve = told.instructions.add()
    reserve.CopyFrom(told.instructions[1])
    reserve.instruction_id, reserve.action = mint("ins"), payment_pb2.INSTRUCTION_ACTION_RESERVE
    world.payments = [told]
    world.book(f"internal.{SLOT}", kind, payment.payment_id, booked_minor)
    said = facts.of_payment(told)
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_LEDGER, payment.disburse_id)
    assert match.state == expected


async def test_what_came_in_excess_shows_outside_and_in_suspense(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment(500)
    told = payment.payment()
    told.instructions[0].moved_minor = 700
    told.instructions[1].tool = "suspense"
    told.instructions[1].action = payment_pb2.INSTRUCTION_ACTION_COLLECT
    told.instructions[1].amount.amount_minor = 200
    world.payments = [told]
    world.book(f"internal.{SLOT}", EXTERNAL, payment.payment_id, -700)
    world.book(f"internal.{SLOT}", payment_pb2.ACCOUNT_KIND_SUSPENSE, payment.payment_id, 200)
    world.book(f"internal.{SLOT}", payment_pb2.ACCOUNT_KIND_SUSPENSE, payment.payment_id, -200)
    await store.run(payment.take(facts.of_payment(told)))
    clock.advance(30_000)
    for key in (payment.collect_id, payment.disburse_id):
        match = await pair_of(store, MatchKind.PAY_LEDGER, key)
        assert match is not None
        with use(payment.context):
            await expiry.fire(await row_of(store, payment))
        after = await pair_of(store, MatchKind.PAY_LEDGER, key)
        assert after is not None
        assert after.state == MatchState.MATCHED


async def test_more_entries_than_are_looked_through_is_no_answer(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment(500)
    world.payments = [payment.payment()]
    for _ in range(1_001):
        world.book(payment.payee_id, USER, "pay_other", 1)
    said = facts.of_payment(payment.payment())
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_LEDGER, payment.disburse_id)
    assert (match.state, match.ask_count) == (MatchState.WAITING, 1)


async def test_entries_older_than_the_payment_are_not_looked_through(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment(500)
    world.payments = [payment.payment()]
    for _ in range(1_001):
        world.book(payment.payee_id, USER, "pay_other", 1, post_ms=NOW_MS - 3_600_000)
    said = facts.of_payment(payment.payment())
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_LEDGER, payment.disburse_id)
    assert match.state == MatchState.BROKEN
    assert [method for method, _ in world.asked].count("ListEntries") == 1


async def test_what_was_taken_and_given_back_must_show_in_the_ledger_too(
    expiry: Expiry, store: Store, clock: ManualClock, world: Neighbours
) -> None:
    payment = CardPayment(500)
    reversed_payment = payment.payment()
    back = reversed_payment.instructions.add()
    back.CopyFrom(reversed_payment.instructions[1])
    back.instruction_id = mint("ins")
    back.action = payment_pb2.INSTRUCTION_ACTION_COLLECT
    world.payments = [reversed_payment]
    world.book(payment.payee_id, USER, "pay_other", 1)
    said = facts.of_payment(reversed_payment)
    match = await expire(expiry, store, clock, payment, said, MatchKind.PAY_LEDGER, payment.disburse_id)
    assert match.state == MatchState.BROKEN, "a sum of zero over no entries proves nothing"


@pytest.mark.parametrize(
    ("is_sent_heard", "has_booked", "expected"),
    [
        (True, True, MatchState.MATCHED),
        (True, False, MatchState.BROKEN),
        (False, True, MatchState.MATCHED),
        (False, False, MatchState.BROKEN),
    ],
)
async def test_both_ends_of_a_transit_are_looked_for_where_they_must_show(
    expiry: Expiry,
    store: Store,
    clock: ManualClock,
    world: Neighbours,
    is_sent_heard: bool,
    has_booked: bool,
    expected: MatchState,
) -> None:
    payment = CardPayment(500)
    payment.payee_id = owner_on(SLOT + 1)
    assert slot_of(payment.payee_id) != SLOT
    world.payments = [payment.payment()]
    if has_booked and is_sent_heard:
        world.book(payment.payee_id, USER, payment.payment_id, 500)
    if has_booked and not is_sent_heard:
        world.book(f"internal.{SLOT}", IN_TRANSIT, payment.payment_id, 500)
    journal = payment.journal(events_pb2.BOOKING_LEG_SENT) if is_sent_heard else payment.arrival()
    said = facts.of_journal(journal)
    match = await expire(expiry, store, clock, payment, said, MatchKind.TRANSIT, payment.disburse_id)
    assert match.state == expected
