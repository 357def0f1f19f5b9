"""Repairs beside the real sandbox provider: it is asked again, and what it took astray is given back, once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from channel_gateway.sandbox.client import BookEntry, read_book
from paykit import compensation
from paykit.ids import new_id
from paymesh.channel.v1 import doubt_pb2
from paymesh.common.v1 import money_pb2
from paymesh.recon.v1 import repair_pb2
from tests.channel_gateway.gateway import SLOT, Gateway
from tests.channel_gateway.provider import ADMIN_KEY, CHANNEL, WALLET

DONE, NOTHING_TO_DO, REFUSED = (
    repair_pb2.REPAIR_OUTCOME_DONE,
    repair_pb2.REPAIR_OUTCOME_NOTHING_TO_DO,
    repair_pb2.REPAIR_OUTCOME_REFUSED,
)


def asked(kind: str, **changes: Any) -> compensation.Compensation:
    """A repair as recon asks for it."""
    now_ms = int(time.time() * 1000)
    fields: dict[str, Any] = {
        "repair_id": new_id("rpr", SLOT, now_ms),
        "break_id": new_id("brk", SLOT, now_ms),
        "kind": repair_pb2.RepairKind.Value(f"REPAIR_KIND_{kind}"),
        "service": "channel_gateway",
    }
    return compensation.Compensation(**(fields | changes))


async def stray(gateway: Gateway, token: str = "tok_declined_then_charged", **changes: Any) -> Any:
    """The confirmed doubt of a charge that was declined, and then taken all the same."""
    order = await gateway.submit(gateway.request("CHARGE", token, **changes))
    event = await gateway.event(order.channel_order_id, "live.channel.mismatch_resolved")
    assert (event.doubt.state, event.doubt.type) == (doubt_pb2.DOUBT_STATE_CONFIRMED, doubt_pb2.DOUBT_TYPE_LATE)
    return event.doubt


async def booked_for(gateway: Gateway, order: Any) -> list[BookEntry]:
    """What the provider has for an order, as often as it has it."""
    entries = [entry async for entry in read_book(gateway.process.url, ADMIN_KEY)]
    return [entry for entry in entries if order.channel_order_id in (entry.reference, entry.original_reference)]


async def test_a_charge_that_was_taken_after_all_is_given_back_once(gateway: Gateway) -> None:
    doubt = await stray(gateway)
    request = asked("REFUND", subject_id=doubt.doubt_id)
    result = await gateway.compensate(request)
    assert (result.outcome, result.detail.split(" ", 1)[1]) == (DONE, f"gave 1000 EUR back by {CHANNEL}")
    refund = await gateway.get(result.effect_id)
    assert (refund.instruction_id, refund.payment_id) == (request.repair_id, doubt.payment_id)
    assert refund.original_channel_order_id == doubt.channel_order_id
    again = await asyncio.gather(*(gateway.compensate(request) for _ in range(3)))
    assert again == [result] * 3
    another = await gateway.compensate(asked("REFUND", subject_id=doubt.doubt_id))
    assert (another.outcome, another.detail) == (NOTHING_TO_DO, f"{refund.channel_order_id} gives it back: SUCCEEDED")
    book = await gateway.book()
    moved = [entry for entry in book.values() if doubt.channel_order_id in (entry.reference, entry.original_reference)]
    assert sorted((entry.kind, entry.amount_minor, entry.status) for entry in moved) == [
        ("charge", 1000, "succeeded"),
        ("refund", 1000, "succeeded"),
    ]
    event = next(e for s, e in gateway.events if s.endswith("compensation_done") and e.result == result)
    assert event.result.service == "channel_gateway"


async def test_a_provider_that_refuses_the_refund_leaves_the_repair_refused(gateway: Gateway) -> None:
    doubt = await stray(gateway, "tok_declined_then_charged__refund_declined")
    request = asked("REFUND", subject_id=doubt.doubt_id)
    result = await gateway.compensate(request)
    assert result.outcome == REFUSED
    assert "failed: CARD_DECLINED" in result.detail
    # Another repair may try again: what failed gave nothing back.
    assert (await gateway.compensate(asked("REFUND", subject_id=doubt.doubt_id))).outcome == REFUSED


async def test_a_refund_whose_answer_is_lost_is_asked_after_and_not_sent_twice(gateway: Gateway) -> None:
    doubt = await stray(gateway, "tok_declined_then_charged__refund_timeout_charged")
    result = await gateway.compensate(asked("REFUND", subject_id=doubt.doubt_id))
    assert result.outcome == DONE
    refunds = [e for e in (await gateway.book()).values() if e.original_reference == doubt.channel_order_id]
    assert [entry.status for entry in refunds] == ["succeeded"]


async def test_what_never_happened_leaves_nothing_to_do(gateway: Gateway) -> None:
    now_ms = int(time.time() * 1000)
    nothing = await gateway.compensate(asked("REFUND", subject_id=new_id("dbt", SLOT, now_ms)))
    assert (nothing.outcome, nothing.detail) == (NOTHING_TO_DO, "there is no such stray charge")
    for changes in ({}, {"instruction_id": new_id("ins", SLOT, now_ms)}, {"channel_order_id": "chn_nonsense"}):
        result = await gateway.compensate(asked("QUERY", **changes))
        assert (result.outcome, result.detail) == (NOTHING_TO_DO, "there is no such channel order")
    result = await gateway.compensate(asked("ADJUST"))
    assert (result.outcome, result.detail) == (REFUSED, "channel_gateway does no ADJUST")


async def test_an_order_that_is_open_is_asked_about_now_and_settled_by_the_answer(gateway: Gateway) -> None:
    order = await gateway.submit(gateway.request("CHARGE", "tok_notify_never", channel=WALLET))
    order = await gateway.until(order.channel_order_id, "PENDING")
    result = await gateway.compensate(asked("QUERY", instruction_id=order.instruction_id))
    assert (result.outcome, result.effect_id) == (DONE, order.channel_order_id)
    assert result.detail == f"{order.channel_order_id} is SUCCEEDED, it was PENDING"
    await gateway.event(order.channel_order_id, "live.channel.order_succeeded")


async def test_an_order_that_its_provider_confirms_leaves_nothing_to_do(gateway: Gateway) -> None:
    order = await gateway.submit(gateway.request("CHARGE", "tok_ok"))
    await gateway.until(order.channel_order_id, "SUCCEEDED")
    result = await gateway.compensate(asked("QUERY", channel_order_id=order.channel_order_id))
    assert (result.outcome, result.detail) == (
        NOTHING_TO_DO,
        f"{order.channel_order_id} is SUCCEEDED already; {CHANNEL} says SUCCEEDED",
    )


@pytest.mark.parametrize("token", ["tok_booked_twice", "tok_booked_twice_silent"])
async def test_a_charge_that_was_booked_twice_is_found_and_one_of_them_given_back(gateway: Gateway, token: str) -> None:
    """By its notification, or by the reference that the statement has for it: the provider is asked by that one."""
    order = await gateway.submit(gateway.request("CHARGE", token))
    known = await gateway.until(order.channel_order_id, "SUCCEEDED")
    booked = await booked_for(gateway, order)
    (other,) = {entry.provider_reference for entry in booked} - {known.provider_reference}
    if token.endswith("silent"):
        found = {"channel_order_id": order.channel_order_id, "channel": CHANNEL, "provider_reference": other}
        amount = money_pb2.Money(currency_code="EUR", amount_minor=1_000)
        result = await gateway.compensate(asked("QUERY", amount=amount, **found))
        assert (result.outcome, result.detail) == (
            REFUSED,
            f"{CHANNEL} is asked about {other}, which its statement has for {order.channel_order_id}",
        )
    doubt = (await gateway.event(order.channel_order_id, "live.channel.mismatch_resolved")).doubt
    assert (doubt.state, doubt.type) == (doubt_pb2.DOUBT_STATE_CONFIRMED, doubt_pb2.DOUBT_TYPE_DUPLICATE)
    assert (doubt.provider_reference, doubt.amount.amount_minor) == (other, 1_000)
    assert (await gateway.compensate(asked("REFUND", subject_id=doubt.doubt_id))).outcome == DONE
    moved = [(entry.kind, entry.status) for entry in await booked_for(gateway, order)]
    assert sorted(moved) == [("charge", "succeeded"), ("charge", "succeeded"), ("refund", "succeeded")]
    assert await gateway.get(order.channel_order_id) == known


async def test_a_statement_of_a_channel_that_never_had_the_order_says_nothing_of_it(gateway: Gateway) -> None:
    order = await gateway.submit(gateway.request("CHARGE", "tok_ok"))
    await gateway.until(order.channel_order_id, "SUCCEEDED")
    found = {"channel_order_id": order.channel_order_id, "channel": WALLET, "provider_reference": "sbx_charge_other"}
    result = await gateway.compensate(asked("QUERY", **found))
    assert (result.outcome, result.detail) == (REFUSED, f"{order.channel_order_id} was never on {WALLET}")


async def test_a_question_that_brings_a_new_contradiction_has_repaired_nothing(gateway: Gateway) -> None:
    """The doubt that it opens has a break of its own; the one that it was asked for stays open."""
    order = await gateway.submit(gateway.request("CHARGE", "tok_ok__query_answer_wrong_amount"))
    await gateway.until(order.channel_order_id, "SUCCEEDED")
    result = await gateway.compensate(asked("QUERY", channel_order_id=order.channel_order_id))
    found = await gateway.event(order.channel_order_id, "live.channel.mismatch_found")
    assert (result.outcome, result.detail) == (
        REFUSED,
        f"{CHANNEL} says SUCCEEDED of {order.channel_order_id}, which is SUCCEEDED: {found.doubt_id}",
    )


async def test_an_order_that_its_provider_contradicts_now_is_in_doubt(gateway: Gateway) -> None:
    """The provider takes its word back when its customer has decided; a notification, or a question, finds out."""
    order = await gateway.submit(gateway.request("CHARGE", "tok_charged_then_denied"))
    await gateway.until(order.channel_order_id, "SUCCEEDED")
    event = await gateway.event(order.channel_order_id, "live.channel.mismatch_found")
    result = await gateway.compensate(asked("QUERY", subject_id=event.doubt_id))
    assert result.outcome in (DONE, NOTHING_TO_DO)  # the doubt is asked about at once by itself
    assert f"{event.doubt_id} is CONFIRMED" in result.detail
    late = await gateway.compensate(asked("QUERY", subject_id=event.doubt_id))
    assert (late.outcome, late.detail) == (NOTHING_TO_DO, f"{event.doubt_id} is CONFIRMED already")
    refused = await gateway.compensate(asked("REFUND", subject_id=event.doubt_id))
    assert refused.outcome == REFUSED
    assert "there is nothing to give back" in refused.detail


@pytest.mark.parametrize("kind", ["QUERY", "REFUND"])
async def test_a_gateway_that_stops_in_the_middle_goes_on_with_it_after_its_start(gateway: Gateway, kind: str) -> None:
    doubt = await stray(gateway)
    subject = {"subject_id": doubt.doubt_id} if kind == "REFUND" else {"channel_order_id": doubt.channel_order_id}
    request = asked(kind, **subject)
    task = asyncio.create_task(gateway.compensate(request))
    await asyncio.sleep(0)
    await gateway.stop_service()
    await asyncio.gather(task, return_exceptions=True)
    await gateway.start_service()
    result = await gateway.compensate(request)
    assert result.outcome in ((DONE,) if kind == "REFUND" else (NOTHING_TO_DO,))
    refunds = [e for e in (await gateway.book()).values() if e.original_reference == doubt.channel_order_id]
    assert len(refunds) == (1 if kind == "REFUND" else 0)
