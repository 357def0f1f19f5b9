"""Which channel carries an order, and which others may after it. Pure: the same question, the same answer.

Costs are compared exactly, in millionths of a minor unit; nothing here is a float.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

PPM = 1_000_000
CANDIDATES_MAX = 20
CHANNELS_MAX = 20
SWITCH_ON_MAX = 50
WEIGHT_MAX = 1_000_000


class Strategy(StrEnum):
    """How one of several channels is chosen. The names are those of the proto."""

    FIRST = "FIRST"
    LOWEST_COST = "LOWEST_COST"
    BEST_SUCCESS = "BEST_SUCCESS"
    WEIGHTED = "WEIGHTED"


class Reason(StrEnum):
    """Why a channel cannot carry an order, or (the last two) only where no other can."""

    CHANNEL_UNKNOWN = "CHANNEL_UNKNOWN"
    SHADOW_UNAVAILABLE = "SHADOW_UNAVAILABLE"
    OPERATION_UNSUPPORTED = "OPERATION_UNSUPPORTED"
    CURRENCY_UNSUPPORTED = "CURRENCY_UNSUPPORTED"
    AMOUNT_OUT_OF_BOUNDS = "AMOUNT_OUT_OF_BOUNDS"
    BREAKER_OPEN = "BREAKER_OPEN"
    CHANNEL_BUSY = "CHANNEL_BUSY"


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A channel that may carry an order, as a rule names it: its weight, and its cost in minor units and ppm."""

    channel: str
    weight: int = 1
    fixed_minor: int = 0
    rate_ppm: int = 0

    def cost_micro(self, amount_minor: int) -> int:
        """What an amount costs there, in millionths of a minor unit."""
        return self.fixed_minor * PPM + amount_minor * self.rate_ppm

    def cost_minor(self, amount_minor: int) -> int:
        """As ``cost_micro``, in minor units. Rounding: half to even."""
        whole, rest = divmod(self.cost_micro(amount_minor), PPM)
        return whole + (2 * rest > PPM or (2 * rest == PPM and whole % 2 == 1))


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says of where it may go."""

    candidates: tuple[Candidate, ...]
    strategy: Strategy = Strategy.FIRST
    channels_max: int = 1
    switch_on: tuple[str, ...] = ()


class Ask(NamedTuple):
    """What is to be carried. ``lot`` is what WEIGHTED draws by: the same, the same lot."""

    operation: str
    currency: str
    amount_minor: int
    lot: str = ""


class Bounds(NamedTuple):
    """The least and the most of one order, in minor units."""

    min_minor: int
    max_minor: int


class Declared(NamedTuple):
    """What a channel declares to carry. Empty ``currencies``: all. Without ``bounds`` of a currency: any amount."""

    operations: Collection[str]
    currencies: Collection[str] = ()
    bounds: Mapping[str, Bounds] = {}

    def refusal(self, ask: Ask) -> Reason | None:
        """Why it cannot carry ``ask``; None where it can."""
        if ask.operation not in self.operations:
            return Reason.OPERATION_UNSUPPORTED
        if self.currencies and ask.currency not in self.currencies:
            return Reason.CURRENCY_UNSUPPORTED
        bounds = self.bounds.get(ask.currency)
        if bounds is not None and not bounds.min_minor <= ask.amount_minor <= bounds.max_minor:
            return Reason.AMOUNT_OUT_OF_BOUNDS
        return None


class Health(NamedTuple):
    """How a channel fares now. ``success_ppm``: of its latest calls; what is not known counts as success."""

    is_open: bool = False
    is_full: bool = False
    success_ppm: int = PPM

    @property
    def refusal(self) -> Reason | None:
        """Why another channel is better now; None where it is well."""
        if self.is_open:
            return Reason.BREAKER_OPEN
        return Reason.CHANNEL_BUSY if self.is_full else None


class Judged(NamedTuple):
    """One candidate: whether it is in, and what is against it (where it is in: why it stands behind the others)."""

    candidate: Candidate
    is_in: bool
    reason: Reason | None = None


class Onward(msgspec.Struct, frozen=True, kw_only=True):
    """Where an order may go from its channel: the best first, on how many channels in all, and on which reasons."""

    channels: tuple[str, ...]
    channels_max: int
    switch_on: tuple[str, ...]


WELL = Health()


def judge(
    route: Route, ask: Ask, declared: Mapping[str, Declared | Reason], health: Mapping[str, Health]
) -> list[Judged]:
    """Every candidate once: those that can carry ``ask``, the one to take first, then those that cannot.

    ``declared``: of each channel that is configured, or why it is not there in this mode. A channel that is not well
    stands behind all that are.
    """
    able: list[Candidate] = []
    unable: list[Judged] = []
    for candidate in route.candidates:
        found = declared.get(candidate.channel, Reason.CHANNEL_UNKNOWN)
        reason = found if isinstance(found, Reason) else found.refusal(ask)
        if reason is None:
            able.append(candidate)
        else:
            unable.append(Judged(candidate, False, reason))
    ranked = _RANKERS[route.strategy](able, ask, health)
    judged = [Judged(one, True, health.get(one.channel, WELL).refusal) for one in ranked]
    return [
        *(one for one in judged if one.reason is None),
        *(one for one in judged if one.reason is not None),
        *unable,
    ]


def onward(route: Route, judged: Sequence[Judged]) -> Onward | None:
    """Where the order may go after the first of ``judged``; None where nowhere."""
    others = tuple([one.candidate.channel for one in judged[1:] if one.is_in])
    if not others or route.channels_max < 2 or not route.switch_on:
        return None
    return Onward(channels=others, channels_max=route.channels_max, switch_on=route.switch_on)


def next_channel(way: Onward, attempt_no: int, reason: str, avoid: Collection[str] = ()) -> str | None:
    """The channel to go on to from the ``attempt_no``-th after a definite failure; None where the order stays.

    ``avoid``: channels that are not well; they are gone to only where there is no other.
    """
    if attempt_no >= way.channels_max or reason not in way.switch_on or not way.channels:
        return None
    return next((channel for channel in way.channels if channel not in avoid), way.channels[0])


def stored(way: Onward | None) -> str | None:
    """As ``ChannelOrder.route`` keeps it."""
    return None if way is None else msgspec.json.encode(way).decode()


onward_of = msgspec.json.Decoder(Onward).decode


def _by_rule(able: Sequence[Candidate], ask: Ask, health: Mapping[str, Health]) -> list[Candidate]:
    return list(able)


def _by_cost(able: Sequence[Candidate], ask: Ask, health: Mapping[str, Health]) -> list[Candidate]:
    return sorted(able, key=lambda one: one.cost_micro(ask.amount_minor))


def _by_success(able: Sequence[Candidate], ask: Ask, health: Mapping[str, Health]) -> list[Candidate]:
    return sorted(able, key=lambda one: -health.get(one.channel, WELL).success_ppm)


def _by_lot(able: Sequence[Candidate], ask: Ask, health: Mapping[str, Health]) -> list[Candidate]:
    """Drawn one after another, each among those left: taking one away leaves the odds of the others as they were."""
    left: list[Candidate] = list(able)
    drawn: list[Candidate] = []
    while left:
        weights = [one.weight for one in left]
        total = sum(weights)
        if not total:
            return drawn + left
        ticket = _roll(f"{ask.lot}/{len(drawn)}") % total
        index = 0
        while ticket >= weights[index]:
            ticket -= weights[index]
            index += 1
        drawn.append(left.pop(index))
    return drawn


def _roll(text: str) -> int:
    # Of 128 bits, so that the remainder by any total of weights is even to within 2^-90.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


_RANKERS = {
    Strategy.FIRST: _by_rule,
    Strategy.LOWEST_COST: _by_cost,
    Strategy.BEST_SUCCESS: _by_success,
    Strategy.WEIGHTED: _by_lot,
}
