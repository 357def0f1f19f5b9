"""Doubts of channel_gateway as breaks: one while it is asked, and then what is so; whatever event comes first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from paykit.clock import ManualClock
from paykit.events.bus import Rejected
from paykit.events.gathering import Gather
from paykit.store.store import Store
from paymesh.channel.v1 import channel_order_pb2, doubt_pb2
from paymesh.common.v1 import money_pb2
from paymesh.event.v1 import events_pb2
from recon.consumers import MISMATCH_FOUND, MISMATCH_RESOLVED, consumer
from recon.tables import Break
from tests.conftest import MakeShards
from tests.recon.support import NOW_MS, CardPayment, breaks_in, mint, opened, rules

CHARGE, REFUND = channel_order_pb2.CHANNEL_ORDER_KIND_CHARGE, channel_order_pb2.CHANNEL_ORDER_KIND_REFUND
CONFIRMED, DISMISSED = doubt_pb2.DOUBT_STATE_CONFIRMED, doubt_pb2.DOUBT_STATE_DISMISSED
LATE, DUPLICATE = doubt_pb2.DOUBT_TYPE_LATE, doubt_pb2.DOUBT_TYPE_DUPLICATE
DENIED, AMOUNT = doubt_pb2.DOUBT_TYPE_DENIED, doubt_pb2.DOUBT_TYPE_AMOUNT


@pytest.fixture
async def store(make_shards: MakeShards) -> AsyncIterator[Store]:
    async with opened(make_shards(1), ManualClock(NOW_MS)) as store:
        yield store


class Doubtful:
    """A charge of 5.00 EUR, and what is in doubt about it."""

    def __init__(self, kind: channel_order_pb2.ChannelOrderKind.ValueType = CHARGE) -> None:
        self.payment = CardPayment()
        self.order = self.payment.order()
        self.order.kind = kind
        self.doubt_id = mint("dbt")

    @property
    def break_id(self) -> str:
        return "brk" + self.doubt_id[3:]

    def found(self, evidence: str = "SUCCEEDED after FAILED") -> events_pb2.ChannelMismatchEvent:
        return events_pb2.ChannelMismatchEvent(
            channel_order=self.order, evidence=evidence, doubt_id=self.doubt_id, channel="first_card", type=LATE
        )

    def resolved(self, state: Any, type_: Any = LATE, said_minor: int = 500, currency: str = "EUR") -> Any:
        doubt = doubt_pb2.ChannelDoubt(
            doubt_id=self.doubt_id,
            channel_order_id=self.order.channel_order_id,
            channel="first_card",
            state=state,
            type=type_,
            evidence="SUCCEEDED after FAILED",
            provider_reference="ref-9",
            amount=money_pb2.Money(currency_code=currency, amount_minor=said_minor),
        )
        return events_pb2.ChannelDoubtEvent(doubt=doubt, channel_order=self.order)

    async def tell(self, store: Store, event: Any) -> None:
        """Brings an event, as the bus would."""
        subject = MISMATCH_RESOLVED if isinstance(event, events_pb2.ChannelDoubtEvent) else MISMATCH_FOUND
        command = consumer(rules(), Gather(1.0, 100), ManualClock()).to_command(
            self.payment.context, mint("msg"), subject, event.SerializeToString()
        )
        assert command is not None
        await store.run(command)


async def the_break(store: Store, doubtful: Doubtful) -> Break:
    (found,) = [row for row in await breaks_in(store) if row.id == doubtful.break_id]
    return found


async def test_a_doubt_is_one_break_however_often_it_is_told(store: Store) -> None:
    doubtful = Doubtful()
    await doubtful.tell(store, doubtful.found())
    await doubtful.tell(store, doubtful.found("amount 499 instead of 500"))
    (found,) = await breaks_in(store)
    assert (found.id, found.type, found.state) == (doubtful.break_id, "NOTIFICATION_MISMATCH", "OPEN")
    assert (found.subject_id, found.channel, found.amount_minor) == (doubtful.doubt_id, "first_card", 500)
    assert found.evidence == "SUCCEEDED after FAILED\namount 499 instead of 500"


@pytest.mark.parametrize("is_found_first", [True, False])
async def test_a_dismissed_doubt_closes_its_break_with_that_reason_in_either_order(
    store: Store, is_found_first: bool
) -> None:
    doubtful = Doubtful()
    events = [doubtful.found(), doubtful.resolved(DISMISSED)]
    for event in events if is_found_first else reversed(events):
        await doubtful.tell(store, event)
    (found,) = await breaks_in(store)
    assert (found.id, found.state, found.close_reason) == (doubtful.break_id, "CLOSED", "DISMISSED")


@pytest.mark.parametrize(
    ("type_", "said_minor", "currency", "wrong", "risk", "difference_minor"),
    [
        (LATE, 500, "EUR", "LATE", (500, "EUR"), 0),
        (DUPLICATE, 500, "EUR", "DUPLICATE", (500, "EUR"), 0),
        (DENIED, 500, "EUR", "STATUS_MISMATCH", (500, "EUR"), -500),
        (AMOUNT, 480, "EUR", "AMOUNT_MISMATCH", (20, "EUR"), -20),
        (AMOUNT, 530, "EUR", "AMOUNT_MISMATCH", (30, "EUR"), 30),
        (AMOUNT, 500, "EUR", "AMOUNT_MISMATCH", (500, "EUR"), 0),  # for another merchant
        (AMOUNT, 500, "USD", "CURRENCY_MISMATCH", (500, "USD"), 0),
    ],
)
async def test_a_confirmed_doubt_is_superseded_by_what_is_so(
    store: Store, type_: Any, said_minor: int, currency: str, wrong: str, risk: tuple[int, str], difference_minor: int
) -> None:
    doubtful = Doubtful()
    for event in (doubtful.found(), doubtful.resolved(CONFIRMED, type_, said_minor, currency), doubtful.found()):
        await doubtful.tell(store, event)
    closed = await the_break(store, doubtful)
    assert (closed.state, closed.close_reason) == ("CLOSED", "SUPERSEDED")
    (so,) = [row for row in await breaks_in(store) if row.id != doubtful.break_id]
    assert (so.type, so.state, so.subject_id, so.channel) == (wrong, "OPEN", doubtful.doubt_id, "first_card")
    assert ((so.amount_minor, so.currency), so.difference_minor) == (risk, difference_minor)
    assert "ref-9" in so.evidence


async def test_what_is_denied_of_money_that_went_out_is_more_than_the_books_have(store: Store) -> None:
    doubtful = Doubtful(REFUND)
    await doubtful.tell(store, doubtful.resolved(CONFIRMED, DENIED))
    (so,) = [row for row in await breaks_in(store) if row.state == "OPEN"]
    assert (so.type, so.difference_minor) == ("STATUS_MISMATCH", 500)


def test_a_doubt_without_ids_is_a_dead_letter() -> None:
    doubtful = Doubtful()
    doubtful.doubt_id = "dbt_1"
    with pytest.raises(Rejected):
        consumer(rules(), Gather(1.0, 100), ManualClock()).to_command(
            doubtful.payment.context, mint("msg"), MISMATCH_FOUND, doubtful.found().SerializeToString()
        )
