"""The route of an instruction: as it is stored with it, and as channel_gateway is asked for it."""

from __future__ import annotations

from typing import Any

import msgspec

from pay_core.rules.model import Route, RouteStrategy
from paymesh.channel.v1 import route_pb2

_STRATEGY: dict[RouteStrategy, Any] = {
    strategy: route_pb2.RouteStrategy.Value(f"ROUTE_STRATEGY_{strategy.value}") for strategy in RouteStrategy
}
_decode = msgspec.json.Decoder(Route).decode


def stored(route: Route | None) -> str | None:
    """A route as ``Instruction.route`` keeps it."""
    return None if route is None else msgspec.json.encode(route).decode()


def route_of(text: str | None) -> Route | None:
    """The route that ``stored`` kept."""
    return None if text is None else _decode(text)


def channels_of(text: str | None) -> frozenset[str]:
    """The channels that may carry an instruction besides the one it names."""
    route = route_of(text)
    return frozenset() if route is None else frozenset([one.channel for one in route.candidates])


def asked(route: Route) -> dict[str, Any]:
    """The candidates and the strategy, as fields of SubmitChannelOrder and PreviewRoute."""
    candidates = [
        route_pb2.RouteCandidate(
            channel=one.channel, weight=one.weight, cost_fixed_minor=one.fixed_minor, cost_rate_ppm=one.rate_ppm
        )
        for one in route.candidates
    ]
    return {"candidates": candidates, "strategy": _STRATEGY[route.strategy]}


def switching(route: Route) -> dict[str, Any]:
    """When another channel is tried, as fields of SubmitChannelOrder."""
    return {"channels_max": route.channels_max, "switch_on": route.switch_on}
