"""recon as it runs: events over a bus, questions over gRPC, and its own API, in one process without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message as ProtoMessage

from paykit.clock import SystemClock
from paykit.errors import InvalidArgument, NotFound
from paykit.events.bus import Bus, open_bus
from paykit.events.message import Delivery, Message, Subscription, to_headers
from paykit.rpc.channels import Channels
from paykit.service import Service
from paykit.settings import BusSettings, CommonSettings, ShardSettings, TimerSettings
from paykit.store.command import Command
from paymesh.channel.v1 import channel_order_pb2
from paymesh.event.v1 import events_pb2
from paymesh.ops.v1 import ops_service_pb2, ops_service_pb2_grpc
from paymesh.recon.v1 import break_pb2, recon_service_pb2, recon_service_pb2_grpc
from recon import metrics
from recon.app import build
from recon.settings import AskSettings, ReconSettings
from tests.recon.neighbours import Neighbours, serving
from tests.recon.support import CardPayment, mint
from tests.schema import make_schema

_SWEEPS = ("BeginSweeps", "ClaimSweep", "AdvanceSweep")  # go on beside everything


class Recon:
    """A running recon, the bus it listens to and stubs to its API."""

    def __init__(self, service: Service, bus: Bus, channels: Channels) -> None:
        self.service = service
        self.api = recon_service_pb2_grpc.ReconServiceStub(channels.get("recon"))
        self.ops = ops_service_pb2_grpc.OpsServiceStub(channels.get("recon"))
        self.announced: asyncio.Queue[tuple[str, break_pb2.Break]] = asyncio.Queue()
        self.ran: asyncio.Queue[str] = asyncio.Queue()
        self._bus = bus
        self._submit = service.store.submit
        service.store.submit = self._noting  # type: ignore[method-assign]

    def _noting(self, command: Command[Any]) -> asyncio.Future[Any]:
        def note(ended: asyncio.Future[Any]) -> None:
            if command.name not in _SWEEPS and not ended.cancelled() and ended.exception() is None:
                self.ran.put_nowait(command.name)

        under_way = self._submit(command)
        under_way.add_done_callback(note)
        return under_way

    async def next_ran(self) -> str:
        """The next command that was committed."""
        return await asyncio.wait_for(self.ran.get(), 20)

    async def listen(self) -> None:
        """Takes recon's own events into ``announced``."""

        async def take(delivery: Delivery) -> None:
            event = events_pb2.BreakEvent.FromString(delivery.message.body)
            await self.announced.put((delivery.message.subject, getattr(event, "break")))

        await self._bus.subscribe(Subscription(consumer="test", mode="live", subjects=("recon.*",)), take)

    async def tell(self, payment: CardPayment, subject: str, body: ProtoMessage, message_id: str = "") -> None:
        """Publishes an event of another service."""
        id_ = message_id or mint("msg")
        headers = to_headers(payment.context, id_)
        message = Message(id_, f"{payment.context.mode}.{subject}", headers, body.SerializeToString())
        assert await self._bus.publish([message]) == [None]

    async def next_announced(self) -> tuple[str, break_pb2.Break]:
        """recon's next own event."""
        return await asyncio.wait_for(self.announced.get(), 20)


@pytest.fixture
async def world() -> Neighbours:
    return Neighbours()


@pytest.fixture
def window_s() -> float:
    """Long enough that no window passes; a test that wants one to pass says so."""
    return 600.0


@pytest.fixture
def gather_s() -> float:
    """Short: most tests tell of less than a whole payment."""
    return 0.02


@pytest.fixture
async def recon(tmp_path: Path, world: Neighbours, window_s: float, gather_s: float) -> AsyncIterator[Recon]:
    shards = {name: ShardSettings(live=f"sqlite+aiosqlite:///{tmp_path}/{name}.db") for name in ("s0", "s1")}
    settings = ReconSettings(
        listen="127.0.0.1:0",
        shards=shards,
        window_s=window_s,
        gather_s=gather_s,
        gather_pause_s=0.01,
        ask=AskSettings(delay_s=0.1),
        timers=TimerSettings(interval_s=0.05),
    )
    await make_schema("recon", shards)
    bus = open_bus(BusSettings(path=tmp_path / "bus"))
    await bus.start()
    async with serving(world) as neighbours:
        addresses = {name: neighbours.address(name) for name in ("trade_core", "pay_core", "channel_gateway")}
        service = build(settings, CommonSettings(addresses=addresses), bus, SystemClock())
        await service.start()
        channels = Channels({"recon": f"127.0.0.1:{service.port}"})
        running = Recon(service, bus, channels)
        await running.listen()
        try:
            yield running
        finally:
            await channels.close(1.0)
            await bus.stop()
            await service.stop()


async def summary(recon: Recon) -> dict[str, tuple[int, int, int]]:
    answer = await recon.api.GetReconSummary(recon_service_pb2.GetReconSummaryRequest())
    return {
        break_pb2.MatchKind.Name(count.kind): (count.matched_count, count.waiting_count, count.broken_count)
        for count in answer.counts
    }


async def tell_all(recon: Recon, payment: CardPayment) -> None:
    """Every event of a payment that goes well."""
    order = events_pb2.ChannelOrderEvent(channel_order=payment.order())
    trade = events_pb2.TradeEvent(trade=payment.trade(), payment_id=payment.payment_id)
    await recon.tell(payment, "channel.order_succeeded", order)
    await recon.tell(payment, "ledger.journal_posted", payment.journal())
    await recon.tell(payment, "pay.payment_succeeded", events_pb2.PaymentEvent(payment=payment.payment()))
    await recon.tell(payment, "trade.trade_paid", trade)


@pytest.mark.parametrize("gather_s", [600.0])
async def test_the_events_of_a_payment_are_matched_and_written_together(recon: Recon) -> None:
    for _ in range(3):
        await tell_all(recon, CardPayment())
    assert [await recon.next_ran() for _ in range(3)] == ["TakeFacts"] * 3
    assert await summary(recon) == {
        "MATCH_KIND_TRADE_PAY": (3, 0, 0),
        "MATCH_KIND_PAY_CHANNEL": (3, 0, 0),
        "MATCH_KIND_PAY_LEDGER": (6, 0, 0),
    }


@pytest.mark.parametrize("window_s", [0.1])
async def test_a_window_that_passes_asks_opens_a_break_and_the_late_partner_closes_it(recon: Recon) -> None:
    payment = CardPayment(500)
    order = events_pb2.ChannelOrderEvent(channel_order=payment.order())
    await recon.tell(payment, "channel.order_succeeded", order)
    subject, announced = await recon.next_announced()
    assert subject == "live.recon.break_opened"
    assert (announced.type, announced.state) == (break_pb2.BREAK_TYPE_MISSING_FIRST, break_pb2.BREAK_STATE_OPEN)
    assert (announced.match_kind, announced.match_key) == (break_pb2.MATCH_KIND_PAY_CHANNEL, payment.collect_id)
    assert (announced.amount_at_risk.amount_minor, announced.amount_at_risk.currency_code) == (500, "EUR")
    await recon.tell(payment, "pay.payment_succeeded", events_pb2.PaymentEvent(payment=payment.payment()))
    subject, closed = await recon.next_announced()
    assert (subject, closed.break_id) == ("live.recon.break_closed", announced.break_id)
    assert closed.close_reason == "LATE_MATCH"


async def test_a_contradiction_breaks_at_once_and_a_person_closes_it(recon: Recon) -> None:
    payment = CardPayment(500)
    event = events_pb2.ChannelMismatchEvent(
        channel_order=payment.order(channel_order_pb2.CHANNEL_ORDER_STATE_FAILED), evidence="says 700"
    )
    await recon.tell(payment, "channel.mismatch_found", event)
    _, opened = await recon.next_announced()
    assert (opened.type, opened.evidence) == (break_pb2.BREAK_TYPE_NOTIFICATION_MISMATCH, "says 700")
    request = recon_service_pb2.CloseBreakRequest(request_id="r1", break_id=opened.break_id, reason="a typing error")
    answer = await recon.api.CloseBreak(request)
    closed = getattr(answer, "break")
    assert (closed.state, closed.close_reason) == (break_pb2.BREAK_STATE_CLOSED, "a typing error")
    found = await recon.api.GetBreak(recon_service_pb2.GetBreakRequest(break_id=opened.break_id))
    assert getattr(found, "break") == closed
    timeline = await recon.ops.GetTimeline(ops_service_pb2.GetTimelineRequest(id=opened.break_id))
    assert timeline.biz_id == payment.context.biz_id
    assert "TakeMismatch" in {entry.command for entry in timeline.entries}


async def test_breaks_are_listed_newest_first_over_all_shards_page_by_page(recon: Recon) -> None:
    opened, biz_ids = [], []
    for slot in (7, 1000, 7, 1000, 7):
        payment = CardPayment(500, slot=slot)
        biz_ids.append(payment.context.biz_id)
        event = events_pb2.ChannelMismatchEvent(channel_order=payment.order(), evidence="x")
        await recon.tell(payment, "channel.mismatch_found", event)
        _, announced = await recon.next_announced()
        opened.append(announced.break_id)
    listed: list[str] = []
    token = ""
    sizes = []
    while True:
        request = recon_service_pb2.ListBreaksRequest(state=break_pb2.BREAK_STATE_OPEN, page_size=2, page_token=token)
        page = await recon.api.ListBreaks(request)
        listed += [item.break_id for item in page.breaks]
        sizes.append(len(page.breaks))
        token = page.next_page_token
        if not token:
            break
    assert listed == sorted(opened, reverse=True)
    assert sizes == [2, 2, 1]
    closed = await recon.api.ListBreaks(recon_service_pb2.ListBreaksRequest(state=break_pb2.BREAK_STATE_CLOSED))
    assert list(closed.breaks) == []
    of_one = await recon.api.ListBreaks(recon_service_pb2.ListBreaksRequest(biz_id=biz_ids[1]))
    assert [item.break_id for item in of_one.breaks] == [opened[1]]


async def test_bad_requests_are_refused_by_field(recon: Recon) -> None:
    api, requests = recon.api, recon_service_pb2
    with pytest.raises(InvalidArgument) as refused:
        await api.CloseBreak(requests.CloseBreakRequest(break_id="pay_x", reason="a\x00b"))
    assert {violation.field for violation in refused.value.violations} == {"request_id", "break_id", "reason"}
    with pytest.raises(InvalidArgument):
        await api.CloseBreak(requests.CloseBreakRequest(request_id="r", break_id=mint("brk"), reason=""))
    with pytest.raises(InvalidArgument):
        await api.ListBreaks(requests.ListBreaksRequest(page_size=201))
    with pytest.raises(InvalidArgument):
        await api.ListBreaks(requests.ListBreaksRequest(page_token="nonsense"))
    with pytest.raises(InvalidArgument):
        await api.ListBreaks(requests.ListBreaksRequest(biz_id=mint("pay")))
    with pytest.raises(InvalidArgument):
        await api.GetBreak(requests.GetBreakRequest(break_id=mint("pay")))
    with pytest.raises(NotFound):
        await api.GetBreak(requests.GetBreakRequest(break_id=mint("brk")))
    with pytest.raises(NotFound):
        await api.CloseBreak(requests.CloseBreakRequest(request_id="r", break_id=mint("brk"), reason="none"))


async def test_an_event_that_names_no_ids_is_a_dead_letter_with_a_ticket(recon: Recon) -> None:
    payment = CardPayment()
    payment.payment_id = "nonsense"
    await recon.tell(payment, "pay.payment_succeeded", events_pb2.PaymentEvent(payment=payment.payment()))
    assert await recon.next_ran() == "OpenDeadLetter"
    tickets = await recon.ops.ListDeadLetters(ops_service_pb2.ListDeadLettersRequest())
    assert [ticket.destination for ticket in tickets.dead_letters] == ["pay.payment_succeeded"]


async def test_gauges_show_the_money_at_risk(recon: Recon) -> None:
    payment = CardPayment(500)
    event = events_pb2.ChannelMismatchEvent(channel_order=payment.order(), evidence="x")
    await recon.tell(payment, "channel.mismatch_found", event)
    await recon.next_announced()
    await metrics.Gauges(recon.service.store, 3600).refresh()
    shown = {
        (sample.name, sample.labels.get("type", "")): sample.value
        for gauge in metrics.ALL
        for metric in gauge.collect()
        for sample in metric.samples
    }
    assert shown["paymesh_recon_at_risk_minor", "NOTIFICATION_MISMATCH"] == 500
    assert shown["paymesh_recon_open_breaks", "NOTIFICATION_MISMATCH"] == 1
