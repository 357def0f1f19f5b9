"""Trade types as data: what each kind of business maps to in the payment core, and what may follow it.

A new kind of business is a new row in ``trade_core.catalogue``; commands and checks read the row and know no type by
name. ``load`` refuses a row that contradicts itself or another, naming the type and the field (docs/trade-types.md).
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

_DAY_MS = 86_400_000
TIME_TO_LIVE_MS_MIN = 1_000
TIME_TO_LIVE_MS_MAX = 30 * _DAY_MS
HOLD_TIME_TO_LIVE_MS_MIN = 1_000
HOLD_TIME_TO_LIVE_MS_MAX = 360 * _DAY_MS
HOLD_MARGIN_MS = 30 * _DAY_MS  # how much longer pay_core keeps what the trade's own timer captures
PAY_METHODS_MAX = 8
ATTEMPTS_OPEN_MAX = 8


class TradeType(StrEnum):
    """The kinds of business."""

    PURCHASE = "PURCHASE"
    TOP_UP = "TOP_UP"
    CASH_OUT = "CASH_OUT"
    PEER_TRANSFER = "PEER_TRANSFER"
    REFUND = "REFUND"
    PRE_AUTHORIZATION = "PRE_AUTHORIZATION"
    ESCROW = "ESCROW"
    INSTALMENT_PLAN = "INSTALMENT_PLAN"
    INSTALMENT = "INSTALMENT"
    MERGED_PAYMENT = "MERGED_PAYMENT"
    SPLIT_PURCHASE = "SPLIT_PURCHASE"
    SPLIT_PART = "SPLIT_PART"
    PART_PAYMENT = "PART_PAYMENT"


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
    WALLET = "wallet"
    COUPON = "coupon"
    POINTS = "points"


OUTSIDE_TOOLS = frozenset({Tool.CARD, Tool.BANK, Tool.WALLET})
CUSTOMER_TOOLS = frozenset({Tool.WALLET})  # the customer confirms there: while that is awaited nothing is unknown


class PayeeKind(StrEnum):
    """Which account of the payee is credited; NONE where the trade has no payee of its own."""

    NONE = "NONE"
    MERCHANT = "MERCHANT"
    USER = "USER"


class Settlement(StrEnum):
    """When the payees get the money: at once, or when it is captured out of a reserve or out of escrow."""

    IMMEDIATE = "IMMEDIATE"
    AUTHORIZE = "AUTHORIZE"
    ESCROW = "ESCROW"


class Parts(StrEnum):
    """What parts a trade is made with, and whether they are paid together (MERGED, SPLIT) or one by one."""

    NONE = "NONE"
    MERGED = "MERGED"  # orders that exist already
    SPLIT = "SPLIT"
    INSTALMENT = "INSTALMENT"


TOGETHER = frozenset({Parts.MERGED, Parts.SPLIT})


class LateSuccess(StrEnum):
    """What becomes of a payment that succeeds when its trade is CLOSED: given back, or the trade is paid after all."""

    REFUND = "REFUND"
    REOPEN = "REOPEN"


class HoldExpiry(StrEnum):
    """What becomes of held money when its time is up."""

    VOID = "VOID"
    CAPTURE = "CAPTURE"


class TradeTypeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One trade type.

    ``tools``: which pay methods it takes, at most ``methods_max`` at once and ``outside_max`` of them outside (each is
    a movement of its own at a provider, and all must succeed or be undone). ``is_retryable``: after a failed attempt
    the trade may be paid again (else it fails with it). ``follow_ups``: what may be made from it once PAID; a type
    that is only ever made by another trade is not ``is_creatable``, and one that must not end alone not
    ``is_closable``.

    ``attempts_open_max``: how many attempts may wait for the customer at the same time. ``parts``: what it is made
    with; ``is_partial``: it may be paid in parts of any size; ``part_type``: what those parts are, and ``merges``:
    which orders a MERGED one pays. ``settlement`` other than IMMEDIATE: the money is held first, for
    ``hold_time_to_live_ms``, and then ``on_hold_expiry`` decides.
    """

    trade_type: TradeType
    operation: Operation
    payee: PayeeKind
    tools: frozenset[Tool]
    methods_max: int
    outside_max: int = 1
    is_creatable: bool
    is_retryable: bool
    is_closable: bool = True
    follow_ups: frozenset[TradeType] = frozenset()
    time_to_live_ms: int = 30 * 60_000
    attempts_max: int = 20
    attempts_open_max: int = 1
    follow_ups_max: int = 100
    settlement: Settlement = Settlement.IMMEDIATE
    parts: Parts = Parts.NONE
    is_partial: bool = False
    part_type: TradeType | None = None
    merges: frozenset[TradeType] = frozenset()
    late_success: LateSuccess = LateSuccess.REFUND
    on_hold_expiry: HoldExpiry = HoldExpiry.VOID
    hold_time_to_live_ms: int = 0
