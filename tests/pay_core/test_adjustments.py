"""Repairs that post journals: EXTERNAL against SUSPENSE, and the opposite of what was not done. Each once."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from pay_core.adjustment_commands import DESK, TakeCompensation
from pay_core.completion import GoOnCompleting, SettleAsRepair
from pay_core.ledger import AccountKind
from pay_core.orchestration import PaymentView
from pay_core.payment import BALANCE, Funding
from pay_core.tables import Account, Adjustment, Compensation, Entry, Instruction, Journal
from paykit import compensation
from paykit import context as business_context
from paykit.errors import NotFound, PermissionDenied
from paykit.events.message import Message, to_headers
from paykit.ids import new_id, slot_in, slot_of
from paykit.store.command import Origin
from paymesh.common.v1 import money_pb2
from paymesh.event.v1 import compensation_pb2
from paymesh.ops.v1 import compensation_service_pb2, compensation_service_pb2_grpc
from paymesh.recon.v1 import repair_pb2
from tests.pay_core.conftest import Running
from tests.pay_core.world import NOW_MS, World, card

SLOT = slot_of("ann")
EXTERNAL, SUSPENSE = AccountKind.EXTERNAL, AccountKind.SUSPENSE


def asked(kind: str = "ADJUST", amount_minor: int = 500, **changes: Any) -> compensation.Compensation:
    """A repair as recon asks for it."""
    fields: dict[str, Any] = {
        "repair_id": new_id("rpr", SLOT, NOW_MS),
        "break_id": new_id("brk", SLOT, NOW_MS),
        "kind": repair_pb2.RepairKind.Value(f"REPAIR_KIND_{kind}"),
        "service": "pay_core",
        "channel": "card",
        "amount": money_pb2.Money(currency_code="EUR", amount_minor=amount_minor),
        "proposed_by": "ann@example.org",
        "approved_by": "bob@example.org",
    }
    return compensation.Compensation(**(fields | changes))


def event(request: compensation.Compensation, message_id: str = "") -> TakeCompensation:
    """The command of an event; another message id is another delivery of the same repair."""
    context = business_context.mint(SLOT, NOW_MS, caller="event:compensations")
    return TakeCompensation(Origin.event(context, compensation.CONSUMER, message_id or request.repair_id), request)


def outcome_in(world: World, request: compensation.Compensation) -> tuple[str, str]:
    """(outcome, detail) of a repair, and that it was told once."""
    (row,) = [row for row in world.all(Compensation) if row.repair_id == request.repair_id]
    told = [
        message.result
        for message in (
            compensation_pb2.CompensationDoneEvent.FromString(found.body)
            for found in world.events
            if found.destination == DESK.subject
        )
        if message.result.repair_id == request.repair_id
    ]
    assert [repair_pb2.RepairOutcome.Name(result.outcome) for result in told] == [f"REPAIR_OUTCOME_{row.outcome}"]
    assert told[0].service == "pay_core"
    return row.outcome, row.detail


def misbooked(world: World, *, owner: str = "ann", amount_minor: int = 800) -> PaymentView:
    """A top-up whose journal stands though neither of its steps was carried out."""
    view = world.recharge(owner, amount_minor, f"r-{owner}")
    world.drain()
    for ins in world.chain(view):
        world.rows[Instruction][ins.id] = msgspec.structs.replace(ins, state="FAILED", failure_reason="TAKEN_BACK")
    return view


def reversal_of(world: World, view: PaymentView, number: int = 0) -> compensation.Compensation:
    """The repair of one of a payment's steps."""
    return asked("REVERSE", 800, payment_id=view.payment.id, instruction_id=world.chain(view)[number].id)


@pytest.mark.parametrize("amount_minor", [500, -500])
def test_an_adjustment_posts_the_difference_against_suspense_by_the_rules_of_the_ledger(amount_minor: int) -> None:
    world, request = World(), asked(amount_minor=amount_minor)
    row = world.run(event(request))
    assert (row.state, row.outcome) == ("ENDED", "DONE")
    # More came in outside: EXTERNAL is debited, as by any collection, and SUSPENSE owes it to somebody.
    assert (world.total(EXTERNAL), world.total(SUSPENSE)) == (-amount_minor, amount_minor)
    (made,), (journal,) = world.all(Adjustment), world.all(Journal)
    assert (made.id, made.journal_id, made.amount_minor) == (row.effect_id, journal.id, amount_minor)
    assert (made.proposed_by, made.approved_by) == ("ann@example.org", "bob@example.org")
    assert journal.accounting_date == "2023-11-14"
    assert {entry.accounting_date for entry in world.all(Entry)} == {journal.accounting_date}
    assert [found.destination for found in world.events].count("ledger.journal_posted") == 1
    assert outcome_in(world, request)[0] == "DONE"
    world._check_ledger()


def test_an_adjustment_is_dated_by_the_day_that_is_open_not_by_the_day_it_is_about() -> None:
    world = World()
    world.run(event(asked()))
    world.next_date()
    world.run(event(asked()))
    assert sorted(journal.accounting_date for journal in world.all(Journal)) == ["2023-11-14", "2023-11-15"]


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"channel": ""}, "names no channel"),
        ({"amount": money_pb2.Money(currency_code="EUR")}, "zero or too large"),
        ({"amount": money_pb2.Money(currency_code="EUR", amount_minor=10**16)}, "zero or too large"),
        ({"amount": money_pb2.Money(currency_code="XXY", amount_minor=1)}, "names no currency"),
        ({"kind": "REFUND"}, "does no REFUND"),
    ],
)
def test_what_cannot_be_posted_is_refused_with_a_reason_and_nothing_is_booked(
    changes: dict[str, Any], detail: str
) -> None:
    world, request = World(), asked(**changes)
    world.run(event(request))
    outcome, told = outcome_in(world, request)
    assert outcome == "REFUSED"
    assert detail in told
    assert not world.all(Journal)


def test_a_second_event_a_replay_and_an_rpc_twin_change_nothing_and_are_answered_the_same() -> None:
    world, request = World(), asked()
    first = world.run(event(request))
    assert world.run(event(request)) is None  # the same message
    assert world.run(event(request, "another")) == first  # another event of the same repair
    called = Origin.rpc(business_context.mint(SLOT, NOW_MS, caller="recon"), "Compensate", "o", "r", request)
    assert world.run(TakeCompensation(called, request)) == first
    assert len(world.all(Adjustment)) == len(world.all(Journal)) == len(world.all(Compensation)) == 1
    assert outcome_in(world, request)[0] == "DONE"


def test_a_reversal_posts_the_opposite_of_a_journal_that_books_what_was_not_done() -> None:
    world = World()
    view = misbooked(world)
    assert (world.balance("ann"), world.total(EXTERNAL)) == (800, -800)
    request = reversal_of(world, view)
    world.run(event(request))
    assert outcome_in(world, request)[0] == "DONE"
    assert (world.balance("ann"), world.total(EXTERNAL)) == (0, 0)
    (made,) = world.all(Adjustment)
    first, second = sorted(world.all(Journal), key=lambda row: row.id != made.reversed_journal_id)
    assert (made.reversed_journal_id, made.journal_id, made.payment_id) == (first.id, second.id, view.payment.id)
    assert second.bookings == "[]"
    world._check_ledger()


def test_a_reversal_of_what_was_reversed_already_has_nothing_to_do() -> None:
    world = World()
    view = misbooked(world)
    requests = [reversal_of(world, view, number) for number in (0, 0, 1)]  # the last is booked by the same journal
    for request in requests:
        world.run(event(request))
    assert outcome_in(world, requests[1])[0] == "NOTHING_TO_DO"
    request = requests[2]
    assert outcome_in(world, request) == ("NOTHING_TO_DO", "no journal books the instruction")
    assert len(world.all(Adjustment)) == 1
    assert world.balance("ann") == 0


def test_a_reversal_that_comes_after_the_result_did_has_nothing_to_do() -> None:
    world = World()
    view = world.recharge("ann", 800, "r1")
    world.drain()
    request = reversal_of(world, view)
    world.run(event(request))
    assert outcome_in(world, request) == ("NOTHING_TO_DO", "the instruction SUCCEEDED: its journal stands")
    assert world.balance("ann") == 800
    world.check()


def test_a_reversal_of_what_never_happened_has_nothing_to_do() -> None:
    world = World()
    nameless = asked("REVERSE")
    world.run(event(nameless))
    assert outcome_in(world, nameless) == ("REFUSED", "it names no instruction of a payment here")
    payment_id, instruction_id = (new_id(prefix, SLOT, NOW_MS) for prefix in ("pay", "ins"))
    request = asked("REVERSE", payment_id=payment_id, instruction_id=instruction_id)
    world.run(event(request))
    assert outcome_in(world, request) == ("NOTHING_TO_DO", "there is no such instruction")
    assert not world.all(Journal)


def test_money_that_was_spent_meanwhile_is_not_taken_below_the_floor() -> None:
    world = World()
    view = misbooked(world)
    world.transfer("ann", [world_balance(300)], [("bob", AccountKind.USER, 300)], "t1")
    world.drain()
    request = reversal_of(world, view)
    world.run(event(request))
    outcome, detail = outcome_in(world, request)
    assert outcome == "REFUSED"
    assert detail.startswith("INSUFFICIENT_FUNDS")
    assert world.balance("ann") == 500


def world_balance(amount_minor: int) -> Any:
    """A balance as a funding."""
    return Funding(amount_minor, BALANCE)


def test_a_journal_that_books_something_that_was_done_as_well_stands() -> None:
    world = World()
    view = world.recharge("ann", 800, "r1")
    world.drain()
    first = world.chain(view)[0]
    world.rows[Instruction][first.id] = msgspec.structs.replace(first, state="FAILED")
    request = reversal_of(world, view)
    world.run(event(request))
    outcome, detail = outcome_in(world, request)
    assert (outcome, world.balance("ann")) == ("REFUSED", 800)
    assert "also books" in detail
    under_way = msgspec.structs.replace(first, state="PROCESSING")
    world.rows[Instruction][first.id] = under_way
    request = reversal_of(world, view)
    world.run(event(request))
    assert outcome_in(world, request) == ("REFUSED", "the instruction is under way: its result is not known")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-900, 900).filter(bool), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=20),
)
def test_whatever_comes_twice_late_or_in_any_order_each_adjustment_is_made_once(
    amounts: list[int], deliveries: list[tuple[int, bool]]
) -> None:
    world = World()
    requests = [asked(amount_minor=amount_minor) for amount_minor in amounts]
    taken: set[int] = set()
    for number, (which, is_rpc) in enumerate([*deliveries, *((index, True) for index in range(len(amounts)))]):
        request = requests[which % len(requests)]
        taken.add(which % len(requests))
        if is_rpc:
            called = Origin.rpc(
                business_context.mint(SLOT, NOW_MS, caller="recon"), "C", "o", request.repair_id, request
            )
            world.run(TakeCompensation(called, request))
        else:
            world.run(event(request, f"{number % 3}-{request.repair_id}"))
        due_minor = sum(amounts[index] for index in taken)
        assert (world.total(SUSPENSE), world.total(EXTERNAL)) == (due_minor, -due_minor)
    assert len(world.all(Adjustment)) == len(amounts)
    world._check_ledger()


# COMPLETE: the result is taken from the neighbour, by the payment's own command


def awaited(world: World) -> tuple[PaymentView, Instruction, compensation.Compensation, Compensation]:
    """A card payment whose result came to nobody, and the repair that is to take it."""
    view = world.transfer("ann", [card(700)], [("shop", AccountKind.MERCHANT, 700)], "t1")
    world.accept(world.calls.pop())
    world.results.clear()
    (instruction,) = [ins for ins in world.chain(view) if ins.state == "PROCESSING"]
    request = asked("COMPLETE", 700, payment_id=view.payment.id, instruction_id=instruction.id)
    row = world.run(event(request))
    assert (row.state, row.due_at_ms) == ("ACCEPTED", NOW_MS)
    return view, instruction, request, row


def timer() -> Origin:
    """What a due time brings."""
    return Origin.timer(business_context.mint(SLOT, NOW_MS, caller="timer:compensation_due"))


def test_a_result_that_nobody_told_is_taken_and_ends_the_repair_in_one_transaction() -> None:
    world = World()
    view, instruction, request, row = awaited(world)
    outcome = world.verdicts[instruction.id]
    world.run(SettleAsRepair(timer(), row, instruction, outcome, world.terms()))
    detail = f"{instruction.id} is SUCCEEDED, it was PROCESSING"
    assert outcome_in(world, request) == ("DONE", detail)
    assert world.payment(view).state == "SUCCEEDED"
    world.run(SettleAsRepair(timer(), row, instruction, outcome, world.terms()))  # after a crash: found again as due
    assert outcome_in(world, request) == ("DONE", detail)
    world.check()


def test_a_result_that_came_by_itself_leaves_nothing_to_complete() -> None:
    world = World()
    view, instruction, request, row = awaited(world)
    world.fire(world.payment(view))
    world.run(SettleAsRepair(timer(), row, instruction, world.verdicts[instruction.id], world.terms()))
    assert outcome_in(world, request) == ("NOTHING_TO_DO", f"{instruction.id} is SUCCEEDED already")


def test_a_completion_asks_again_with_growing_pauses_and_gives_up_with_a_reason() -> None:
    world = World()
    _, _, request, row = awaited(world)
    pauses = []
    for _ in range(20):
        (row,) = world.all(Compensation)
        if row.state == "ENDED":
            break
        pauses.append(row.due_at_ms - world.now_ms)
        world.now_ms = row.due_at_ms
        world.run(GoOnCompleting(timer(), row))
    assert pauses == [0, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000]
    assert outcome_in(world, request) == ("REFUSED", "no result after 8 questions")


def test_an_answer_that_cannot_be_taken_refuses_the_repair_and_one_that_is_not_needed_does_not() -> None:
    world = World()
    view, instruction, request, row = awaited(world)
    world.run(GoOnCompleting(timer(), row, f"{instruction.id}: AMOUNT_MISMATCH"))
    assert outcome_in(world, request) == ("REFUSED", f"{instruction.id}: AMOUNT_MISMATCH")
    world.fire(world.payment(view))
    request = asked("COMPLETE", 700, payment_id=view.payment.id)
    world.run(GoOnCompleting(timer(), world.run(event(request))))
    assert outcome_in(world, request) == ("NOTHING_TO_DO", f"{view.payment.id} is SUCCEEDED already")
    request = asked("COMPLETE", 700)
    world.run(GoOnCompleting(timer(), world.run(event(request))))
    assert outcome_in(world, request) == ("NOTHING_TO_DO", "there is no such payment")


# As it runs, on both backends


def call(request: compensation.Compensation) -> compensation_service_pb2.CompensateRequest:
    """The request of the RPC."""
    return compensation_service_pb2.CompensateRequest(request_id=request.repair_id, compensation=request)


async def test_events_and_calls_that_come_at_once_make_one_adjustment(
    running: Running, context: business_context.BusinessContext
) -> None:
    service = running.service
    stub = compensation_service_pb2_grpc.CompensationServiceStub(running.service.channels.get("pay_core"))
    request = asked(channel="sandbox_card")
    body = compensation_pb2.CompensationRequestedEvent(compensation=request).SerializeToString()
    messages = []
    for _ in range(3):
        id_ = new_id("msg", SLOT, NOW_MS)
        messages.append(Message(id_, f"live.{compensation.REQUESTED}", to_headers(context, id_), body))
    calls = asyncio.gather(*(stub.Compensate(call(request)) for _ in range(4)))
    assert await service.bus.publish(messages) == [None] * 3
    results = [answer.result for answer in await calls]
    assert {(result.outcome, result.effect_id) for result in results} == {
        (repair_pb2.REPAIR_OUTCOME_DONE, results[0].effect_id)
    }
    await stub.Compensate(call(request))
    found = await stub.GetCompensation(compensation_service_pb2.GetCompensationRequest(repair_id=request.repair_id))
    assert found.result == results[0]
    rows = await service.store.fetch_everywhere(Adjustment, select(Adjustment.__table__), shadow=False)
    assert [row.id for row in rows] == [results[0].effect_id]
    accounts = await service.store.fetch_everywhere(Account, select(Account.__table__), shadow=False)
    assert {account.kind: account.balance_minor for account in accounts} == {"EXTERNAL": -500, "SUSPENSE": 500}
    assert {slot_in(account.id) for account in accounts} == {SLOT}
    with pytest.raises(NotFound):
        await stub.GetCompensation(
            compensation_service_pb2.GetCompensationRequest(repair_id=new_id("rpr", SLOT, NOW_MS))
        )


async def test_only_reconciliation_has_repairs_carried_out(running: Running) -> None:
    api = compensation.CompensationApi(running.service.store, DESK, TakeCompensation, ("recon", "recon.*"))
    minted = business_context.mint(SLOT, NOW_MS, caller="eve@example.org")
    with business_context.use(minted), pytest.raises(PermissionDenied) as refused:
        await api.Compensate(call(asked()), None)
    assert refused.value.reason == "NOT_RECONCILIATION"
    with business_context.use(msgspec.structs.replace(minted, caller="recon.a")):
        answer = await api.Compensate(call(asked()), None)
    assert answer.result.outcome == repair_pb2.REPAIR_OUTCOME_DONE
