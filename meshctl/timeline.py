"""One order's history over all services: what each did, merged by business id, with what each record is about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from meshctl.settings import SERVICES
from pay_core.payment import BALANCE
from paykit import context as business_context
from paykit.errors import MeshError
from paykit.ids import is_id
from paykit.money import format_minor
from paykit.ops import merged
from paykit.rpc.channels import Channels
from paymesh.channel.v1 import (
    channel_order_pb2,
    channel_service_pb2,
    channel_service_pb2_grpc,
    doubt_pb2,
    doubt_service_pb2,
    doubt_service_pb2_grpc,
)
from paymesh.common.v1 import money_pb2
from paymesh.ops.v1 import ops_service_pb2, ops_service_pb2_grpc
from paymesh.pay.v1 import pay_service_pb2, pay_service_pb2_grpc, payment_pb2
from paymesh.recon.v1 import break_pb2, recon_service_pb2, recon_service_pb2_grpc
from paymesh.trade.v1 import trade_pb2, trade_service_pb2, trade_service_pb2_grpc

ASK_TIMEOUT_S = 5.0

# Which service comes first where two did something in the same millisecond: the order in which they call each other.
_CALL_ORDER = ("trade_core", "pay_core", "channel_gateway", "recon")
assert set(_CALL_ORDER) == set(SERVICES)

_TRADE_TYPE: Any = trade_pb2.TradeType  # the stubs show the classes, not the wrappers that have Name
_OPERATION: Any = payment_pb2.Operation
_ACTION: Any = payment_pb2.InstructionAction
_MODE: Any = payment_pb2.SettlementMode
_HELD_FIRST = (payment_pb2.SETTLEMENT_MODE_AUTHORIZE, payment_pb2.SETTLEMENT_MODE_ESCROW)
_ORDER_KIND: Any = channel_order_pb2.ChannelOrderKind
_DOUBT_TYPE: Any = doubt_pb2.DoubtType
_BREAK_TYPE: Any = break_pb2.BreakType


class Step(NamedTuple):
    """One change of a record. ``state`` is empty where only the note says what changed."""

    time_ms: int
    state: str
    note: str
    command: str


class Record(msgspec.Struct):
    """One record and how it came to be what it is, oldest step first."""

    id: str
    entity: str
    service: str
    parent_id: str
    steps: list[Step]


class Timeline(msgspec.Struct):
    """All that was found. ``about`` says for people what a record is; ``unreachable`` why a service did not answer."""

    biz_ids: list[str]
    entries: list[ops_service_pb2.TimelineEntry]
    about: dict[str, str]
    unreachable: dict[str, str]

    def records(self) -> list[Record]:
        """What the entries changed, in the order in which it first appears."""
        found: dict[str, Record] = {}
        for entry in self.entries:
            for change in entry.changes:
                record = found.get(change.id)
                if record is None:
                    record = found[change.id] = Record(change.id, change.entity, entry.service, change.parent_id, [])
                record.parent_id = record.parent_id or change.parent_id
                state = change.to_state if change.to_state != change.from_state else ""
                record.steps.append(Step(entry.time.ToMilliseconds(), state, change.note, entry.command))
        return list(found.values())


async def gather(channels: Channels, id_: str, *, shadow: bool = False) -> Timeline:
    """Asks every service, first for the business id that ``id_`` belongs to, then for all it did under that."""
    unreachable: dict[str, str] = {}
    answers = await asyncio.gather(*(_ask(channels, name, id_, shadow, unreachable) for name in _CALL_ORDER))
    biz_ids = list(dict.fromkeys(answer.biz_id for answer in answers if answer.biz_id))
    parts = []
    for biz_id in biz_ids:
        for name, answer in zip(_CALL_ORDER, answers, strict=True):
            if name not in unreachable:
                same = answer.biz_id == biz_id
                whole = answer if same else await _ask(channels, name, biz_id, shadow, unreachable)
                parts.append(whole.entries)
    timeline = Timeline(biz_ids, merged(parts), {}, unreachable)
    await _describe(channels, timeline, shadow)
    return timeline


async def _ask(
    channels: Channels, service: str, id_: str, shadow: bool, unreachable: dict[str, str]
) -> ops_service_pb2.GetTimelineResponse:
    stub = ops_service_pb2_grpc.OpsServiceStub(channels.get(service))
    request = ops_service_pb2.GetTimelineRequest(id=id_, shadow=shadow)
    try:
        return await stub.GetTimeline(request, timeout=ASK_TIMEOUT_S)
    except MeshError as error:
        unreachable[service] = f"{error.code}: {error.message}"
        return ops_service_pb2.GetTimelineResponse()


async def _describe(channels: Channels, timeline: Timeline, shadow: bool) -> None:
    """Fills ``about``. A record whose service does not answer now stays without."""
    context = business_context.mint(0, time.time_ns() // 1_000_000, shadow=shadow)
    ids = dict.fromkeys(change.id for entry in timeline.entries for change in entry.changes)
    with business_context.use(context):
        found = await asyncio.gather(*(_about(channels, id_) for id_ in ids))
    for part in found:
        timeline.about.update(part)


async def _about(channels: Channels, id_: str) -> dict[str, str]:
    reader = _READERS.get(id_[:3]) if is_id(id_) else None
    if reader is None:
        return {}
    try:
        return await reader(channels, id_)
    except MeshError:
        return {}


async def _trade(channels: Channels, id_: str) -> dict[str, str]:
    stub = trade_service_pb2_grpc.TradeServiceStub(channels.get("trade_core"))
    trade = (await stub.GetTrade(trade_service_pb2.GetTradeRequest(trade_id=id_), timeout=ASK_TIMEOUT_S)).trade
    kind = _TRADE_TYPE.Name(trade.trade_type).removeprefix("TRADE_TYPE_")
    parties = f"{trade.buyer_id} → {trade.payee_id}" if trade.payee_id else trade.buyer_id
    about = {id_: f"{kind} {_money(trade.amount)}, {parties}"}
    return about | {attempt.attempt_id: f"no. {attempt.attempt_no}" for attempt in trade.attempts}


async def _payment(channels: Channels, id_: str) -> dict[str, str]:
    stub = pay_service_pb2_grpc.PayServiceStub(channels.get("pay_core"))
    request = pay_service_pb2.GetPaymentRequest(payment_id=id_)
    payment = (await stub.GetPayment(request, timeout=ASK_TIMEOUT_S)).payment
    operation = _OPERATION.Name(payment.operation).removeprefix("OPERATION_")
    about = {id_: f"{operation} {_money(payment.amount)}"}
    if payment.settlement_mode in _HELD_FIRST:
        captured = format_minor(payment.captured_minor, payment.amount.currency_code)
        about[id_] += f", {_MODE.Name(payment.settlement_mode).removeprefix('SETTLEMENT_MODE_')}, {captured} captured"
    return about | {step.instruction_id: step_text(step) for step in payment.instructions}


def step_text(step: payment_pb2.Instruction) -> str:
    """An instruction for people: ``3. REVERSE DISBURSE 45.00 EUR, sandbox_card``."""
    action = _ACTION.Name(step.action).removeprefix("INSTRUCTION_ACTION_")
    undoes = "REVERSE " if step.direction == payment_pb2.DIRECTION_REVERSE else ""
    if step.channel or step.tool == BALANCE:
        where = step.channel or step.owner_id
    else:
        name = f"{step.unit_count} points" if step.unit_count else step.tool.replace("_", " ")
        where = f"{name} of {step.owner_id}" if step.owner_id else name
    moved = f" ({format_minor(step.moved_minor, step.amount.currency_code)} came)" if step.moved_minor else ""
    return f"{step.seq}. {undoes}{action} {_money(step.amount)}, {where}{moved}"


async def _channel_order(channels: Channels, id_: str) -> dict[str, str]:
    stub = channel_service_pb2_grpc.ChannelServiceStub(channels.get("channel_gateway"))
    request = channel_service_pb2.GetChannelOrderRequest(channel_order_id=id_)
    order = (await stub.GetChannelOrder(request, timeout=ASK_TIMEOUT_S)).channel_order
    kind = _ORDER_KIND.Name(order.kind).removeprefix("CHANNEL_ORDER_KIND_")
    parts = [f"{kind} {_money(order.amount)}", order.channel, order.provider_reference, order.failure_reason]
    if order.attempt_no > 1:
        parts.append(f"no. {order.attempt_no}")
    if order.query_count:
        parts.append(f"asked {order.query_count}×")
    return {id_: ", ".join(part for part in parts if part)}


async def _doubt(channels: Channels, id_: str) -> dict[str, str]:
    stub = doubt_service_pb2_grpc.DoubtServiceStub(channels.get("channel_gateway"))
    found = (await stub.GetDoubt(doubt_service_pb2.GetDoubtRequest(doubt_id=id_), timeout=ASK_TIMEOUT_S)).doubt
    kind = _DOUBT_TYPE.Name(found.type).removeprefix("DOUBT_TYPE_")
    return {id_: f"{kind} on {found.channel}, {_money(found.amount)}: {found.evidence}, asked {found.ask_count}×"}


async def _break(channels: Channels, id_: str) -> dict[str, str]:
    stub = recon_service_pb2_grpc.ReconServiceStub(channels.get("recon"))
    response = await stub.GetBreak(recon_service_pb2.GetBreakRequest(break_id=id_), timeout=ASK_TIMEOUT_S)
    found: break_pb2.Break = getattr(response, "break")  # a keyword of Python
    kind = _BREAK_TYPE.Name(found.type).removeprefix("BREAK_TYPE_")
    return {id_: f"{kind}, {_money(found.amount_at_risk)} at risk: {found.evidence}"}


_READERS: dict[str, Callable[[Channels, str], Awaitable[dict[str, str]]]] = {
    "trd": _trade,
    "pay": _payment,
    "chn": _channel_order,
    "dbt": _doubt,
    "brk": _break,
}


def _money(amount: money_pb2.Money) -> str:
    return format_minor(amount.amount_minor, amount.currency_code) if amount.currency_code else "nothing"


def commands(entries: Iterable[ops_service_pb2.TimelineEntry], entity: str) -> list[tuple[str, str]]:
    """(command, state) of every change of state of the records of an entity, oldest first."""
    return [
        (entry.command, change.to_state)
        for entry in entries
        for change in entry.changes
        if change.entity == entity and change.to_state != change.from_state
    ]
