"""Repairs through the real store, on both backends: by rule, by two people, late, twice, and in any order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from paykit.clock import ManualClock
from paykit.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from paykit.settings import ExecutorSettings
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.recon.v1 import recon_service_pb2, repair_pb2
from recon import metrics
from recon.commands import CloseBreak
from recon.matching import BreakType, MatchKind
from recon.repair import Outcome
from recon.repair_commands import AdvanceRepair
from recon.tables import Break, Repair
from tests.conftest import MakeShards
from tests.recon.repair_support import CHECKER, MAKER, Desk, rules_with
from tests.recon.support import mint, opened


@pytest.fixture
async def store(make_shards: MakeShards, clock: ManualClock) -> AsyncIterator[Store]:
    async with opened(make_shards(2), clock) as store:
        yield store


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store, rules_with())


async def close_by_person(desk: Desk, broken: Break, request_id: str = "c1") -> Break:
    request = recon_service_pb2.CloseBreakRequest(request_id=request_id, break_id=broken.id, reason="found")
    origin = Origin.rpc(desk.by(MAKER), "CloseBreak", broken.id, request_id, request)
    return await desk.store.run(CloseBreak(origin, broken.id, "found"))


# By rule


async def test_what_only_asks_goes_out_by_itself_after_a_while(desk: Desk, clock: ManualClock) -> None:
    broken = await desk.opened(BreakType.RESULT_UNKNOWN, 10**9, MatchKind.PAY_CHANNEL)
    (repair,) = await desk.repairs()
    assert (repair.state, repair.kind, repair.is_automatic, repair.proposed_by) == ("PROPOSED", "QUERY", 1, "rule")
    assert await desk.advance(repair) == repair  # not yet: a late match may still close the break
    clock.advance(60_000)
    sent = await desk.advance(repair)
    assert (sent.state, sent.decided_by, sent.sent_at_ms) == ("SENT", "rule", clock.now_ms())
    (event,) = await desk.requested()
    asked = event.compensation
    assert (asked.repair_id, asked.break_id, asked.kind) == (repair.id, broken.id, repair_pb2.REPAIR_KIND_QUERY)
    assert (asked.service, asked.instruction_id) == ("channel_gateway", broken.match_key.split("/")[1])
    assert (asked.payment_id, asked.channel, asked.subject_id) == (
        broken.payment_id,
        broken.channel,
        broken.subject_id,
    )


_KIND_OF = {BreakType.MISSING_HERE: MatchKind.STATEMENT, BreakType.LATE: MatchKind.PAY_CHANNEL}


async def test_what_moves_money_goes_out_by_itself_only_up_to_the_bound_of_its_currency_and_type(store: Store) -> None:
    rules = rules_with(automatic_up_to_minor={"EUR": 500}, automatic_by_type={"LATE": {"EUR": 20}})
    desk = Desk(store, rules)
    for type_, amount_minor, is_automatic in (
        (BreakType.MISSING_HERE, 500, True),
        (BreakType.MISSING_HERE, -500, True),
        (BreakType.MISSING_HERE, 501, False),
        (BreakType.LATE, 20, True),
        (BreakType.LATE, 21, False),
    ):
        broken = await desk.opened(type_, amount_minor, kind=_KIND_OF[type_])
        assert len(await desk.repairs(broken)) == is_automatic, (type_, amount_minor)
    assert {repair.amount_minor for repair in await desk.repairs()} == {500, -500, 20}


async def test_a_late_match_withdraws_what_would_have_gone_out_by_itself(desk: Desk, clock: ManualClock) -> None:
    broken = await desk.opened(BreakType.MISSING_FIRST, kind=MatchKind.PAY_CHANNEL)
    (repair,) = await desk.repairs()
    clock.advance(30_000)
    await desk.match(broken)
    clock.advance(30_000)
    withdrawn = await desk.advance(repair)
    assert (withdrawn.state, withdrawn.detail) == ("WITHDRAWN", "its break was closed: LATE_MATCH")
    assert withdrawn.due_at_ms is None
    assert await desk.requested() == []


# By two people


async def test_one_proposes_another_approves_and_the_service_is_told_once(desk: Desk, clock: ManualClock) -> None:
    broken = await desk.opened(amount_minor=-700)
    assert await desk.repairs() == []  # too much to go out by itself
    proposed = await desk.propose(broken)
    assert (proposed.state, proposed.proposed_by, proposed.amount_minor) == ("PROPOSED", MAKER, -700)
    assert proposed.biz_id == broken.biz_id
    approved = await desk.approve(proposed)
    assert (approved.state, approved.decided_by, approved.decision) == ("APPROVED", CHECKER, "I have seen the letter")
    sent = await desk.advance(approved)
    assert (await desk.advance(sent)).state == "SENT"
    (event,) = await desk.requested()
    asked = event.compensation
    assert (asked.proposed_by, asked.approved_by, asked.amount.amount_minor) == (MAKER, CHECKER, -700)
    await desk.told(sent)
    done = await desk.repair(sent)
    assert (done.state, done.outcome, done.due_at_ms) == ("DONE", "DONE", None)
    closed = await desk.broken(broken)
    assert (closed.state, closed.close_reason, closed.repair_id) == ("CLOSED", f"REPAIRED {done.id}", done.id)


async def test_gauges_show_repairs_under_way_by_how_far_they_are(desk: Desk, clock: ManualClock) -> None:
    waits = await desk.propose(await desk.opened())
    clock.advance(90_000)
    done = await desk.propose(await desk.opened(), request_id="p2")
    await desk.told(await desk.advance(await desk.approve(done)))
    goes_out = await desk.propose(await desk.opened(), request_id="p3")
    await desk.approve(goes_out, request_id="a3")
    clock.advance(10_000)
    await metrics.Gauges(desk.store, 3600).refresh()
    samples = [sample for gauge in metrics.ALL for metric in gauge.collect() for sample in metric.samples]
    shown = {(one.name, one.labels["state"]): one.value for one in samples if one.labels.get("kind") == waits.kind}
    assert shown == {
        ("paymesh_recon_repairs_under_way", "PROPOSED"): 1,
        ("paymesh_recon_repair_age_seconds", "PROPOSED"): 100,
        ("paymesh_recon_repairs_under_way", "APPROVED"): 1,
        ("paymesh_recon_repair_age_seconds", "APPROVED"): 10,
    }


async def test_the_maker_is_no_checker_whatever_the_case_of_the_name(desk: Desk) -> None:
    repair = await desk.propose(await desk.opened())
    for caller in (MAKER, MAKER.upper()):
        with pytest.raises(PermissionDenied) as refused:
            await desk.approve(repair, caller=caller, request_id=caller)
        assert refused.value.reason == "SAME_PERSON"
    assert (await desk.repair(repair)).state == "PROPOSED"
    assert (await desk.approve(repair)).state == "APPROVED"


async def test_a_rejected_proposal_leaves_the_break_open_and_another_may_be_made(desk: Desk) -> None:
    broken = await desk.opened()
    rejected = await desk.reject(await desk.propose(broken))
    assert (rejected.state, rejected.decision, rejected.due_at_ms) == ("REJECTED", "not ours", None)
    assert (await desk.broken(broken)).state == "OPEN"
    with pytest.raises(FailedPrecondition):
        await desk.approve(rejected)
    assert (await desk.propose(broken, request_id="p2")).state == "PROPOSED"


async def test_a_break_has_one_repair_at_a_time(desk: Desk) -> None:
    broken = await desk.opened()
    first = await desk.propose(broken)
    for caller in (MAKER, CHECKER):
        with pytest.raises(FailedPrecondition) as refused:
            await desk.propose(broken, caller=caller, request_id="p2")
        assert (refused.value.reason, refused.value.metadata["repair_id"]) == ("REPAIR_UNDER_WAY", first.id)
    assert await desk.propose(broken) == first  # the same request again
    automatic = await desk.opened(BreakType.RESULT_UNKNOWN)
    with pytest.raises(FailedPrecondition):
        await desk.propose(automatic)
    (by_rule,) = await desk.repairs(automatic)
    with pytest.raises(FailedPrecondition) as refused:
        await desk.approve(by_rule)
    assert refused.value.reason == "AUTOMATIC"
    assert (await desk.reject(by_rule)).state == "REJECTED"  # a person may stop it


async def test_what_cannot_be_repaired_as_it_stands_says_what_it_lacks(desk: Desk) -> None:
    unknown = await desk.opened(difference_minor=0)
    with pytest.raises(FailedPrecondition) as refused:
        await desk.propose(unknown)
    assert refused.value.reason == "NOT_REPAIRABLE"
    assert (await desk.propose(unknown, -250, request_id="p2")).amount_minor == -250
    stray = await desk.opened(BreakType.LATE, kind=MatchKind.PAY_CHANNEL)
    with pytest.raises(InvalidArgument):
        await desk.propose(stray, 250)
    with pytest.raises(FailedPrecondition):
        await desk.propose(await desk.opened(channel=""))
    with pytest.raises(NotFound):
        await desk.propose(_named(unknown, mint("brk")))


def _named(row: Break, id_: str) -> Break:
    return replace(row, id=id_)


async def test_nothing_is_proposed_or_approved_for_a_closed_break(desk: Desk, clock: ManualClock) -> None:
    broken = await desk.opened()
    repair = await desk.propose(broken)
    await desk.match(broken)
    with pytest.raises(FailedPrecondition) as refused:
        await desk.approve(repair)
    assert refused.value.reason == "BREAK_CLOSED"
    clock.advance(60_000)
    assert (await desk.advance(repair)).state == "WITHDRAWN"
    with pytest.raises(FailedPrecondition) as refused:
        await desk.propose(broken, request_id="p2")
    assert refused.value.reason == "BREAK_CLOSED"


async def test_a_proposal_waits_for_a_person_as_long_as_its_break_is_open(desk: Desk, clock: ManualClock) -> None:
    repair = await desk.propose(await desk.opened())
    for _ in range(3):
        clock.advance(60_000)
        repair = await desk.advance(repair)
        assert (repair.state, repair.due_at_ms) == ("PROPOSED", clock.now_ms() + 60_000)
    assert (await desk.approve(repair)).state == "APPROVED"


async def test_a_break_that_closed_after_the_approval_is_not_repaired(desk: Desk) -> None:
    broken = await desk.opened()
    approved = await desk.approve(await desk.propose(broken))
    await desk.match(broken)
    assert (await desk.advance(approved)).state == "WITHDRAWN"
    assert await desk.requested() == []


async def test_closing_a_break_by_hand_withdraws_what_has_not_gone_out_and_waits_for_what_has(desk: Desk) -> None:
    broken = await desk.opened()
    repair = await desk.propose(broken)
    assert (await close_by_person(desk, broken)).close_reason == "found"
    withdrawn = await desk.repair(repair)
    assert (withdrawn.state, withdrawn.detail) == ("WITHDRAWN", "its break was closed: found")
    broken, sent = await desk.sent()
    with pytest.raises(FailedPrecondition) as refused:
        await close_by_person(desk, broken)
    assert (refused.value.reason, refused.value.metadata["state"]) == ("REPAIR_UNDER_WAY", "SENT")
    await desk.told(sent, Outcome.REFUSED)
    assert (await close_by_person(desk, broken, "c2")).state == "CLOSED"


# What the service says


@pytest.mark.parametrize("outcome", [Outcome.NOTHING_TO_DO, Outcome.REFUSED])
async def test_what_changed_nothing_leaves_the_break_open_with_the_reason(desk: Desk, outcome: Outcome) -> None:
    broken, sent = await desk.sent()
    await desk.told(sent, outcome)
    failed = await desk.repair(sent)
    assert (failed.state, failed.outcome, failed.effect_id) == ("FAILED", outcome.value, "")
    still = await desk.broken(broken)
    assert still.state == "OPEN"
    assert f"{sent.id} ADJUST {outcome}: {outcome} it" in still.evidence
    assert (await desk.propose(broken, request_id="p2")).state == "PROPOSED"  # another may be tried


async def test_an_outcome_that_is_told_twice_or_contradicted_later_counts_once(desk: Desk) -> None:
    broken, sent = await desk.sent()
    await desk.told(sent)
    done, closed = await desk.repair(sent), await desk.broken(broken)
    await desk.told(sent)
    await desk.told(sent, message_id="m2")
    await desk.told(sent, Outcome.REFUSED, message_id="m3")
    assert (await desk.repair(sent), await desk.broken(broken)) == (done, closed)


async def test_an_outcome_is_believed_of_the_service_that_carries_it_out_only(desk: Desk) -> None:
    _, sent = await desk.sent()
    with pytest.raises(FailedPrecondition) as refused:
        await desk.told(sent, service="channel_gateway")
    assert refused.value.reason == "WRONG_SERVICE"
    assert (await desk.repair(sent)).state == "SENT"
    with pytest.raises(NotFound):
        await desk.told(_other(sent))


def _other(row: Repair) -> Repair:
    return replace(row, id=mint("rpr"))


async def test_nobody_answers_so_the_service_is_asked_with_growing_pauses(desk: Desk, clock: ManualClock) -> None:
    _, repair = await desk.sent()
    pauses = []
    for _ in range(8):
        assert repair.due_at_ms is not None
        pauses.append(repair.due_at_ms - clock.now_ms())
        clock.advance(pauses[-1])
        repair = await desk.advance(repair)
    assert pauses == [15_000, 30_000, 60_000, 120_000, 240_000, 480_000, 600_000, 600_000]
    assert repair.state == "SENT"


async def test_an_adjustment_that_came_after_a_late_match_opens_a_break_the_other_way_round(desk: Desk) -> None:
    broken, sent = await desk.sent(amount_minor=-700)
    await desk.match(broken)
    await desk.told(sent)
    assert (await desk.repair(sent)).state == "DONE"  # what was done is on record
    first = await desk.broken(broken)
    assert (first.close_reason, first.repair_id) == ("LATE_MATCH", "")
    (again,) = [row for row in await breaks(desk) if row.id != broken.id]
    assert (again.state, again.type, again.difference_minor) == ("OPEN", "UNEXPLAINED", 700)
    assert (again.amount_minor, again.currency, again.channel) == (700, "EUR", broken.channel)
    assert sent.id in again.evidence
    undo = await desk.propose(again, request_id="p9")
    assert (undo.kind, undo.amount_minor) == ("ADJUST", 700)


async def test_a_refund_or_a_question_that_came_after_a_late_match_is_recorded_and_no_more(
    desk: Desk, clock: ManualClock
) -> None:
    stray = await desk.opened(BreakType.LATE, kind=MatchKind.PAY_CHANNEL)
    refund = await desk.advance(await desk.approve(await desk.propose(stray)))
    silent = await desk.opened(BreakType.RESULT_UNKNOWN, kind=MatchKind.PAY_CHANNEL)
    clock.advance(60_000)
    (question,) = await desk.repairs(silent)
    question = await desk.advance(question)
    for broken, sent in ((stray, refund), (silent, question)):
        assert sent.state == "SENT"
        await desk.match(broken)
        await desk.told(sent, message_id=sent.id)
        assert (await desk.repair(sent)).state == "DONE"
    assert len(await breaks(desk)) == 2


async def breaks(desk: Desk) -> list[Break]:
    """All breaks."""
    return await desk.store.fetch_everywhere(Break, select(Break.__table__), shadow=desk.shadow)


# Two processes at once


async def test_two_processes_that_fire_decide_and_listen_at_once_do_each_thing_once(
    make_shards: MakeShards, clock: ManualClock
) -> None:
    shards = make_shards(1)
    async with opened(shards, clock) as first:
        second = Store("recon", shards, 1, clock, ExecutorSettings())
        await second.start()
        one, other = Desk(first, rules_with()), Desk(second, rules_with())
        other.context = one.context
        broken = await one.opened()
        proposed = await asyncio.gather(
            *(
                desk.propose(broken, caller=f"{n}@example.org", request_id=f"p{n}")
                for n, desk in enumerate((one, other))
            ),
            return_exceptions=True,
        )
        (repair,) = [row for row in proposed if isinstance(row, Repair)]
        assert [getattr(error, "reason", "") for error in proposed if not isinstance(error, Repair)] == [
            "REPAIR_UNDER_WAY"
        ]
        approved = await asyncio.gather(
            *(desk.approve(repair, request_id=f"a{n}") for n, desk in enumerate((one, other))), return_exceptions=True
        )
        assert len([row for row in approved if isinstance(row, Repair)]) == 1
        await asyncio.gather(*(desk.advance(repair) for desk in (one, other) * 4))
        assert len(await one.requested()) == 1
        await asyncio.gather(
            *(desk.told(repair, message_id=f"m{n}") for n, desk in enumerate((one, other) * 3)),
            *(desk.store.run(AdvanceRepair(Origin.timer(one.context), repair.id, one.rules)) for desk in (one, other)),
        )
        assert (await one.repair(repair)).state == "DONE"
        closed = await one.broken(broken)
        assert (closed.close_reason, closed.version) == (f"REPAIRED {repair.id}", 2)
        assert len(await breaks(one)) == 1
        await second.stop()


async def test_repairs_of_shadow_breaks_stay_in_shadow(store: Store, clock: ManualClock) -> None:
    desk = Desk(store, rules_with(), shadow=True)
    await desk.opened(BreakType.RESULT_UNKNOWN, kind=MatchKind.PAY_CHANNEL)
    clock.advance(60_000)
    (repair,) = await desk.repairs()
    assert (await desk.advance(repair)).state == "SENT"
    assert len(await desk.requested()) == 1
    live = Desk(store, rules_with())
    assert (await live.repairs(), await live.requested()) == ([], [])
