"""``python -m bench.recon_alone``: what recon costs a purchase, measured alone at a steady rate.

recon runs in this process, on servers of its own; another process publishes the events of purchases by card as the
services do, each a while after the one before. The CPU time of this process counts, so what else the machine does
falls on the figure only as far as it takes caches away.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.message import Message as ProtoMessage

from meshctl.servers import MariaDbServer, NatsServer
from paykit import logging
from paykit.clock import SystemClock
from paykit.context import BusinessContext
from paykit.events.bus import Bus, open_bus
from paykit.events.message import Message, to_headers
from paykit.ids import new_id
from paykit.rpc import loop
from paykit.settings import BusSettings, CommonSettings, ShardSettings
from paykit.store.migrate import migrate
from paykit.store.store import Store
from paymesh.channel.v1 import channel_order_pb2 as channel_pb2
from paymesh.common.v1.money_pb2 import Money
from paymesh.event.v1 import events_pb2
from paymesh.pay.v1 import payment_pb2 as pay_pb2
from paymesh.trade.v1 import trade_pb2
from recon import summary
from recon.app import build
from recon.settings import ReconSettings

_SLICE_S = 0.05
# When each event of a purchase comes, seconds after the first.
_SUBMITTED, _CHARGED, _PAID, _ARRIVED, _TRADED = 0.0, 0.4, 0.7, 1.0, 1.2


def _events(number: int, now_ms: int) -> list[tuple[float, Message]]:
    """All events of one purchase by card whose payee lives on another slot, each with its delay."""
    slot, other, minor = number * 7 % 1024, number * 13 % 1024, 1000 + number % 5000
    context = BusinessContext(biz_id=new_id("biz", slot, now_ms), biz_code="shop/PURCHASE/checkout/app")
    payment_id, attempt_id = new_id("pay", slot, now_ms), new_id("att", slot, now_ms)
    collect_id, disburse_id = new_id("ins", slot, now_ms), new_id("ins", slot, now_ms)
    amount = Money(currency_code="EUR", amount_minor=minor)
    order = channel_pb2.ChannelOrder(
        channel_order_id=new_id("chn", slot, now_ms),
        biz_id=context.biz_id,
        kind=channel_pb2.CHANNEL_ORDER_KIND_CHARGE,
        state=channel_pb2.CHANNEL_ORDER_STATE_SUCCEEDED,
        channel="sandbox_card",
        amount=amount,
        instruction_id=collect_id,
        payment_id=payment_id,
        provider_reference=f"ref-{number}",
    )
    order.finish_time.FromMilliseconds(now_ms + 400)
    succeeded, collect = pay_pb2.INSTRUCTION_STATE_SUCCEEDED, pay_pb2.INSTRUCTION_ACTION_COLLECT
    payment = pay_pb2.Payment(
        payment_id=payment_id,
        biz_id=context.biz_id,
        state=pay_pb2.PAYMENT_STATE_SUCCEEDED,
        amount=amount,
        source_id=attempt_id,
        instructions=[
            pay_pb2.Instruction(
                instruction_id=collect_id, action=collect, tool="channel", state=succeeded, amount=amount
            ),
            pay_pb2.Instruction(
                instruction_id=disburse_id,
                action=pay_pb2.INSTRUCTION_ACTION_DISBURSE,
                tool="balance",
                state=succeeded,
                amount=amount,
            ),
        ],
    )
    payment.finish_time.FromMilliseconds(now_ms + 700)
    submitted = events_pb2.PaymentSubmittedEvent(payment_id=payment_id)
    submitted.instructions.add(instruction_id=collect_id, amount_minor=minor, currency_code="EUR")
    local, sent, received = (
        events_pb2.BOOKING_LEG_LOCAL,
        events_pb2.BOOKING_LEG_SENT,
        events_pb2.BOOKING_LEG_RECEIVED,
    )
    booked = _journal(payment_id, slot, now_ms + 700, minor, {collect_id: local, disburse_id: sent})
    arrived = _journal(payment_id, other, now_ms + 1000, minor, {disburse_id: received})
    attempt = trade_pb2.PayAttempt(
        attempt_id=attempt_id, payment_id=payment_id, state=trade_pb2.ATTEMPT_STATE_EFFECTIVE, amount=amount
    )
    trade = trade_pb2.Trade(
        trade_id=new_id("trd", slot, now_ms), state=trade_pb2.TRADE_STATE_PAID, amount=amount, attempts=[attempt]
    )
    traded = events_pb2.TradeEvent(trade=trade, payment_id=payment_id)
    told: list[tuple[float, str, ProtoMessage]] = [
        (_SUBMITTED, "pay.payment_submitted", submitted),
        (_CHARGED, "channel.order_succeeded", events_pb2.ChannelOrderEvent(channel_order=order)),
        (_PAID, "pay.payment_succeeded", events_pb2.PaymentEvent(payment=payment)),
        (_PAID, "ledger.journal_posted", booked),
        (_ARRIVED, "ledger.journal_posted", arrived),
        (_TRADED, "trade.trade_paid", traded),
    ]
    return [(delay_s, _message(context, slot, now_ms, subject, body)) for delay_s, subject, body in told]


def _journal(
    payment_id: str, slot: int, now_ms: int, minor: int, legs: dict[str, events_pb2.BookingLeg.ValueType]
) -> events_pb2.JournalEvent:
    journal = events_pb2.JournalEvent(
        journal_id=new_id("jnl", slot, now_ms), slot=slot, payment_id=payment_id, currency_code="EUR"
    )
    journal.post_time.FromMilliseconds(now_ms)
    for instruction_id, leg in legs.items():
        journal.instructions.add(instruction_id=instruction_id, amount_minor=minor, leg=leg)
    for sign in (-1, 1):
        journal.entries.add(account_id=new_id("acc", slot, now_ms), amount_minor=sign * minor)
    return journal


def _message(context: BusinessContext, slot: int, now_ms: int, subject: str, body: ProtoMessage) -> Message:
    id_ = new_id("msg", slot, now_ms)
    return Message(id_, f"live.{subject}", to_headers(context, id_), body.SerializeToString())


async def _publish(url: str, rate: int, seconds: float) -> None:
    bus = open_bus(BusSettings(kind="nats", url=url))
    await bus.start()
    clock, waiting = SystemClock(), list[tuple[float, Message]]()
    started_s = last_s = time.monotonic()
    made = 0
    while waiting or last_s - started_s < seconds:
        last_s = time.monotonic()
        while made < rate * min(seconds, last_s - started_s):
            waiting += [(last_s + delay_s, message) for delay_s, message in _events(made, clock.now_ms())]
            made += 1
        ready = [message for due_s, message in waiting if due_s <= last_s]
        waiting = [item for item in waiting if item[0] > last_s]
        for outcome in await bus.publish(ready):
            if outcome is not None:
                raise outcome
        await asyncio.sleep(_SLICE_S)
    await bus.stop()


async def _matched(store: Store) -> int:
    """Pairs of trade and payment that are matched: one a purchase."""
    return (await summary.counts(store, "live")).get(("TRADE_PAY", "MATCHED"), 0)


async def _used_ms(store: Store, url: str, rate: int, seconds: float) -> float:
    """CPU time of this process for each purchase, from the first event until the last is matched."""
    before, cpu_s = await _matched(store), time.process_time()
    command = [sys.executable, "-m", "bench.recon_alone", "--publish", url, "--rate", str(rate)]
    load = await asyncio.create_subprocess_exec(*command, "--seconds", str(seconds))
    assert await load.wait() == 0
    while await _matched(store) - before < int(rate * seconds):  # noqa: ASYNC110  (the service tells nobody)
        await asyncio.sleep(0.5)
    return 1000 * (time.process_time() - cpu_s) / int(rate * seconds)


async def _measure(folder: Path, rate: int, seconds: float) -> None:
    nats, databases = NatsServer(folder / "nats"), [MariaDbServer(folder / f"db{number}") for number in (1, 2)]
    for server in (nats, *databases):
        server.start()
    try:
        shards = {f"s{n}": ShardSettings(live=server.create_database("recon")) for n, server in enumerate(databases)}
        await migrate("recon", shards, 1)
        bus: Bus = open_bus(BusSettings(kind="nats", url=nats.url))
        await bus.start()
        addresses = dict.fromkeys(("trade_core", "pay_core", "channel_gateway"), "127.0.0.1:9")
        settings = ReconSettings(listen="127.0.0.1:0", shards=shards)
        service = build(settings, CommonSettings(addresses=addresses), bus, SystemClock())
        await service.start()
        await _used_ms(service.store, nats.url, rate, min(5.0, seconds))  # warms it
        used_ms = await _used_ms(service.store, nats.url, rate, seconds)
        typer.echo(f"{rate} purchases/s for {seconds:g} s: recon takes {used_ms:.3f} ms of CPU for each")
        await bus.stop()
        await service.stop()
    finally:
        for server in (nats, *databases):
            server.stop()


def main(
    rate: Annotated[int, typer.Option(help="Purchases a second.")] = 300,
    seconds: Annotated[float, typer.Option(help="How long.")] = 15.0,
    publish: Annotated[str, typer.Option(hidden=True, help="The bus to publish to; nothing else is done then.")] = "",
) -> None:
    """Measure and print."""
    logging.configure(is_production=True, level="error")
    if publish:
        loop.run(_publish(publish, rate, seconds))
        return
    with tempfile.TemporaryDirectory(prefix="paymesh-bench-") as folder:
        loop.run(_measure(Path(folder), rate, seconds))


if __name__ == "__main__":
    typer.run(main)
