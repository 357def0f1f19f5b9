"""Trade types: what is declared is complete, and what does not fit is refused at load."""

from __future__ import annotations

import msgspec
import pytest

from paykit.errors import ConfigurationError
from paymesh.pay.v1 import payment_pb2
from paymesh.trade.v1 import trade_pb2
from trade_core.types import TRADE_TYPES, Operation, PayeeKind, Tool, TradeType, TradeTypeSpec, load

CHANNELS = {"card": "sandbox_card", "bank": "sandbox_bank"}


def test_every_trade_type_of_the_contract_is_declared() -> None:
    contract = {name.removeprefix("TRADE_TYPE_") for name in trade_pb2.TradeType.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert contract == {trade_type.value for trade_type in TradeType} == {name.value for name in TRADE_TYPES}


def test_operations_have_the_contract_s_names() -> None:
    contract = {name.removeprefix("OPERATION_") for name in payment_pb2.Operation.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert contract == {operation.value for operation in Operation}


def test_load_maps_outside_tools_to_their_channels() -> None:
    catalogue = load(CHANNELS)
    assert catalogue.channel(Tool.CARD) == "sandbox_card"
    assert catalogue.channel(Tool.BANK) == "sandbox_bank"
    assert catalogue.spec("PURCHASE").follow_ups == {TradeType.REFUND}
    assert [name for name, spec in TRADE_TYPES.items() if spec.follow_ups] == [TradeType.PURCHASE]
    assert {name for name, spec in TRADE_TYPES.items() if spec.is_retryable} == {
        TradeType.PURCHASE,
        TradeType.TOP_UP,
    }


@pytest.mark.parametrize(
    ("channels", "named"),
    [
        ({"card": "sandbox_card"}, "channels.bank"),
        ({**CHANNELS, "balance": "sandbox_card"}, "channels.balance"),
        ({**CHANNELS, "cash": "sandbox_card"}, "channels.cash"),
        ({**CHANNELS, "card": "Sandbox Card"}, "channels.card"),
    ],
)
def test_load_names_the_channel_that_does_not_fit(channels: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        load(channels)


@pytest.mark.parametrize(
    ("trade_type", "changes"),
    [
        (TradeType.REFUND, {"is_creatable": True}),
        (TradeType.REFUND, {"tools": frozenset({Tool.CARD}), "methods_max": 1}),
        (TradeType.REFUND, {"is_retryable": True}),
        (TradeType.PURCHASE, {"tools": frozenset()}),
        (TradeType.PURCHASE, {"methods_max": 5}),
        (TradeType.PURCHASE, {"payee": PayeeKind.NONE}),
        (TradeType.PURCHASE, {"follow_ups": frozenset({TradeType.TOP_UP})}),
        (TradeType.PURCHASE, {"time_to_live_ms": 0}),
        (TradeType.PURCHASE, {"attempts_max": 0}),
        (TradeType.PURCHASE, {"outside_max": 5}),
        (TradeType.TOP_UP, {"tools": frozenset({Tool.BALANCE})}),
        (TradeType.TOP_UP, {"methods_max": 2}),
        (TradeType.TOP_UP, {"payee": PayeeKind.USER}),
        (TradeType.CASH_OUT, {"follow_ups": frozenset({TradeType.REFUND})}),
    ],
)
def test_load_refuses_a_declaration_that_contradicts_itself(trade_type: TradeType, changes: dict[str, object]) -> None:
    types = {**TRADE_TYPES, trade_type: msgspec.structs.replace(TRADE_TYPES[trade_type], **changes)}
    with pytest.raises(ConfigurationError, match=trade_type.value):
        load(CHANNELS, types)


def test_load_refuses_a_missing_type() -> None:
    types: dict[TradeType, TradeTypeSpec] = {
        name: spec for name, spec in TRADE_TYPES.items() if name is not TradeType.TOP_UP
    }
    with pytest.raises(ConfigurationError, match="TOP_UP is not declared"):
        load(CHANNELS, types)
