"""The pure decisions about trades."""

from __future__ import annotations

from enum import StrEnum

import pytest
from google.protobuf.descriptor import EnumDescriptor
from hypothesis import given
from hypothesis import strategies as st

from paykit.errors import FailedPrecondition, InvalidArgument
from paykit.state_machine import StateMachine
from paymesh.trade.v1 import trade_pb2
from tests.trade_core.support import a_trade_row
from trade_core import trade as domain
from trade_core import wire
from trade_core.catalogue import TRADE_TYPES
from trade_core.trade import ATTEMPT, TRADE, PayMethod, RelationKind
from trade_core.types import Tool, TradeType

MACHINES = [
    (TRADE, trade_pb2.TradeState.DESCRIPTOR, "TRADE_STATE_", {"PAID", "FAILED"}),
    (ATTEMPT, trade_pb2.AttemptState.DESCRIPTOR, "ATTEMPT_STATE_", {"EFFECTIVE", "FAILED", "RETURNED"}),
]


@pytest.mark.parametrize(("machine", "enum", "prefix", "terminal"), MACHINES, ids=["trade", "attempt"])
def test_a_state_table_is_whole(
    machine: StateMachine[StrEnum], enum: EnumDescriptor, prefix: str, terminal: set[str]
) -> None:
    reached = {machine.initial}
    while True:
        further = {after for state in reached for after in machine.transitions[state]} - reached
        if not further:
            break
        reached |= further
    assert reached == set(machine.states), "every state can be reached"
    assert {state.value for state in machine.terminal} == terminal, "what ends stays ended"
    names = enum.values_by_name
    contract = {name.removeprefix(prefix) for name in names} - {"UNSPECIFIED"}
    assert contract == {state.value for state in machine.states}, "the contract has the same names"


@pytest.mark.parametrize(("machine", "enum", "prefix", "terminal"), MACHINES, ids=["trade", "attempt"])
def test_only_what_the_table_says_may_happen(
    machine: StateMachine[StrEnum], enum: EnumDescriptor, prefix: str, terminal: set[str]
) -> None:
    for before in machine.states:
        for after in machine.states:
            row = a_trade_row(state=before.value)
            if after in machine.transitions[before]:
                assert machine.move(row, after).state == after.value
            else:
                with pytest.raises(FailedPrecondition) as caught:
                    machine.move(row, after)
                assert caught.value.reason == "ILLEGAL_STATE"


def test_relation_kinds_and_states_have_the_contract_s_numbers() -> None:
    kinds = {name.removeprefix("RELATION_KIND_") for name in trade_pb2.RelationKind.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert kinds == {kind.value for kind in RelationKind}
    assert wire.RELATION_KIND["REFUND_OF"] == trade_pb2.RELATION_KIND_REFUND_OF
    assert wire.TRADE_STATE["PAYING"] == trade_pb2.TRADE_STATE_PAYING
    assert wire.ATTEMPT_STATE["EFFECTIVE"] == trade_pb2.ATTEMPT_STATE_EFFECTIVE


amounts = st.integers(min_value=1, max_value=2**63 - 1)
tools = st.sampled_from([Tool.CARD, Tool.BALANCE])


@given(amounts, st.lists(st.tuples(tools, st.integers(1, 10)), min_size=1, max_size=4), st.booleans())
def test_split_gives_every_method_a_share_and_adds_up(
    amount: int, parts: list[tuple[Tool, int]], is_open: bool
) -> None:
    total = sum(weight for _, weight in parts)
    given_amounts = [amount * weight // total for _, weight in parts[:-1]]
    last = amount - sum(given_amounts)
    methods = [PayMethod(tool, "t", part, "EUR") for (tool, _), part in zip(parts[:-1], given_amounts, strict=True)]
    methods.append(PayMethod(parts[-1][0], "t", None if is_open else last, "" if is_open else "EUR"))
    shares = domain.split(amount, "EUR", methods)
    assert sum(share.amount_minor for share in shares) == amount
    assert sorted(s.amount_minor for s in shares) == sorted([*given_amounts, last])
    balance_first = [share.tool is not Tool.BALANCE for share in shares]
    assert balance_first == sorted(balance_first)


@given(amounts, st.lists(amounts, min_size=1, max_size=4), st.booleans())
def test_split_refuses_whatever_does_not_fit(amount: int, parts: list[int], has_open: bool) -> None:
    methods = [PayMethod(Tool.CARD, "t", part, "EUR") for part in parts]
    methods += [PayMethod(Tool.BALANCE)] if has_open else []
    fits = sum(parts) < amount if has_open else sum(parts) == amount
    if fits:
        assert sum(share.amount_minor for share in domain.split(amount, "EUR", methods)) == amount
    else:
        with pytest.raises(InvalidArgument) as caught:
            domain.split(amount, "EUR", methods)
        assert [violation.field for violation in caught.value.violations] == ["pay_methods"]


def test_split_names_the_method_of_another_currency() -> None:
    with pytest.raises(InvalidArgument) as caught:
        domain.split(5, "EUR", [PayMethod(Tool.CARD, "t", 2, "EUR"), PayMethod(Tool.CARD, "t", 3, "USD")])
    assert [violation.field for violation in caught.value.violations] == ["pay_methods[1].amount.currency_code"]


@pytest.mark.parametrize(
    ("trade_type", "methods", "fields"),
    [
        (TradeType.PURCHASE, [PayMethod(Tool.BALANCE), PayMethod(Tool.CARD, "t", 1, "EUR")], []),
        (TradeType.PURCHASE, [PayMethod(Tool.BANK, "t")], ["pay_methods[0]"]),
        (TradeType.PURCHASE, [PayMethod(Tool.CARD, "t"), PayMethod(Tool.BALANCE)], ["pay_methods"]),
        (TradeType.PURCHASE, [PayMethod(Tool.CARD, "t", 1, "EUR"), PayMethod(Tool.CARD, "u")], []),
        (TradeType.PURCHASE, [PayMethod(Tool.CARD, t, 1, "EUR") for t in "abc"], ["pay_methods"]),
        (TradeType.PURCHASE, [PayMethod(Tool.COUPON, "c", 1, "EUR"), PayMethod(Tool.POINTS)], []),
        (TradeType.PURCHASE, [PayMethod(Tool.COUPON, "c", 1, "EUR")] * 2, ["pay_methods"]),
        (TradeType.PURCHASE, [PayMethod(Tool.POINTS, "", 1, "EUR")] * 2, ["pay_methods"]),
        (TradeType.SPLIT_PART, [PayMethod(Tool.CARD, "t")], ["pay_methods", "pay_methods[0]"]),
        (TradeType.PURCHASE, [PayMethod(Tool.BALANCE, "", 1, "EUR")] * 2, ["pay_methods"]),
        (TradeType.TOP_UP, [PayMethod(Tool.BALANCE)], ["pay_methods[0]"]),
        (TradeType.CASH_OUT, [PayMethod(Tool.BANK, "t", 1, "EUR")] * 2, ["pay_methods", "pay_methods"]),
        (TradeType.PEER_TRANSFER, [PayMethod(Tool.CARD, "t")], ["pay_methods[0]"]),
    ],
)
def test_a_type_takes_only_its_own_pay_methods(
    trade_type: TradeType, methods: list[PayMethod], fields: list[str]
) -> None:
    found = domain.method_violations(TRADE_TYPES[trade_type], methods)
    assert [violation.field for violation in found] == fields


@pytest.mark.parametrize(
    ("trade_type", "payee_id", "is_right"),
    [
        (TradeType.PURCHASE, "shop", True),
        (TradeType.PURCHASE, "", False),
        (TradeType.PURCHASE, "alice", True),
        (TradeType.PEER_TRANSFER, "bob", True),
        (TradeType.PEER_TRANSFER, "alice", False),
        (TradeType.PEER_TRANSFER, "", False),
        (TradeType.TOP_UP, "", True),
        (TradeType.TOP_UP, "bob", False),
        (TradeType.CASH_OUT, "bob", False),
    ],
)
def test_a_payee_is_there_where_the_type_has_one(trade_type: TradeType, payee_id: str, is_right: bool) -> None:
    assert (domain.payee_violations(TRADE_TYPES[trade_type], "alice", payee_id) == []) is is_right


@given(amounts, st.lists(st.tuples(st.integers(1, 2**63 - 1), st.booleans()), max_size=12))
def test_refunds_never_give_back_more_than_was_paid(amount: int, attempts: list[tuple[int, bool]]) -> None:
    trade = a_trade_row(amount_minor=amount, refundable_minor=amount)
    begun: list[tuple[int, bool]] = []
    done = 0
    for wanted, succeeds in attempts:
        left = amount - done - sum(part for part, _ in begun)
        assert trade.refundable_minor == left
        if wanted > left:
            with pytest.raises(FailedPrecondition) as caught:
                domain.refund_amount(trade, wanted)
            assert caught.value.reason == "REFUND_EXCEEDS_REFUNDABLE"
        else:
            trade = domain.reserve_refund(trade, domain.refund_amount(trade, wanted))
            begun.append((wanted, succeeds))
        if len(begun) > 2:
            part, is_done = begun.pop(0)
            trade = domain.settle_refund(trade, part) if is_done else domain.release_refund(trade, part)
            done += part if is_done else 0
        assert trade.refunded_minor == done
        assert trade.refundable_minor >= 0
        assert trade.refunded_minor + trade.refundable_minor <= amount


def test_a_refund_without_an_amount_gives_all_that_is_left_and_never_nothing() -> None:
    assert domain.refund_amount(a_trade_row(refundable_minor=400, refunded_minor=600), None) == 400
    with pytest.raises(FailedPrecondition):
        domain.refund_amount(a_trade_row(refundable_minor=0, refunded_minor=1000), None)


def test_giving_back_what_was_not_begun_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        domain.release_refund(a_trade_row(), 1)
    with pytest.raises(AssertionError):
        domain.settle_refund(a_trade_row(), 1)


@pytest.mark.parametrize(
    ("tools", "is_awaited"),
    [
        ([Tool.WALLET], True),
        ([Tool.WALLET, Tool.BALANCE, Tool.COUPON], True),
        ([Tool.WALLET, Tool.WALLET], True),
        ([Tool.WALLET, Tool.CARD], False),
        ([Tool.CARD], False),
        ([Tool.BALANCE], False),  # its result is not the customer's to give
    ],
)
def test_only_what_all_wallets_do_waits_for_the_customer(tools: list[Tool], is_awaited: bool) -> None:
    assert domain.awaits_customer([PayMethod(tool, "t") for tool in tools]) is is_awaited


@given(st.integers(1, 10_000))
def test_a_repair_waits_longer_each_time_and_an_hour_at_most(attempt_count: int) -> None:
    delay_ms = domain.repair_delay_ms(attempt_count)
    assert 2_000 <= delay_ms <= 3_600_000
    assert domain.repair_delay_ms(attempt_count + 1) >= delay_ms


def test_order_keys_differ_wherever_buyer_payee_or_number_do() -> None:
    keys = {domain.order_key(*parts) for parts in [("a", "b", "c"), ("a", "bc", ""), ("ab", "", "c"), ("a", "", "bc")]}
    assert len(keys) == 4
    assert {len(item) for item in keys} == {40}


@given(st.integers(0, 1000))
def test_asking_backs_off_and_stays_bounded(ask_count: int) -> None:
    delay_ms = domain.ask_delay_ms(ask_count, 5_000, 60_000)
    assert 5_000 <= delay_ms <= 60_000
    assert domain.ask_delay_ms(ask_count + 1, 5_000, 60_000) >= delay_ms


def test_a_trade_expires_at_its_time_and_a_refund_never() -> None:
    trade = a_trade_row(expires_at_ms=100)
    assert not domain.is_expired(trade, 99)
    assert domain.is_expired(trade, 100)
    assert not domain.is_expired(a_trade_row(expires_at_ms=None), 10**15)
