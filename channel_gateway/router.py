"""Which channel an order takes, by what channels declare and how they fare now; ``routing`` decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from channel_gateway.channels import ChannelSet
from channel_gateway.merchants import merchant_of
from channel_gateway.routing import WELL, Ask, Health, Judged, Route, judge, onward_of
from channel_gateway.tables import ChannelOrder
from paykit.errors import FailedPrecondition


class Fares(Protocol):
    """How a channel fares, as its lane tells it."""

    @property
    def is_open(self) -> bool: ...
    @property
    def is_full(self) -> bool: ...
    @property
    def success_ppm(self) -> int: ...


HealthOf = Callable[[str, str, str], Fares]  # (mode, channel, merchant); only of channels that are configured


class Router:
    """Asks what routing needs to know. Nothing here waits."""

    def __init__(self, channels: ChannelSet, health: HealthOf) -> None:
        self._channels = channels
        self._health = health

    def judge(self, mode: str, merchant: str, route: Route, ask: Ask) -> list[Judged]:
        """Every candidate, the one to take first."""
        names = [candidate.channel for candidate in route.candidates]
        return judge(route, ask, self._channels.declared(mode, names), self._healths(mode, merchant, names))

    def health(self, mode: str, merchant: str, channel: str) -> Health:
        """How a channel fares; WELL where it is not configured, which is another matter."""
        return self._healths(mode, merchant, [channel]).get(channel, WELL)

    def avoided(self, mode: str, order: ChannelOrder) -> frozenset[str]:
        """Those of the channels that an order may go on to that are not well now."""
        if order.route is None:
            return frozenset()
        healths = self._healths(mode, merchant_of(order), onward_of(order.route).channels)
        return frozenset(name for name, health in healths.items() if health.refusal is not None)

    def _healths(self, mode: str, merchant: str, names: Iterable[str]) -> Mapping[str, Health]:
        configured = [name for name in names if self._channels.find(mode, name) is not None]
        fares = {name: self._health(mode, name, merchant) for name in configured}
        return {name: Health(one.is_open, one.is_full, one.success_ppm) for name, one in fares.items()}


def refusal(judged: Iterable[Judged]) -> FailedPrecondition:
    """Why none of the candidates can carry an order: the reason of each, in its metadata."""
    reasons = {one.candidate.channel: one.reason.value for one in judged if one.reason is not None}
    why = ", ".join(f"{channel}: {reason}" for channel, reason in reasons.items())
    return FailedPrecondition(f"no channel carries this order ({why})", reason="NO_CHANNEL", metadata=reasons)
