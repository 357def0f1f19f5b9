"""What a channel says when it is asked, and what its statement says of the same: one repair for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from paykit.clock import ManualClock
from paykit.errors import FailedPrecondition
from paykit.settings import ExecutorSettings
from paykit.store.store import Store
from recon.matching import BreakType, MatchKind
from recon.repair import Outcome, remedy_of
from recon.siblings import is_same_difference, moves_money
from recon.tables import Break
from tests.conftest import MakeShards
from tests.recon.repair_support import Desk, rules_with
from tests.recon.support import mint, opened

T, ASKED, STATED = BreakType, MatchKind.PAY_CHANNEL, MatchKind.STATEMENT
CHARGED = 500


@pytest.fixture
async def store(make_shards: MakeShards, clock: ManualClock) -> AsyncIterator[Store]:
    async with opened(make_shards(2), clock) as store:
        yield store


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store, rules_with())


async def both(desk: Desk, stated: BreakType = T.STATUS_MISMATCH, asked: BreakType = T.LATE) -> tuple[Break, Break]:
    """The break of a statement, and that of a doubt, about one channel order."""
    order_id = mint("chn")
    by_statement = await desk.opened(stated, CHARGED, STATED, channel_order_id=order_id)
    by_doubt = await desk.opened(asked, CHARGED, ASKED, channel_order_id=order_id)
    return by_statement, by_doubt


@pytest.mark.parametrize(
    ("asked", "stated", "is_one"),
    [
        (T.LATE, T.STATUS_MISMATCH, True),
        (T.DUPLICATE, T.DUPLICATE, True),
        (T.STATUS_MISMATCH, T.STATUS_MISMATCH, True),
        (T.STATUS_MISMATCH, T.MISSING_THERE, True),
        (T.AMOUNT_MISMATCH, T.AMOUNT_MISMATCH, True),
        (T.CURRENCY_MISMATCH, T.CURRENCY_MISMATCH, True),
        (T.LATE, T.MISSING_THERE, False),
        (T.STATUS_MISMATCH, T.DUPLICATE, False),
        (T.NOTIFICATION_MISMATCH, T.STATUS_MISMATCH, False),
        (T.RESULT_UNKNOWN, T.MISSING_HERE, False),
    ],
)
async def test_each_type_of_one_has_the_types_of_the_other_that_show_the_same(
    desk: Desk, asked: BreakType, stated: BreakType, is_one: bool
) -> None:
    one, other = await both(desk, stated, asked)
    assert is_same_difference(one, other) is is_same_difference(other, one) is is_one
    for changes in ({"channel_order_id": mint("chn")}, {"channel": "other"}, {"amount_minor": 1}, {"currency": "USD"}):
        assert not is_same_difference(msgspec.structs.replace(one, **changes), other)
    assert not is_same_difference(other, other)


async def test_the_repair_of_one_closes_the_other(desk: Desk) -> None:
    by_statement, by_doubt = await both(desk)
    repair = await desk.advance(await desk.approve(await desk.propose(by_doubt)))
    assert (repair.kind, repair.state) == ("REFUND", "SENT")
    await desk.told(repair)
    for broken in (by_statement, by_doubt):
        closed = await desk.broken(broken)
        assert (closed.state, closed.close_reason, closed.repair_id) == (
            "CLOSED",
            f"REPAIRED {repair.id}",
            repair.id,
        )


async def test_what_is_shown_after_it_was_made_good_is_closed_at_once(desk: Desk) -> None:
    by_statement = await desk.opened(T.STATUS_MISMATCH, CHARGED, STATED)
    repair = await desk.advance(await desk.approve(await desk.propose(by_statement)))
    assert repair.kind == "ADJUST"
    await desk.told(repair)
    late = await desk.opened(T.LATE, CHARGED, ASKED, channel_order_id=by_statement.channel_order_id)
    assert (late.state, late.repair_id) == ("CLOSED", repair.id)
    assert await desk.repairs(late) == []
    # Another one of the same order is not: the repair stood for one.
    again = await desk.opened(T.LATE, CHARGED, ASKED, channel_order_id=by_statement.channel_order_id)
    assert (again.state, again.repair_id) == ("OPEN", "")


async def test_what_was_only_asked_makes_nothing_good(desk: Desk, clock: ManualClock) -> None:
    missing, denied = await both(desk, T.MISSING_THERE, T.STATUS_MISMATCH)
    assert not moves_money(remedy_of(missing.type, missing.kind).kind)
    (repair,) = await desk.repairs(missing)
    clock.advance(60_000)
    await desk.told(await desk.advance(repair))
    assert (await desk.broken(missing)).state == "CLOSED"
    assert (await desk.broken(denied)).state == "OPEN"
    later = await desk.opened(T.STATUS_MISMATCH, CHARGED, ASKED, channel_order_id=missing.channel_order_id)
    assert later.state == "OPEN"


async def test_while_one_is_being_repaired_the_other_waits_and_goes_on_where_nothing_came_of_it(
    desk: Desk, clock: ManualClock
) -> None:
    by_statement, by_doubt = await both(desk)
    waiting = await desk.approve(await desk.propose(by_statement, request_id="p1"), request_id="a1")
    sent = await desk.advance(await desk.approve(await desk.propose(by_doubt, request_id="p2"), request_id="a2"))
    assert sent.state == "SENT"
    held = await desk.advance(waiting)
    assert (held.state, held.due_at_ms) == ("APPROVED", clock.now_ms() + desk.rules.repairs.look_ms)
    other = await desk.opened(T.STATUS_MISMATCH, CHARGED, STATED, channel_order_id=by_doubt.channel_order_id)
    with pytest.raises(FailedPrecondition) as refused:
        await desk.propose(other, request_id="p3")
    assert refused.value.reason == "REPAIR_UNDER_WAY"
    await desk.told(sent, Outcome.REFUSED)
    clock.advance(desk.rules.repairs.look_ms)
    assert (await desk.advance(held)).state == "SENT"


async def test_what_waited_is_withdrawn_where_the_other_was_enough(desk: Desk, clock: ManualClock) -> None:
    by_statement, by_doubt = await both(desk)
    waiting = await desk.approve(await desk.propose(by_statement, request_id="p1"), request_id="a1")
    sent = await desk.advance(await desk.approve(await desk.propose(by_doubt, request_id="p2"), request_id="a2"))
    await desk.told(sent)
    assert (await desk.advance(waiting)).state == "WITHDRAWN"
    assert len(await desk.requested()) == 1


async def test_two_processes_send_one_of_two_repairs_of_the_same(make_shards: MakeShards, clock: ManualClock) -> None:
    shards = make_shards(1)
    async with opened(shards, clock) as first:
        second = Store("recon", shards, 1, clock, ExecutorSettings())
        await second.start()
        one, other = Desk(first, rules_with()), Desk(second, rules_with())
        for number in range(10):
            by_statement, by_doubt = await both(one)
            approved = [
                await one.approve(
                    await one.propose(broken, request_id=f"p{number}{broken.id}"), request_id=f"a{number}{broken.id}"
                )
                for broken in (by_statement, by_doubt)
            ]
            sent = await asyncio.gather(one.advance(approved[0]), other.advance(approved[1]))
            assert sorted(repair.state for repair in sent) == ["APPROVED", "SENT"]
        await second.stop()
