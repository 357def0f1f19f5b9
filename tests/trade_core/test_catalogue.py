"""Trade types: what is declared is complete, and what does not fit is refused at load, by type and field."""

from __future__ import annotations

import msgspec
import pytest

from paykit.errors import ConfigurationError
from paymesh.pay.v1 import payment_pb2
from paymesh.trade.v1 import trade_pb2
from trade_core.catalogue import TRADE_TYPES, load
from trade_core.types import (
    HOLD_TIME_TO_LIVE_MS_MAX,
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

REFUND = frozenset({TradeType.REFUND})


def test_every_trade_type_of_the_contract_is_declared() -> None:
    contract = {name.removeprefix("TRADE_TYPE_") for name in trade_pb2.TradeType.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert contract == {trade_type.value for trade_type in TradeType} == {name.value for name in TRADE_TYPES}


def test_operations_and_settlements_have_the_contract_s_names() -> None:
    operations = {name.removeprefix("OPERATION_") for name in payment_pb2.Operation.DESCRIPTOR.values_by_name}
    assert operations - {"UNSPECIFIED"} == {operation.value for operation in Operation}
    modes = {name.removeprefix("SETTLEMENT_MODE_") for name in payment_pb2.SettlementMode.DESCRIPTOR.values_by_name}
    assert modes - {"UNSPECIFIED"} == {settlement.value for settlement in Settlement}


def test_every_tool_of_the_contract_pays_something() -> None:
    contract = {field.name for field in trade_pb2.PayMethod.DESCRIPTOR.oneofs_by_name["tool"].fields}
    assert contract == {tool.value for tool in Tool} == {tool for spec in TRADE_TYPES.values() for tool in spec.tools}


def test_what_is_declared_loads_and_knows_its_separate_parts() -> None:
    catalogue = load()
    assert catalogue.spec("PURCHASE").follow_ups == REFUND
    separate = {name for name in TRADE_TYPES if catalogue.is_separate_part(name)}
    assert separate == {TradeType.INSTALMENT, TradeType.PART_PAYMENT}
    held = {name for name, spec in TRADE_TYPES.items() if spec.settlement is not Settlement.IMMEDIATE}
    assert held == {TradeType.PRE_AUTHORIZATION, TradeType.ESCROW}


@pytest.mark.parametrize(
    ("trade_type", "field", "changes"),
    [
        (TradeType.REFUND, "is_creatable", {"is_creatable": True}),
        (TradeType.REFUND, "tools", {"tools": frozenset({Tool.CARD}), "methods_max": 1}),
        (TradeType.REFUND, "is_retryable", {"is_retryable": True}),
        (TradeType.PURCHASE, "trade_type", {"trade_type": TradeType.TOP_UP}),
        (TradeType.PURCHASE, "tools", {"tools": frozenset()}),
        (TradeType.PURCHASE, "methods_max", {"methods_max": 9}),
        (TradeType.PURCHASE, "payee", {"payee": PayeeKind.NONE}),
        (TradeType.PURCHASE, "follow_ups", {"follow_ups": frozenset({TradeType.TOP_UP})}),
        (TradeType.PURCHASE, "time_to_live_ms", {"time_to_live_ms": 0}),
        (TradeType.PURCHASE, "attempts_max", {"attempts_max": 0}),
        (TradeType.PURCHASE, "attempts_open_max", {"attempts_open_max": 0}),
        (TradeType.PURCHASE, "attempts_open_max", {"attempts_open_max": 3, "attempts_max": 2}),
        (TradeType.PURCHASE, "follow_ups_max", {"follow_ups_max": 0}),
        (TradeType.PURCHASE, "outside_max", {"outside_max": 9}),
        (TradeType.PURCHASE, "part_type", {"part_type": None}),
        (TradeType.PURCHASE, "part_type", {"part_type": TradeType.ESCROW}),
        (TradeType.PURCHASE, "part_type", {"part_type": TradeType.REFUND}),
        (TradeType.PURCHASE, "late_success", {"late_success": LateSuccess.REOPEN}),
        (TradeType.PURCHASE, "hold_time_to_live_ms", {"hold_time_to_live_ms": 1000}),
        (TradeType.PURCHASE, "on_hold_expiry", {"on_hold_expiry": HoldExpiry.CAPTURE}),
        (TradeType.PURCHASE, "merges", {"merges": frozenset({TradeType.PURCHASE})}),
        (TradeType.TOP_UP, "tools", {"tools": frozenset({Tool.BALANCE})}),
        (TradeType.TOP_UP, "tools", {"tools": frozenset({Tool.POINTS})}),
        (TradeType.TOP_UP, "methods_max", {"methods_max": 2}),
        (TradeType.TOP_UP, "payee", {"payee": PayeeKind.USER}),
        (TradeType.TOP_UP, "attempts_open_max", {"attempts_open_max": 2}),
        (TradeType.TOP_UP, "late_success", {"late_success": LateSuccess.REFUND}),
        (TradeType.TOP_UP, "is_partial", {"is_partial": True, "part_type": TradeType.PART_PAYMENT}),
        (TradeType.TOP_UP, "settlement", {"settlement": Settlement.AUTHORIZE, "hold_time_to_live_ms": 1000}),
        (TradeType.CASH_OUT, "follow_ups", {"follow_ups": REFUND}),
        (TradeType.CASH_OUT, "tools", {"tools": frozenset({Tool.WALLET})}),
        (TradeType.PRE_AUTHORIZATION, "hold_time_to_live_ms", {"hold_time_to_live_ms": 0}),
        (
            TradeType.PRE_AUTHORIZATION,
            "hold_time_to_live_ms",
            {"hold_time_to_live_ms": HOLD_TIME_TO_LIVE_MS_MAX + 1},
        ),
        (TradeType.ESCROW, "late_success", {"late_success": LateSuccess.REOPEN}),
        (TradeType.ESCROW, "parts", {"is_partial": True, "part_type": TradeType.PART_PAYMENT}),
        (TradeType.INSTALMENT_PLAN, "tools", {"tools": frozenset({Tool.CARD}), "methods_max": 1}),
        (TradeType.INSTALMENT_PLAN, "is_partial", {"is_partial": True}),
        (TradeType.SPLIT_PART, "tools", {"tools": frozenset({Tool.CARD}), "methods_max": 1}),
        (TradeType.SPLIT_PURCHASE, "payee", {"payee": PayeeKind.MERCHANT}),
        (TradeType.SPLIT_PURCHASE, "part_type", {"parts": Parts.MERGED, "merges": frozenset({TradeType.PURCHASE})}),
        (TradeType.MERGED_PAYMENT, "merges", {"merges": frozenset({TradeType.ESCROW})}),
        (TradeType.MERGED_PAYMENT, "merges", {"merges": frozenset({TradeType.TOP_UP})}),
        (TradeType.MERGED_PAYMENT, "merges", {"merges": frozenset()}),
    ],
)
def test_load_names_type_and_field_of_a_declaration_that_makes_no_sense(
    trade_type: TradeType, field: str, changes: dict[str, object]
) -> None:
    types = {**TRADE_TYPES, trade_type: msgspec.structs.replace(TRADE_TYPES[trade_type], **changes)}
    with pytest.raises(ConfigurationError, match=rf"trade type {trade_type.value}: {field}: "):
        load(types)


@pytest.mark.parametrize(
    ("whole", "part", "changes"),
    [
        (TradeType.PURCHASE, TradeType.PART_PAYMENT, {"follow_ups": frozenset()}),
        (TradeType.PURCHASE, TradeType.PART_PAYMENT, {"payee": PayeeKind.USER}),
        (
            TradeType.INSTALMENT_PLAN,
            TradeType.INSTALMENT,
            {"settlement": Settlement.ESCROW, "hold_time_to_live_ms": 1000},
        ),
    ],
)
def test_load_refuses_parts_that_their_whole_could_not_close(
    whole: TradeType, part: TradeType, changes: dict[str, object]
) -> None:
    types = {**TRADE_TYPES, part: msgspec.structs.replace(TRADE_TYPES[part], **changes)}
    with pytest.raises(ConfigurationError, match=rf"trade type {whole.value}: part_type: {part.value} "):
        load(types)


def test_load_refuses_a_missing_type() -> None:
    types: dict[TradeType, TradeTypeSpec] = {
        name: spec for name, spec in TRADE_TYPES.items() if name is not TradeType.TOP_UP
    }
    with pytest.raises(ConfigurationError, match="TOP_UP is not declared"):
        load(types)
