"""Trade types as data: what each kind of business maps to in the payment core, and what may follow it.

A new kind of business is a new row in ``TRADE_TYPES``; commands and checks read the row and know no type by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from paykit.errors import ConfigurationError

TIME_TO_LIVE_MS_MIN = 1_000
TIME_TO_LIVE_MS_MAX = 30 * 86_400_000
PAY_METHODS_MAX = 4

_CHANNEL = re.compile(r"[a-z][a-z0-9_]{0,31}")


class TradeType(StrEnum):
    """The kinds of business."""

    PURCHASE = "PURCHASE"
    TOP_UP = "TOP_UP"
    CASH_OUT = "CASH_OUT"
    PEER_TRANSFER = "PEER_TRANSFER"
    REFUND = "REFUND"


class Operation(StrEnum):
    """The payment core's operations."""

    RECHARGE = "RECHARGE"
    WITHDRAW = "WITHDRAW"
    TRANSFER = "TRANSFER"
    REFUND = "REFUND"


class Tool(StrEnum):
    """What a pay method pays with, or to."""

    BALANCE = "balance"
    CARD = "card"
    BANK = "bank"


class PayeeKind(StrEnum):
    """Which account of the payee is credited; NONE where the trade has no payee of its own."""

    NONE = "NONE"
    MERCHANT = "MERCHANT"
    USER = "USER"


class TradeTypeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One trade type.

    ``tools``: which pay methods it takes, at most ``methods_max`` at once and ``outside_max`` of them outside (each is
    a movement of its own at a provider, and all must succeed or be undone). ``is_retryable``: after a failed attempt
    the trade may be paid again (else it fails with it). ``follow_ups``: what may be made from it once PAID; a type
    that is only ever a follow-up is not ``is_creatable``.
    """

    trade_type: TradeType
    operation: Operation
    payee: PayeeKind
    tools: frozenset[Tool]
    methods_max: int
    outside_max: int = 1
    is_creatable: bool
    is_retryable: bool
    follow_ups: frozenset[TradeType] = frozenset()
    time_to_live_ms: int = 30 * 60_000
    attempts_max: int = 20
    follow_ups_max: int = 100


TRADE_TYPES: Mapping[TradeType, TradeTypeSpec] = {
    spec.trade_type: spec
    for spec in (
        TradeTypeSpec(
            trade_type=TradeType.PURCHASE,
            operation=Operation.TRANSFER,
            payee=PayeeKind.MERCHANT,
            tools=frozenset({Tool.BALANCE, Tool.CARD}),
            methods_max=PAY_METHODS_MAX,
            is_creatable=True,
            is_retryable=True,
            follow_ups=frozenset({TradeType.REFUND}),
        ),
        TradeTypeSpec(
            trade_type=TradeType.TOP_UP,
            operation=Operation.RECHARGE,
            payee=PayeeKind.NONE,
            tools=frozenset({Tool.CARD}),
            methods_max=1,
            is_creatable=True,
            is_retryable=True,
        ),
        TradeTypeSpec(
            trade_type=TradeType.CASH_OUT,
            operation=Operation.WITHDRAW,
            payee=PayeeKind.NONE,
            tools=frozenset({Tool.BANK}),
            methods_max=1,
            is_creatable=True,
            is_retryable=False,
        ),
        TradeTypeSpec(
            trade_type=TradeType.PEER_TRANSFER,
            operation=Operation.TRANSFER,
            payee=PayeeKind.USER,
            tools=frozenset({Tool.BALANCE}),
            methods_max=1,
            is_creatable=True,
            is_retryable=False,
        ),
        TradeTypeSpec(
            trade_type=TradeType.REFUND,
            operation=Operation.REFUND,
            payee=PayeeKind.NONE,
            tools=frozenset(),
            methods_max=0,
            is_creatable=False,
            is_retryable=False,
        ),
    )
}


class Catalogue:
    """The trade types together with the channel that serves each outside tool."""

    def __init__(self, types: Mapping[TradeType, TradeTypeSpec], channels: Mapping[Tool, str]) -> None:
        self._types = dict(types)
        self._channels = dict(channels)

    def spec(self, trade_type: str) -> TradeTypeSpec:
        """The type of that name; KeyError where there is none, which only a bug can ask for."""
        return self._types[TradeType(trade_type)]

    def channel(self, tool: Tool) -> str:
        """The channel of an outside tool."""
        return self._channels[tool]


def load(channels: Mapping[str, str], types: Mapping[TradeType, TradeTypeSpec] = TRADE_TYPES) -> Catalogue:
    """Checks the types and their channels against each other; ConfigurationError names what does not fit.

    ``channels`` maps the name of an outside tool to a channel: ``{"card": "sandbox_card", "bank": "sandbox_bank"}``.
    """
    for trade_type in TradeType:
        if trade_type not in types:
            raise ConfigurationError(f"trade type {trade_type} is not declared")
    for spec in types.values():
        problem = _problem(spec, types)
        if problem:
            raise ConfigurationError(f"trade type {spec.trade_type}: {problem}")
    outside = {tool.value: tool for tool in Tool if tool is not Tool.BALANCE}
    used = {tool for spec in types.values() for tool in spec.tools} & set(outside.values())
    for name, channel in channels.items():
        if name not in outside:
            raise ConfigurationError(f"channels.{name}: not an outside tool; these are {', '.join(sorted(outside))}")
        if not _CHANNEL.fullmatch(channel):
            raise ConfigurationError(f"channels.{name}: {channel!r} is not a channel name")
    for tool in sorted(used):
        if tool not in channels:
            raise ConfigurationError(f"channels.{tool}: missing, and a trade type pays with it")
    return Catalogue(types, {outside[name]: channel for name, channel in channels.items()})


def _problem(spec: TradeTypeSpec, types: Mapping[TradeType, TradeTypeSpec]) -> str:
    """What is wrong with one declaration, or an empty string."""
    if spec.operation is Operation.REFUND:
        if spec.tools or spec.methods_max or spec.is_creatable or spec.is_retryable:
            return "a refund goes back by its original route: it takes no pay methods, and is made once, from a trade"
    elif not spec.tools or not 1 <= spec.methods_max <= PAY_METHODS_MAX:
        return f"needs tools, and takes 1 to {PAY_METHODS_MAX} of them at once"
    if spec.operation in (Operation.RECHARGE, Operation.WITHDRAW):
        if Tool.BALANCE in spec.tools or spec.methods_max != 1:
            return f"{spec.operation} takes exactly one outside tool"
        if spec.payee is not PayeeKind.NONE:
            return f"{spec.operation} has no payee"
    if spec.operation is Operation.TRANSFER and spec.payee is PayeeKind.NONE:
        return "TRANSFER needs a payee"
    for follow_up in spec.follow_ups:
        if types[follow_up].operation is not Operation.REFUND or spec.operation is not Operation.TRANSFER:
            return f"{follow_up} cannot follow: only a TRANSFER can be refunded"
    if not TIME_TO_LIVE_MS_MIN <= spec.time_to_live_ms <= TIME_TO_LIVE_MS_MAX:
        return "time_to_live_ms is out of bounds"
    if not 0 <= spec.outside_max <= PAY_METHODS_MAX:
        return "outside_max is out of bounds"
    if spec.attempts_max < 1 or spec.follow_ups_max < 1:
        return "bounds must be at least 1"
    return ""
