"""The laws of parts: what fits an order, what may be merged, and that parts never bring more than the whole costs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paykit.errors import FailedPrecondition, InvalidArgument
from paykit.ids import new_id, slot_of
from tests.trade_core.support import BUYER, NOW_MS, SLOT, a_trade_row
from trade_core import parts as laws
from trade_core.catalogue import TRADE_TYPES
from trade_core.parts import PartInput
from trade_core.trade import OVER, PayMethod, TradeState
from trade_core.types import TOGETHER, Tool, TradeType

SPLIT = TRADE_TYPES[TradeType.SPLIT_PURCHASE]
PLAN = TRADE_TYPES[TradeType.INSTALMENT_PLAN]
MERGED = TRADE_TYPES[TradeType.MERGED_PAYMENT]
PURCHASE = TRADE_TYPES[TradeType.PURCHASE]

amounts = st.integers(min_value=1, max_value=10**15)


def a_part(**changes: Any) -> PartInput:
    fields: dict[str, Any] = {"amount_minor": 500, "currency": "EUR", "payee_id": "shop.a"}
    return PartInput(**(fields | changes))


def an_instalment(due_at_ms: int | None, **changes: Any) -> PartInput:
    return a_part(payee_id="", due_at_ms=due_at_ms, **changes)


def an_open_row(**changes: Any) -> Any:
    return a_trade_row(**({"state": "CREATED", "refundable_minor": 0} | changes))


# New parts


@given(st.lists(amounts, min_size=2, max_size=16))
def test_parts_that_add_up_are_taken(shares: list[int]) -> None:
    parts = [a_part(amount_minor=share, payee_id=f"shop.{i}") for i, share in enumerate(shares)]
    assert laws.part_violations(SPLIT, "", "EUR", sum(shares), parts) == []


@given(st.lists(amounts, min_size=2, max_size=16), st.integers().filter(bool))
def test_parts_that_do_not_add_up_are_refused(shares: list[int], off_minor: int) -> None:
    parts = [a_part(amount_minor=share) for share in shares]
    (found,) = laws.part_violations(SPLIT, "", "EUR", sum(shares) + off_minor, parts)
    assert found.field == "parts"


@given(st.lists(st.integers(1, 10**13), min_size=2, max_size=60))
def test_instalments_are_taken_exactly_when_their_dates_rise(dues: list[int]) -> None:
    parts = [an_instalment(due) for due in dues]
    found = laws.part_violations(PLAN, "shop.a", "EUR", 500 * len(parts), parts)
    falling = [f"parts[{i}].due_time" for i in range(1, len(dues)) if dues[i] <= dues[i - 1]]
    assert [violation.field for violation in found] == falling


@pytest.mark.parametrize(
    ("spec", "parts", "fields"),
    [
        (PURCHASE, [a_part(), a_part()], ["parts"]),
        (MERGED, [a_part(), a_part()], ["parts"]),
        (SPLIT, [], ["parts"]),
        (SPLIT, [a_part(amount_minor=1000)], ["parts"]),
        (SPLIT, [a_part(amount_minor=1)] * 17, ["parts"]),
        (PLAN, [an_instalment(i, amount_minor=1) for i in range(1, 62)], ["parts"]),
        (SPLIT, [a_part(currency="USD"), a_part()], ["parts[0].amount.currency_code"]),
        (SPLIT, [a_part(amount_minor=1000), a_part(amount_minor=0)], ["parts[1].amount.amount_minor"]),
        (SPLIT, [a_part(payee_id=""), a_part()], ["parts[0].payee_id"]),
        (SPLIT, [a_part(due_at_ms=1), a_part()], ["parts[0].due_time"]),
        (PLAN, [an_instalment(None), an_instalment(2)], ["parts[0].due_time"]),
        (PLAN, [a_part(due_at_ms=1), an_instalment(2)], ["parts[0].payee_id"]),
        (SPLIT, [a_part(merchant_order_no="7"), a_part(merchant_order_no="7")], ["parts[1].merchant_order_no"]),
    ],
)
def test_what_does_not_fit_the_order_is_refused_by_field(spec: Any, parts: list[PartInput], fields: list[str]) -> None:
    found = laws.part_violations(spec, "shop.a", "EUR", 1000, parts)
    assert [violation.field for violation in found] == fields


def test_a_part_may_not_have_its_order_s_number() -> None:
    parts = [an_instalment(1, merchant_order_no="7"), an_instalment(2, merchant_order_no="8")]
    (found,) = laws.part_violations(PLAN, "shop.a", "EUR", 1000, parts, "8")
    assert found.field == "parts[1].merchant_order_no"
    assert laws.part_violations(PLAN, "shop.a", "EUR", 1000, parts, "9") == []


def test_two_merchants_may_give_the_same_number() -> None:
    parts = [a_part(merchant_order_no="7"), a_part(merchant_order_no="7", payee_id="shop.b")]
    assert laws.part_violations(SPLIT, "", "EUR", 1000, parts) == []
    keys = [laws.part_order_key(BUYER, "", part) for part in parts]
    assert len({*keys}) == 2
    assert laws.part_order_key(BUYER, "", a_part()) == ""


def test_instalments_are_due_in_a_bounded_future() -> None:
    good = [NOW_MS + laws.DUE_AHEAD_MS_MIN, NOW_MS + laws.DUE_AHEAD_MS_MAX]
    laws.check_due_times([an_instalment(due) for due in good], NOW_MS)
    with pytest.raises(InvalidArgument) as caught:
        laws.check_due_times([an_instalment(good[0] - 1), an_instalment(good[0]), an_instalment(good[1] + 1)], NOW_MS)
    assert [violation.field for violation in caught.value.violations] == ["parts[0].due_time", "parts[2].due_time"]


def test_merged_trades_are_named_once_and_lie_with_the_buyer() -> None:
    mine = [new_id("trd", SLOT, NOW_MS) for _ in range(3)]
    foreign = new_id("trd", (SLOT + 1) % 1024, NOW_MS)
    assert slot_of(BUYER) == SLOT
    assert laws.merge_violations(MERGED, BUYER, mine) == []
    assert laws.merge_violations(PURCHASE, BUYER, []) == []
    for spec, ids, fields in (
        (PURCHASE, mine, ["merged_trade_ids"]),
        (MERGED, mine[:1], ["merged_trade_ids"]),
        (MERGED, [mine[0], foreign, mine[0]], ["merged_trade_ids[1]", "merged_trade_ids[2]"]),
    ):
        assert [violation.field for violation in laws.merge_violations(spec, BUYER, ids)] == fields


# Merging


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"buyer_id": "user.mallory"}, "NOT_MERGEABLE"),
        ({"currency": "USD"}, "NOT_MERGEABLE"),
        ({"state": "PAYING"}, "NOT_MERGEABLE"),
        ({"state": "PAID"}, "NOT_MERGEABLE"),
        ({"open_attempt_count": 1}, "NOT_MERGEABLE"),
        ({"part_count": 1}, "NOT_MERGEABLE"),
        ({"trade_type": "TOP_UP"}, "NOT_MERGEABLE"),
        ({"trade_type": "SPLIT_PART", "parent_trade_id": "trd_x"}, "NOT_MERGEABLE"),
        ({"group_trade_id": "trd_other"}, "TRADE_GROUPED"),
        ({"expires_at_ms": NOW_MS}, "TRADE_EXPIRED"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    parent = an_open_row(trade_type="MERGED_PAYMENT")
    laws.check_mergeable(MERGED, parent, an_open_row(), laws.MERGES_MAX - 1, NOW_MS)
    trade = an_open_row(**changes)
    with pytest.raises(FailedPrecondition) as caught:
        laws.check_mergeable(MERGED, parent, trade, 0, NOW_MS)
    assert (caught.value.reason, caught.value.subject) == (reason, trade.id)


def test_a_trade_is_merged_so_often_and_no_more() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        laws.check_mergeable(MERGED, an_open_row(), an_open_row(), laws.MERGES_MAX, NOW_MS)
    assert caught.value.reason == "TOO_MANY_MERGES"


@given(st.lists(amounts, min_size=2, max_size=16), st.integers())
def test_a_merged_payment_is_the_sum_of_its_trades(shares: list[int], off_minor: int) -> None:
    trades = [an_open_row(amount_minor=share) for share in shares]
    parent = an_open_row(amount_minor=sum(shares) + off_minor)
    if not off_minor:
        laws.check_merged_amount(parent, trades)
        return
    with pytest.raises(FailedPrecondition) as caught:
        laws.check_merged_amount(parent, trades)
    assert caught.value.reason == "MERGED_AMOUNT_MISMATCH"
    assert caught.value.metadata["total_minor"] == str(sum(shares))


# Paying in parts


def eur(amount_minor: int | None, currency: str = "EUR") -> PayMethod:
    return PayMethod(Tool.BALANCE, "", amount_minor, currency)


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.sampled_from(list(TradeState)), st.integers(1, 500)), max_size=20),
    st.lists(st.integers(1, 3_000), min_size=1, max_size=4),
)
def test_a_part_never_asks_for_more_than_is_neither_paid_nor_under_way(
    amount_minor: int, drawn: list[tuple[TradeState, int]], given_minor: list[int]
) -> None:
    parts = [an_open_row(state=state.value, amount_minor=each) for state, each in drawn]
    paid_minor = sum(each for state, each in drawn if state is TradeState.PAID)
    open_minor = sum(each for state, each in drawn if state not in OVER)
    parent = an_open_row(amount_minor=amount_minor, paid_minor=paid_minor, part_count=len(parts))
    methods = [eur(each) for each in given_minor]
    if sum(given_minor) <= amount_minor - paid_minor - open_minor:
        assert laws.partial_amount(parent, parts, methods) == sum(given_minor)
        return
    with pytest.raises(FailedPrecondition) as caught:
        laws.partial_amount(parent, parts, methods)
    assert caught.value.reason == "AMOUNT_EXCEEDS_UNPAID"
    assert caught.value.metadata["unpaid_minor"] == str(amount_minor - paid_minor - open_minor)


def test_each_method_of_a_partial_payment_names_an_amount_in_the_trade_s_currency() -> None:
    with pytest.raises(InvalidArgument) as caught:
        laws.partial_amount(an_open_row(), [], [eur(None), eur(1), eur(1, "USD")])
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["pay_methods[0].amount", "pay_methods[2].amount.currency_code"]


def test_a_trade_is_paid_in_so_many_parts_and_no_more() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        laws.partial_amount(an_open_row(part_count=laws.PART_PAYMENTS_MAX), [], [eur(1)])
    assert caught.value.reason == "TOO_MANY_PARTS"


@pytest.mark.parametrize(
    ("spec", "changes", "reason"),
    [
        (PLAN, {}, "PARTS_NOT_ALLOWED"),
        (PURCHASE, {"group_trade_id": "trd_other"}, "TRADE_GROUPED"),
        (PURCHASE, {"state": "PAYING", "open_attempt_count": 1}, "ILLEGAL_STATE"),
        (PURCHASE, {"state": "PAID"}, "ILLEGAL_STATE"),
        (PURCHASE, {"state": "CLOSED"}, "ILLEGAL_STATE"),
        (PURCHASE, {"expires_at_ms": NOW_MS}, "TRADE_EXPIRED"),
    ],
)
def test_what_is_not_paid_in_parts_now_is_refused_by_name(spec: Any, changes: dict[str, Any], reason: str) -> None:
    laws.check_partial(PURCHASE, an_open_row(), NOW_MS)
    laws.check_partial(PURCHASE, an_open_row(state="PARTIALLY_PAID"), NOW_MS)
    with pytest.raises(FailedPrecondition) as caught:
        laws.check_partial(spec, an_open_row(**changes), NOW_MS)
    assert caught.value.reason == reason


# What follows from paid parts


@given(st.lists(amounts, min_size=1, max_size=60))
def test_a_parent_is_paid_with_its_last_part_and_partly_before(shares: list[int]) -> None:
    parent = an_open_row(amount_minor=sum(shares), part_count=len(shares))
    for number, share in enumerate(shares, start=1):
        parent = laws.with_part_paid(parent, share, NOW_MS)
        assert (parent.part_paid_count, parent.paid_minor) == (number, sum(shares[:number]))
        assert parent.state == ("PAID" if number == len(shares) else "PARTIALLY_PAID")
        assert laws.has_parts_paid(parent)
    assert (parent.paid_at_ms, parent.due_at_ms, parent.refundable_minor) == (NOW_MS, None, 0)
    assert parent.refunded_minor + parent.refundable_minor <= parent.paid_minor == parent.amount_minor


@given(amounts, amounts)
def test_parts_never_bring_more_than_the_whole(amount_minor: int, more_minor: int) -> None:
    parent = an_open_row(amount_minor=amount_minor, part_count=2)
    with pytest.raises(AssertionError):
        laws.with_part_paid(parent, amount_minor + more_minor, NOW_MS)


@pytest.mark.parametrize("spec", TRADE_TYPES.values(), ids=lambda spec: spec.trade_type)
def test_refundable_money_is_counted_in_one_place_only(spec: Any) -> None:
    trade = an_open_row(trade_type=spec.trade_type.value, part_count=3 if spec.parts in TOGETHER else 0)
    fields = laws.paid_fields(spec, trade, may_be_refunded=True)
    assert fields["paid_minor"] == trade.amount_minor
    if spec.parts in TOGETHER:
        assert (fields["part_paid_count"], fields["refundable_minor"]) == (3, 0)
    else:
        assert fields["refundable_minor"] == trade.amount_minor
        assert "part_paid_count" not in fields, "a purchase whose parts came to nothing, then paid whole, has none paid"


def test_only_a_trade_that_stands_alone_changes_its_price() -> None:
    laws.check_alone(PURCHASE, an_open_row())
    part_spec, refund_spec = TRADE_TYPES[TradeType.SPLIT_PART], TRADE_TYPES[TradeType.REFUND]
    part = an_open_row(trade_type="SPLIT_PART", parent_trade_id="trd_parent")
    assert laws.is_part(part_spec, part)
    assert not laws.is_part(refund_spec, an_open_row(trade_type="REFUND", parent_trade_id="trd_parent"))
    for spec, trade, reason in (
        (PURCHASE, an_open_row(group_trade_id="trd_group"), "TRADE_GROUPED"),
        (PURCHASE, an_open_row(part_count=1), "PART_OF_ORDER"),
        (part_spec, part, "PART_OF_ORDER"),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            laws.check_alone(spec, trade)
        assert caught.value.reason == reason


def test_the_ids_in_an_error_are_bounded() -> None:
    parts = [an_open_row() for _ in range(80)]
    error = laws.named_by_part(an_open_row(), parts, "REFUND_BY_PART")
    assert error.metadata["part_count"] == "80"
    assert error.metadata["part_trade_ids"].split(",") == [part.id for part in parts[:60]]
