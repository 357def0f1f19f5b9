"""From a rule for routes to the channels it names, how one is chosen, and when another is tried."""

from __future__ import annotations

import re
from collections.abc import Callable

from pay_core.rules.amounts import PPM
from pay_core.rules.document import Section
from pay_core.rules.model import Route, RouteCandidate, RouteStrategy
from paykit.money import AMOUNT_MINOR_MAX

CHANNELS_MAX = 20  # of one rule: what channel_gateway takes
WEIGHT_MAX = 1_000_000
REASONS_MAX = 50
KEYS = ("name", "when", "channels", "strategy", "channels_max", "switch_on")

_CANDIDATE_KEYS = ("channel", "weight", "fixed_minor", "rate_ppm")
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,31}")


def read_route(section: Section, judge_channel: Callable[[str], str]) -> Route:
    """The route of a rule; problems are noted where they stand."""
    strategy = section.choice("strategy", RouteStrategy, RouteStrategy.FIRST)
    named = section.named("channels", "channel", _CANDIDATE_KEYS, judge_channel)
    candidates = tuple([_candidate(name, more, strategy) for name, more in named])
    channels_max = section.integer("channels_max", 1, CHANNELS_MAX, default=1)
    switch_on = section.texts("switch_on", _judge_reason) if "switch_on" in section else []
    if section.is_sound:
        _check(section, candidates, strategy, channels_max, switch_on)
    return Route(candidates, strategy, channels_max, tuple(switch_on))


def _candidate(name: str, more: Section | None, strategy: RouteStrategy) -> RouteCandidate:
    if more is None:
        return RouteCandidate(name)
    weight = more.optional_integer("weight", 0, WEIGHT_MAX)
    if weight is not None and strategy is not RouteStrategy.WEIGHTED:
        more.problem("weighs nothing: the strategy is not WEIGHTED", "weight")
    return RouteCandidate(
        name,
        1 if weight is None else weight,
        more.integer("fixed_minor", 0, AMOUNT_MINOR_MAX, default=0),
        more.integer("rate_ppm", 0, PPM, default=0),
    )


def _check(
    section: Section,
    candidates: tuple[RouteCandidate, ...],
    strategy: RouteStrategy,
    channels_max: int,
    switch_on: list[str],
) -> None:
    if len(candidates) > CHANNELS_MAX:
        section.problem(f"are more than {CHANNELS_MAX}", "channels")
    elif strategy is RouteStrategy.WEIGHTED and not any(one.weight for one in candidates):
        section.problem("have no weight together: none would ever be chosen", "channels")
    elif channels_max > len(candidates):
        section.problem(f"there are only {len(candidates)}", "channels_max")
    elif channels_max > 1 and not switch_on:
        section.problem("no reason would ever lead to another channel: name some in switch_on", "channels_max")
    elif switch_on and channels_max == 1:
        section.problem("no other channel is ever tried: channels_max is 1", "switch_on")
    elif len(switch_on) > REASONS_MAX:
        section.problem(f"has more than {REASONS_MAX} reasons", "switch_on")


def _judge_reason(reason: str) -> str:
    if _REASON.fullmatch(reason):
        return ""
    return "is no reason: capital letters, digits and _, at most 32, as PROVIDER_UNREACHABLE"
