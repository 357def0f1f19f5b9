"""What callers ask for, checked field by field."""

from __future__ import annotations

from typing import Any, NamedTuple

from channel_gateway import messages
from channel_gateway.channel_order import FOLLOWING
from channel_gateway.commands import Submission
from channel_gateway.routing import (
    CANDIDATES_MAX,
    CHANNELS_MAX,
    PPM,
    SWITCH_ON_MAX,
    WEIGHT_MAX,
    Ask,
    Candidate,
    Route,
    Strategy,
)
from paykit.ids import is_id, slot_in
from paykit.money import AMOUNT_MINOR_MAX
from paykit.rpc.checks import Fields
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2, route_pb2

_KINDS: Any = channel_order_pb2.ChannelOrderKind  # to stubs a class, at run time the wrapper that checks take
_STRATEGIES: Any = route_pb2.RouteStrategy
_STRATEGY = {_STRATEGIES.Value(f"ROUTE_STRATEGY_{strategy.value}"): strategy for strategy in Strategy}
_ROUTABLE = [number for number, kind in messages.KIND_OF.items() if kind not in FOLLOWING]


class RouteQuestion(NamedTuple):
    """What PreviewRoute asks."""

    route: Route
    ask: Ask


def submission(request: channel_service_pb2.SubmitChannelOrderRequest) -> tuple[Submission, Route | None]:
    """What is asked for, and the candidates where there are any; InvalidArgument names every field that is wrong."""
    fields = Fields()
    fields.request_id(request.request_id)
    kind = messages.KIND_OF.get(fields.enum("kind", request.kind, _KINDS))
    channel = fields.name("channel", request.channel, required=not request.candidates)
    amount = fields.money("amount", request.amount)
    instruction_id = fields.id("instruction_id", request.instruction_id, "ins")
    payment_id = fields.id("payment_id", request.payment_id, "pay")
    if kind in FOLLOWING:
        original_id = fields.id("original_channel_order_id", request.original_channel_order_id, "chn")
        if request.token:
            fields.fail("token", "only where no original order is named, whose route it is")
    else:
        original_id = ""
        fields.name("token", request.token)
        if request.original_channel_order_id:
            fields.fail("original_channel_order_id", "only for a refund, capture or void")
    route = _route(fields, request)  # checked also where there is nothing to choose
    wanted = route if request.candidates else None
    if wanted is not None and kind in FOLLOWING:
        fields.fail("candidates", "not for a refund, capture or void: those follow their original")
    if wanted is not None and channel and channel not in {one.channel for one in wanted.candidates}:
        fields.fail("channel", "must be one of the candidates, or empty")
    # A command works on one slot: what belongs to one business order carries that order's.
    related = {"payment_id": payment_id, "original_channel_order_id": original_id}
    for field, id_ in related.items():
        if is_id(id_) and is_id(instruction_id) and slot_in(id_) != slot_in(instruction_id):
            fields.fail(field, "lies on another slot than instruction_id")
    fields.raise_if_any()
    assert kind is not None
    assert amount is not None
    asked = Submission(
        kind=kind,
        channel=channel,
        amount_minor=amount.amount_minor,
        currency=amount.currency_code,
        instruction_id=instruction_id,
        payment_id=payment_id,
        token=request.token,
        original_channel_order_id=original_id,
    )
    return asked, wanted


def ask_of(asked: Submission) -> Ask:
    """What a submission asks of a channel."""
    return Ask(asked.kind.value, asked.currency, asked.amount_minor, asked.instruction_id)


def route_question(request: channel_service_pb2.PreviewRouteRequest) -> RouteQuestion:
    """What PreviewRoute asks; InvalidArgument names every field that is wrong."""
    fields = Fields()
    kind = messages.KIND_OF.get(fields.enum("kind", request.kind, _KINDS, _ROUTABLE))
    amount = fields.money("amount", request.amount)
    lot = fields.id("instruction_id", request.instruction_id, "ins", required=False)
    fields.count("candidates", request.candidates, 1, CANDIDATES_MAX)
    route = _route(fields, request)
    fields.raise_if_any()
    assert kind is not None
    assert amount is not None
    return RouteQuestion(route, Ask(kind.value, amount.currency_code, amount.amount_minor, lot))


def _route(
    fields: Fields, request: channel_service_pb2.SubmitChannelOrderRequest | channel_service_pb2.PreviewRouteRequest
) -> Route:
    fields.count("candidates", request.candidates, 0, CANDIDATES_MAX)
    candidates = [_candidate(fields, i, one) for i, one in enumerate(request.candidates[:CANDIDATES_MAX])]
    if len({one.channel for one in candidates}) < len(candidates):
        fields.fail("candidates", "name a channel twice")
    if not any(one.weight for one in candidates):
        candidates = [Candidate(channel=o.channel, fixed_minor=o.fixed_minor, rate_ppm=o.rate_ppm) for o in candidates]
    if request.strategy:
        fields.enum("strategy", request.strategy, _STRATEGIES)
    strategy = _STRATEGY.get(request.strategy, Strategy.FIRST)
    if isinstance(request, channel_service_pb2.PreviewRouteRequest):
        return Route(candidates=tuple(candidates), strategy=strategy)
    if not 0 <= request.channels_max <= CHANNELS_MAX:
        fields.fail("channels_max", f"must be 0 to {CHANNELS_MAX}")
    fields.count("switch_on", request.switch_on, 0, SWITCH_ON_MAX)
    for i, reason in enumerate(request.switch_on[:SWITCH_ON_MAX]):
        fields.name(f"switch_on[{i}]", reason)
    return Route(
        candidates=tuple(candidates),
        strategy=strategy,
        channels_max=request.channels_max or 1,
        switch_on=tuple(request.switch_on),
    )


def _candidate(fields: Fields, index: int, one: route_pb2.RouteCandidate) -> Candidate:
    where = f"candidates[{index}]"
    fields.name(f"{where}.channel", one.channel)
    for field, value, most in (
        ("weight", one.weight, WEIGHT_MAX),
        ("cost_fixed_minor", one.cost_fixed_minor, AMOUNT_MINOR_MAX),
        ("cost_rate_ppm", one.cost_rate_ppm, PPM),
    ):
        if not 0 <= value <= most:
            fields.fail(f"{where}.{field}", f"must be 0 to {most}")
    return Candidate(
        channel=one.channel, weight=one.weight, fixed_minor=one.cost_fixed_minor, rate_ppm=one.cost_rate_ppm
    )
