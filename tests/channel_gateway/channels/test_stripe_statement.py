"""Stripe's balance transactions as a statement: which lines, of which order, page by page."""

from __future__ import annotations

import datetime
import functools
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.channel_order import ResultStatus
from channel_gateway.channels.base import StatementUnreadable
from channel_gateway.channels.stripe_statement import Transaction, pair
from tests.channel_gateway.channels.bench import Bench, opened
from tests.channel_gateway.channels.rig import Does, Inbox
from tests.channel_gateway.channels.stripe_rig import StripeRig
from tests.channel_gateway.orders import NOW_MS, make_order

DAY = datetime.datetime.fromtimestamp(NOW_MS / 1_000, datetime.UTC).date()
NEXT_MIDNIGHT_S = datetime.datetime.combine(DAY, datetime.time(), datetime.UTC).timestamp() + 86_400


@pytest.fixture
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StripeRig]:
    rig = StripeRig(tmp_path_factory.mktemp("stripe"), Inbox())
    await rig.start()
    yield rig
    await rig.stop()


@pytest.fixture
async def bench(rig: StripeRig) -> AsyncIterator[Bench]:
    async with opened(rig, timeout_s=5, resend_delay_s=0.001) as bench:
        yield bench


async def pieces(bench: Bench, date: datetime.date = DAY) -> list[bytes]:
    return [piece async for piece in bench.live.statement(date)]


async def lines(bench: Bench, date: datetime.date = DAY) -> list[dict[str, Any]]:
    """The lines, oldest first."""
    whole = b"".join(await pieces(bench, date))
    assert whole.endswith(b"\n") or not whole
    return [msgspec.json.decode(line) for line in reversed(whole.splitlines())]


async def test_a_line_is_told_as_stripe_tells_it_with_the_order_it_is_of(bench: Bench, rig: StripeRig) -> None:
    order, result = await bench.charge(Does.SUCCEED)
    [line] = await lines(bench)
    [transaction] = rig.live.book.objects["balance_transactions"].values()
    charge = rig.live.book.objects["charges"][transaction["source"]]
    assert line == transaction | {
        "source": {
            "id": charge["id"],
            "object": "charge",
            "amount": 1_000,
            "currency": "eur",
            "payment_intent": result.provider_reference,
            "metadata": None,
        },
        "metadata": {"channel_order_id": order.id},
    }
    assert (line["amount"], line["fee"], line["net"]) == (1_000, 39, 961)


async def test_each_movement_names_its_own_order(bench: Bench, rig: StripeRig) -> None:
    charge, known = await bench.charge(Does.SUCCEED)
    refund = bench.following(charge, known, "REFUND", 400)
    authorization, reserved = await bench.authorize()
    capture = bench.following(authorization, reserved, "CAPTURE", 600)
    payout = bench.order(kind="PAYOUT", token="ba_1")
    for order in (refund, capture, payout):
        assert (await bench.perform(order)).status is ResultStatus.SUCCEEDED
    rig.live.book.settle_payout(next(iter(rig.live.book.objects["payouts"].values())), "failed", "no_account")
    by_hand = {"amount": 500, "currency": "eur", "payment_method": "pm_card_visa", "metadata": {"note": "by Jenny"}}
    rig.live.book.create_intent(by_hand)
    told = await lines(bench)
    assert [(line["type"], line["amount"], line["metadata"].get("channel_order_id")) for line in told] == [
        ("charge", 1_000, charge.id),
        ("refund", -400, refund.id),
        ("charge", 600, capture.id),
        ("payout", -1_000, payout.id),
        ("payout_failure", 1_000, payout.id),
        ("charge", 500, None),
    ]
    assert "Jenny" not in str(told)


async def test_what_is_of_no_payment_is_a_line_too(bench: Bench, rig: StripeRig) -> None:
    await bench.charge(Does.SUCCEED)
    [transaction] = rig.live.book.objects["balance_transactions"].values()
    sources: list[Any] = [
        None,
        "du_1MtJUT2eZvKYlo2CNaw2HvEv",  # not shown
        {"id": "ipi_1", "object": "issuing.transaction", "amount": -100, "currency": "eur", "metadata": None},
        {"id": "fee_1", "object": "application_fee", "amount": 5, "currency": "eur"},
    ]
    data = [transaction | {"source": source, "exchange_rate": 1.234, "type": "adjustment"} for source in sources]
    rig.server.refusal = 200, {"object": "list", "data": data, "has_more": False}
    told = await lines(bench)
    assert [(line["metadata"], line["exchange_rate"]) for line in told] == [({}, 1.234)] * 4
    ids = [line["source"] and line["source"]["id"] for line in reversed(told)]
    assert ids == [None, "du_1MtJUT2eZvKYlo2CNaw2HvEv", "ipi_1", "fee_1"]


async def test_captures_of_one_authorization_are_told_apart_the_same_way_on_each_day(rig: StripeRig) -> None:
    async with opened(rig, captures_max=5, timeout_s=5) as bench:
        authorization, known = await bench.authorize()
        captures = [bench.following(authorization, known, "CAPTURE", amount) for amount in (100, 200, 200, 300)]
        for number, capture in enumerate(captures):
            rig.server.clock_s = functools.partial(float, NEXT_MIDNIGHT_S - 2 + number)
            assert (await bench.live.capture(capture)).status is ResultStatus.SUCCEEDED
        told = [await lines(bench, DAY), await lines(bench, DAY + datetime.timedelta(days=1))]
        assert told[0] == await lines(bench, DAY)
    names = [[(line["amount"], line["metadata"]["channel_order_id"]) for line in day] for day in told]
    ids = [capture.id for capture in captures]
    assert names == [[(100, ids[0]), (200, ids[1])], [(200, ids[2]), (300, ids[3])]]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_each_transaction_of_a_charge_is_one_capture_of_its_amount_whatever_the_order(
    amounts: list[int], shuffle: random.Random
) -> None:
    taken = {make_order(kind="CAPTURE").id: amount for amount in amounts}
    moved = [transaction(f"txn_{n}", amount, created=n // 2) for n, amount in enumerate(amounts)]
    found = pair(taken, moved)
    assert sorted(found.values()) == sorted(taken)
    assert all(taken[found[one.id]] == one.amount for one in moved)
    shuffle.shuffle(moved)
    assert pair(dict(shuffle.sample(list(taken.items()), len(taken))), moved) == found


def test_a_transaction_that_fits_no_capture_names_none() -> None:
    taken = {make_order().id: 100, make_order().id: 200, make_order().id: 200}
    moved = [transaction("txn_1", 100), transaction("txn_2", 200), transaction("txn_3", 123)]
    assert list(pair(taken, moved)) == ["txn_1"]
    assert pair({}, moved) == {}


def transaction(id_: str, amount: int, created: int = 0) -> Transaction:
    return Transaction(id_, "charge", amount, 0, amount, "eur", created, created, "available")


async def test_a_day_is_read_page_by_page_and_no_line_twice(bench: Bench, rig: StripeRig) -> None:
    for number in range(250):
        rig.live.book.create_intent({"amount": 1_000 + number, "currency": "eur", "payment_method": "pm_card_visa"})
    rig.server.requests.clear()
    assert [piece.count(b"\n") for piece in await pieces(bench)] == [100, 100, 50]
    assert len(rig.server.requests) == 3
    told = await lines(bench)
    assert [line["amount"] for line in told] == [1_000 + number for number in range(250)]
    assert len({line["id"] for line in told}) == 250


async def test_a_day_ends_at_midnight_utc(bench: Bench, rig: StripeRig) -> None:
    made = {}
    for when_s in (NEXT_MIDNIGHT_S - 86_401, NEXT_MIDNIGHT_S - 86_400, NEXT_MIDNIGHT_S - 1, NEXT_MIDNIGHT_S):
        rig.server.clock_s = functools.partial(float, when_s)
        order, _ = await bench.charge(Does.SUCCEED)
        made[order.id] = when_s
    told = [made[line["metadata"]["channel_order_id"]] for line in await lines(bench)]
    assert told == [NEXT_MIDNIGHT_S - 86_400, NEXT_MIDNIGHT_S - 1]
    assert await pieces(bench, DAY + datetime.timedelta(days=9)) == []


@pytest.mark.parametrize(("status", "calls"), [(500, 4), (503, 4), (429, 4), (401, 1), (400, 1), (302, 1)])
async def test_a_page_that_is_refused_is_asked_for_again_only_where_that_may_help(
    bench: Bench, rig: StripeRig, status: int, calls: int
) -> None:
    rig.server.refusal = status, {"error": {"type": "api_error"}}
    with pytest.raises(StatementUnreadable):
        await pieces(bench)
    assert len(rig.server.requests) == calls
    rig.server.refusal = None
    assert await pieces(bench) == []


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"object": "list", "data": {}, "has_more": False},
        {"object": "list", "data": [{"id": "txn_1"}], "has_more": False},
        {"object": "list", "data": [], "has_more": True},
        {"object": "list", "data": [1], "has_more": False},
    ],
)
async def test_a_page_that_is_not_of_its_form_is_no_statement(
    bench: Bench, rig: StripeRig, said: dict[str, Any]
) -> None:
    rig.server.refusal = 200, said
    with pytest.raises(StatementUnreadable):
        await pieces(bench)


async def test_a_list_that_goes_in_a_circle_or_leaves_the_day_ends(bench: Bench, rig: StripeRig) -> None:
    await bench.charge(Does.SUCCEED)
    [transaction] = rig.live.book.objects["balance_transactions"].values()
    transaction = transaction | {"source": None}
    rig.server.refusal = 200, {"object": "list", "data": [transaction], "has_more": True}
    with pytest.raises(StatementUnreadable, match="go on"):
        await pieces(bench)
    yesterday = transaction | {"created": transaction["created"] - 86_400}
    rig.server.refusal = 200, {"object": "list", "data": [yesterday], "has_more": False}
    with pytest.raises(StatementUnreadable, match="another day"):
        await pieces(bench)


async def test_an_authorization_that_cannot_be_read_is_no_line_without_an_order(bench: Bench, rig: StripeRig) -> None:
    authorization, known = await bench.authorize()
    await bench.live.capture(bench.following(authorization, known, "CAPTURE", 600))
    rig.live.book.objects["payment_intents"].clear()
    with pytest.raises(StatementUnreadable):
        await pieces(bench)


async def test_the_shadow_account_has_a_statement_of_its_own(bench: Bench) -> None:
    await bench.charge(Does.SUCCEED)
    assert [piece async for piece in bench.shadow.statement(DAY)] == []
