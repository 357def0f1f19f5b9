"""The trade types there are, and the check that they make sense: alone and together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from paykit.errors import ConfigurationError
from trade_core.types import (
    ATTEMPTS_OPEN_MAX,
    HOLD_TIME_TO_LIVE_MS_MAX,
    HOLD_TIME_TO_LIVE_MS_MIN,
    OUTSIDE_TOOLS,
    PAY_METHODS_MAX,
    TIME_TO_LIVE_MS_MAX,
    TIME_TO_LIVE_MS_MIN,
    TOGETHER,
    HoldExpiry,
    LateSuccess,
    Operation,
    Parts,
    PayeeKind,
    Settlement,
    Tool,
    TradeType,
    TradeTypeSpec,
)

_DAY_MS = 86_400_000
_INSIDE = frozenset({Tool.BALANCE, Tool.COUPON, Tool.POINTS})
_SHOPPING = _INSIDE | {Tool.CARD, Tool.WALLET}
_REFUNDABLE = frozenset({TradeType.REFUND})

TRADE_TYPES: Mapping[TradeType, TradeTypeSpec] = {
    spec.trade_type: spec
    for spec in (
        TradeTypeSpec(
            trade_type=TradeType.PURCHASE,
            operation=Operation.TRANSFER,
            payee=PayeeKind.MERCHANT,
            tools=_SHOPPING,
            methods_max=PAY_METHODS_MAX,
            outside_max=2,
            is_creatable=True,
            is_retryable=True,
            attempts_open_max=3,
            is_partial=True,
            part_type=TradeType.PART_PAYMENT,
            follow_ups=_REFUNDABLE,
        ),
        TradeTypeSpec(
            trade_type=TradeType.TOP_UP,
            operation=Operation.RECHARGE,
            payee=PayeeKind.NONE,
            tools=frozenset({Tool.CARD, Tool.WALLET}),
            methods_max=1,
            is_creatable=True,
            is_retryable=True,
            late_success=LateSuccess.REOPEN,  # the money is on the user's own balance already
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
            is_closable=False,
        ),
        TradeTypeSpec(
            trade_type=TradeType.PRE_AUTHORIZATION,
            operation=Operation.TRANSFER,
            payee=PayeeKind.MERCHANT,
            tools=_INSIDE | {Tool.CARD},
            methods_max=PAY_METHODS_MAX,
            is_creatable=True,
            is_retryable=True,
            follow_ups=_REFUNDABLE,
            settlement=Settlement.AUTHORIZE,
            hold_time_to_live_ms=7 * _DAY_MS,
        ),
        TradeTypeSpec(
            trade_type=TradeType.ESCROW,
            operation=Operation.TRANSFER,
            payee=PayeeKind.MERCHANT,
            tools=_SHOPPING,
            methods_max=PAY_METHODS_MAX,
            outside_max=2,
            is_creatable=True,
            is_retryable=True,
            attempts_open_max=3,
            follow_ups=_REFUNDABLE,
            settlement=Settlement.ESCROW,
            on_hold_expiry=HoldExpiry.CAPTURE,  # the buyer had the time to say that something is wrong
            hold_time_to_live_ms=14 * _DAY_MS,
        ),
        TradeTypeSpec(
            trade_type=TradeType.INSTALMENT_PLAN,
            operation=Operation.TRANSFER,
            payee=PayeeKind.MERCHANT,
            tools=frozenset(),
            methods_max=0,
            is_creatable=True,
            is_retryable=True,
            parts=Parts.INSTALMENT,
            part_type=TradeType.INSTALMENT,
        ),
        TradeTypeSpec(
            trade_type=TradeType.INSTALMENT,
            operation=Operation.TRANSFER,
            payee=PayeeKind.MERCHANT,
            tools=_SHOPPING,
            methods_max=PAY_METHODS_MAX,
            outside_max=2,
            is_creatable=False,
            is_retryable=True,
            is_closable=False,
            attempts_open_max=3,
            follow_ups=_REFUNDABLE,
        ),
        TradeTypeSpec(
            trade_type=TradeType.MERGED_PAYMENT,
            operation=Operation.TRANSFER,
            payee=PayeeKind.NONE,
            tools=_SHOPPING,
            methods_max=PAY_METHODS_MAX,
            outside_max=2,
            is_creatable=True,
            is_retryable=True,
            attempts_open_max=3,
            parts=Parts.MERGED,
            merges=frozenset({TradeType.PURCHASE}),
        ),
        TradeTypeSpec(
            trade_type=TradeType.SPLIT_PURCHASE,
            operation=Operation.TRANSFER,
            payee=PayeeKind.NONE,
            tools=_SHOPPING,
            methods_max=PAY_METHODS_MAX,
            outside_max=2,
            is_creatable=True,
            is_retryable=True,
            attempts_open_max=3,
            parts=Parts.SPLIT,
            part_type=TradeType.SPLIT_PART,
        ),
        TradeTypeSpec(
            trade_type=TradeType.SPLIT_PART,
            operation=Operation.TRANSFER,
            payee=PayeeKind.MERCHANT,
            tools=frozenset(),
            methods_max=0,
            is_creatable=False,
            is_retryable=False,
            is_closable=False,
            follow_ups=_REFUNDABLE,
        ),
        TradeTypeSpec(
            trade_type=TradeType.PART_PAYMENT,
            operation=Operation.TRANSFER,
            payee=PayeeKind.MERCHANT,
            tools=_SHOPPING,
            methods_max=PAY_METHODS_MAX,
            outside_max=2,
            is_creatable=False,
            is_retryable=False,
            follow_ups=_REFUNDABLE,
        ),
    )
}


class Catalogue:
    """The trade types of one process, checked."""

    def __init__(self, types: Mapping[TradeType, TradeTypeSpec]) -> None:
        self._types = dict(types)
        together = {spec.part_type for spec in types.values() if spec.parts in TOGETHER}
        self._parts = {spec.part_type for spec in types.values()} - together - {None}

    def spec(self, trade_type: str) -> TradeTypeSpec:
        """The type of that name; KeyError where there is none, which only a bug can ask for."""
        return self._types[TradeType(trade_type)]

    def is_separate_part(self, trade_type: str) -> bool:
        """Whether trades of the type are parts of another that are paid each on its own."""
        return trade_type in self._parts


def load(types: Mapping[TradeType, TradeTypeSpec] = TRADE_TYPES) -> Catalogue:
    """Checks the types, alone and against each other; ConfigurationError names type and field that do not fit."""
    for trade_type in TradeType:
        if trade_type not in types:
            raise ConfigurationError(f"trade type {trade_type} is not declared")
    for name, spec in types.items():
        if name is not spec.trade_type:
            raise ConfigurationError(f"trade type {name}: trade_type: says {spec.trade_type}")
    paid_together = {spec.part_type for spec in types.values() if spec.parts in TOGETHER}
    for spec in types.values():
        for field, problem in _problems(spec, types, spec.trade_type in paid_together):
            raise ConfigurationError(f"trade type {spec.trade_type}: {field}: {problem}")
    return Catalogue(types)


_Problems = Iterable[tuple[str, str]]


def _problems(spec: TradeTypeSpec, types: Mapping[TradeType, TradeTypeSpec], is_paid_together: bool) -> _Problems:
    yield from _bounds(spec)
    yield from _pay_methods(spec, is_paid_together)
    yield from _operation(spec, types)
    yield from _holding(spec)
    yield from _parts(spec, types)


def _bounds(spec: TradeTypeSpec) -> _Problems:
    if not TIME_TO_LIVE_MS_MIN <= spec.time_to_live_ms <= TIME_TO_LIVE_MS_MAX:
        yield "time_to_live_ms", f"must be {TIME_TO_LIVE_MS_MIN} to {TIME_TO_LIVE_MS_MAX}"
    if not 0 <= spec.outside_max <= PAY_METHODS_MAX:
        yield "outside_max", f"must be 0 to {PAY_METHODS_MAX}"
    if spec.attempts_max < 1:
        yield "attempts_max", "must be at least 1"
    if not 1 <= spec.attempts_open_max <= min(ATTEMPTS_OPEN_MAX, spec.attempts_max):
        yield "attempts_open_max", f"must be 1 to {ATTEMPTS_OPEN_MAX}, and no more than attempts_max"
    if spec.follow_ups_max < 1:
        yield "follow_ups_max", "must be at least 1"


def _pay_methods(spec: TradeTypeSpec, is_paid_together: bool) -> _Problems:
    if spec.operation is Operation.REFUND:
        if spec.tools or spec.methods_max:
            yield "tools", "a refund goes back by its original route: it takes no pay methods"
        if spec.is_creatable:
            yield "is_creatable", "a refund is made from a trade"
        if spec.is_retryable:
            yield "is_retryable", "a refund that failed is made again"
    elif is_paid_together or spec.parts is Parts.INSTALMENT:
        if spec.tools or spec.methods_max:
            yield "tools", "it is not paid by itself"
    elif not spec.tools:
        yield "tools", "needs at least one"
    elif not 1 <= spec.methods_max <= PAY_METHODS_MAX:
        yield "methods_max", f"must be 1 to {PAY_METHODS_MAX}"


def _operation(spec: TradeTypeSpec, types: Mapping[TradeType, TradeTypeSpec]) -> _Problems:
    if spec.operation in (Operation.RECHARGE, Operation.WITHDRAW):
        if spec.tools - OUTSIDE_TOOLS:
            yield "tools", f"{spec.operation} takes outside tools only"
        if spec.methods_max != 1:
            yield "methods_max", f"{spec.operation} takes exactly one"
        if spec.payee is not PayeeKind.NONE:
            yield "payee", f"{spec.operation} has none"
        if spec.attempts_open_max != 1:
            yield "attempts_open_max", f"a second {spec.operation} could not be given back"
    if spec.operation is Operation.RECHARGE and spec.late_success is not LateSuccess.REOPEN:
        yield "late_success", "a RECHARGE cannot be given back"
    if spec.operation is Operation.WITHDRAW and Tool.WALLET in spec.tools:
        yield "tools", "a WITHDRAW waits for no customer"
    if spec.operation is Operation.TRANSFER and (spec.payee is PayeeKind.NONE) is not (spec.parts in TOGETHER):
        yield "payee", "a TRANSFER needs one, unless its parts have them"
    for follow_up in sorted(spec.follow_ups):
        if types[follow_up].operation is not Operation.REFUND or spec.operation is not Operation.TRANSFER:
            yield "follow_ups", f"{follow_up} cannot follow: only a TRANSFER can be refunded"


def _holding(spec: TradeTypeSpec) -> _Problems:
    if spec.settlement is Settlement.IMMEDIATE:
        if spec.hold_time_to_live_ms:
            yield "hold_time_to_live_ms", "nothing is held where settlement is IMMEDIATE"
        if spec.on_hold_expiry is not HoldExpiry.VOID:
            yield "on_hold_expiry", "nothing is held where settlement is IMMEDIATE"
        return
    if spec.operation is not Operation.TRANSFER:
        yield "settlement", f"only a TRANSFER is held, not a {spec.operation}"
    if not HOLD_TIME_TO_LIVE_MS_MIN <= spec.hold_time_to_live_ms <= HOLD_TIME_TO_LIVE_MS_MAX:
        yield "hold_time_to_live_ms", f"must be {HOLD_TIME_TO_LIVE_MS_MIN} to {HOLD_TIME_TO_LIVE_MS_MAX}"
    if spec.late_success is not LateSuccess.REFUND:
        yield "late_success", "what is held too late is let go"
    if spec.parts is not Parts.NONE or spec.is_partial:
        yield "parts", "what is held has no parts"


def _parts(spec: TradeTypeSpec, types: Mapping[TradeType, TradeTypeSpec]) -> _Problems:
    if spec.is_partial and (spec.parts is not Parts.NONE or spec.operation is not Operation.TRANSFER):
        yield "is_partial", "only a TRANSFER without other parts is paid in parts of any size"
    if (spec.part_type is not None) is not (spec.is_partial or spec.parts in (Parts.SPLIT, Parts.INSTALMENT)):
        yield "part_type", "goes with is_partial, and with parts of SPLIT and INSTALMENT"
    if spec.part_type is not None:
        yield from _part(spec, types[spec.part_type])
    if spec.late_success is LateSuccess.REOPEN and (spec.parts is not Parts.NONE or spec.is_partial):
        yield "late_success", "the parts are over with it"
    if bool(spec.merges) is not (spec.parts is Parts.MERGED):
        yield "merges", "goes with parts of MERGED"
    for merged in sorted(spec.merges):
        order = types[merged]
        is_plain = order.settlement is Settlement.IMMEDIATE and order.parts is Parts.NONE
        if order.operation is not Operation.TRANSFER or not is_plain or not order.is_creatable:
            yield "merges", f"{merged} is no order that is paid at once"


def _part(spec: TradeTypeSpec, part: TradeTypeSpec) -> _Problems:
    """What a type's ``part_type`` must be like."""
    name = part.trade_type
    if part.is_creatable or part.operation is not Operation.TRANSFER or part.part_type is not None:
        yield "part_type", f"{name} is no part: a TRANSFER that is made by its whole only"
    if part.settlement is not Settlement.IMMEDIATE or part.parts is not Parts.NONE:
        yield "part_type", f"{name} is no part: it is paid at once, and has no parts of its own"
    if spec.parts in TOGETHER:
        return
    if part.payee is not spec.payee:
        yield "part_type", f"{name} pays another kind of payee"
    if TradeType.REFUND not in part.follow_ups:
        yield "part_type", f"{name} cannot be refunded, and must be when its whole is not paid in time"
