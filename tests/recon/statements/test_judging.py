"""Whatever lines name an order, and however they came, the judgement is the same, and no money is agreed twice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from paykit.ids import new_id
from recon.matching import BreakType
from recon.statements import judging
from recon.statements.judging import Settlement, judge
from recon.tables import RecordedOrder, StatementLine
from tests.recon.statements.support import CHANNEL, DAY, NOW_MS, order

GRACE_DAYS = 2
LATE = "2026-12-05"
ORDER_ID = new_id("chn", 7, NOW_MS)


def line(amount_minor: int = 1_000, **changes: object) -> StatementLine:
    """A line that agrees with ``order(7)``."""
    fields: dict[str, object] = {
        "id": new_id("stl", 7, NOW_MS),
        "slot": 7,
        "statement_id": new_id("stm", 0, NOW_MS),
        "channel": CHANNEL,
        "account": "a",
        "line_no": 2,
        "provider_line_id": "",
        "kind": "MOVEMENT",
        "match_ref": ORDER_ID,
        "provider_reference": "",
        "amount_minor": amount_minor,
        "fee_minor": 0,
        "currency": "EUR",
        "business_date": DAY,
        "is_reversal": 0,
        "state": "CURRENT",
        "difference": "",
        "break_id": None,
    }
    return StatementLine(**(fields | changes))  # type: ignore[arg-type]


REFERENCES = st.sampled_from(["", "ref-1", "ref-1", "ref-2"])
ORDERS = st.builds(
    lambda kind, state, amount_minor, reference: order(
        7, amount_minor, id=ORDER_ID, kind=kind, state=state, provider_reference=reference
    ),
    st.sampled_from(["CHARGE", "REFUND", "CAPTURE", "PAYOUT", "AUTHORIZE", "VOID"]),
    st.sampled_from(["SUCCEEDED", "FAILED"]),
    st.sampled_from([1_000, 700]),
    REFERENCES,
)
LINES = st.lists(
    st.builds(
        lambda amount_minor, currency, channel, day, is_reversal, number, reference: line(
            amount_minor,
            currency=currency,
            channel=channel,
            business_date=day,
            is_reversal=is_reversal,
            line_no=number,
            provider_reference=reference,
        ),
        st.sampled_from([1_000, -1_000, 700]),
        st.sampled_from(["EUR", "EUR", "USD"]),
        st.sampled_from([CHANNEL, CHANNEL, CHANNEL, "bank"]),
        st.sampled_from([DAY, LATE]),
        st.sampled_from([0, 0, 0, 1]),
        st.integers(1, 9),
        REFERENCES,
    ),
    max_size=5,
)


@given(st.none() | ORDERS, LINES, st.randoms(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_order_of_lines_does_not_matter(
    of: RecordedOrder | None, lines: list[StatementLine], draw: object, by_reference: bool
) -> None:
    told = judge(of, lines, GRACE_DAYS, by_reference)
    shuffled = list(lines)
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    assert judge(of, shuffled, GRACE_DAYS, by_reference) == told
    assert set(told.differences) == {one.id for one in lines}


@given(ORDERS, LINES, st.booleans())
@settings(max_examples=300, deadline=None)
def test_one_line_at_most_settles_an_order_and_all_money_beyond_it_is_a_difference(
    of: RecordedOrder, lines: list[StatementLine], by_reference: bool
) -> None:
    told = judge(of, lines, GRACE_DAYS, by_reference)
    by_id = {one.id: one for one in lines}
    agreeing = [by_id[id_] for id_, wrong in told.differences.items() if wrong is None]
    # What agrees adds up to what we know: the order once, and whatever was taken back adds nothing.
    moved = judging.expected_minor(of) or 0
    is_settled = told.settlement is Settlement.AGREED
    wrong_reversals = [
        id_ for id_, wrong in told.differences.items() if wrong is BreakType.STATUS_MISMATCH and by_id[id_].is_reversal
    ]
    if not wrong_reversals:
        for currency in {one.currency for one in lines}:
            total = sum(one.amount_minor for one in agreeing if one.currency == currency)
            assert total == (moved if is_settled and currency == of.currency else 0)
    if is_settled:
        assert told.line_id is not None
        settled = by_id[told.line_id]
        assert (settled.channel, settled.currency, settled.amount_minor) == (of.channel, of.currency, moved)
        names_another = bool(of.provider_reference) and settled.provider_reference not in ("", of.provider_reference)
        assert not (by_reference and names_another)
    if told.settlement is Settlement.BROKEN:
        assert told.line_id is None or told.differences[told.line_id] is not None
    if told.settlement is Settlement.NOT_EXPECTED:
        assert judging.expected_minor(of) is None


@given(st.none() | ORDERS, LINES, st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_is_judged_again_after_it_was_stored_is_judged_alike(
    of: RecordedOrder | None, lines: list[StatementLine], by_reference: bool
) -> None:
    told = judge(of, lines, GRACE_DAYS, by_reference)
    stored = [
        replace(one, difference=wrong.value, break_id=new_id("brk", 7, NOW_MS)) if wrong else one
        for one in lines
        for wrong in [told.differences[one.id]]
    ]
    if of is not None:
        settled = next((one for one in stored if one.id == told.line_id), None)
        break_id = settled.break_id if settled is not None else None
        of = replace(of, settlement=told.settlement.value, statement_line_id=told.line_id, break_id=break_id)
    assert judge(of, stored, GRACE_DAYS, by_reference) == told


def test_a_charge_that_was_booked_twice_and_taken_back_once_agrees() -> None:
    first, second = line(line_no=2), line(line_no=3)
    back = line(-1_000, is_reversal=1, line_no=4)
    told = judge(order(7, id=ORDER_ID), [first, second, back], GRACE_DAYS)
    assert (told.settlement, told.line_id) == (Settlement.AGREED, first.id)
    assert set(told.differences.values()) == {None}


def test_a_charge_that_was_taken_back_altogether_is_a_difference() -> None:
    back = line(-1_000, is_reversal=1, line_no=4)
    told = judge(order(7, id=ORDER_ID), [line(), back], GRACE_DAYS)
    assert (told.settlement, told.line_id) == (Settlement.BROKEN, back.id)
    assert told.differences[back.id] is BreakType.STATUS_MISMATCH


def test_of_two_that_agree_the_one_with_the_known_reference_is_the_orders_own() -> None:
    known = order(7, id=ORDER_ID, provider_reference="ref-1")
    other, own = line(line_no=2, provider_reference="ref-2"), line(line_no=3, provider_reference="ref-1")
    told = judge(known, [other, own], GRACE_DAYS)
    assert (told.settlement, told.line_id) == (Settlement.AGREED, own.id)
    assert told.differences == {other.id: BreakType.DUPLICATE, own.id: None}


def test_an_only_line_with_another_reference_is_of_another_order_where_references_are_those_of_answers() -> None:
    known, other = order(7, id=ORDER_ID, provider_reference="ref-1"), line(provider_reference="ref-2")
    assert judge(known, [other], GRACE_DAYS).differences == {other.id: None}
    told = judge(known, [other], GRACE_DAYS, by_reference=True)
    assert (told.settlement, told.line_id) == (Settlement.OPEN, None)
    assert told.differences == {other.id: BreakType.DUPLICATE}


def test_a_line_or_an_order_without_a_reference_is_taken_for_the_same() -> None:
    unnamed = line()
    known = order(7, id=ORDER_ID, provider_reference="ref-1")
    assert judge(known, [unnamed], GRACE_DAYS, by_reference=True).settlement is Settlement.AGREED
    named = line(provider_reference="ref-2")
    unknown = order(7, id=ORDER_ID, provider_reference="")
    assert judge(unknown, [named], GRACE_DAYS, by_reference=True).settlement is Settlement.AGREED


@pytest.mark.parametrize("number", [2, 4])
def test_a_reversal_takes_back_the_booking_that_it_names(number: int) -> None:
    known = order(7, id=ORDER_ID, provider_reference="ref-1")
    own, other = line(line_no=3, provider_reference="ref-1"), line(line_no=number, provider_reference="ref-2")
    back = line(-1_000, is_reversal=1, line_no=5, provider_reference="ref-2")
    told = judge(known, [own, other, back], GRACE_DAYS, by_reference=True)
    assert (told.settlement, told.line_id) == (Settlement.AGREED, own.id)
    assert set(told.differences.values()) == {None}


def test_where_our_own_booking_was_taken_back_and_another_stands_both_are_differences() -> None:
    known = order(7, id=ORDER_ID, provider_reference="ref-1")
    own, other = line(line_no=2, provider_reference="ref-1"), line(line_no=3, provider_reference="ref-2")
    back = line(-1_000, is_reversal=1, line_no=4, provider_reference="ref-1")
    told = judge(known, [own, other, back], GRACE_DAYS, by_reference=True)
    assert (told.settlement, told.line_id) == (Settlement.BROKEN, back.id)
    assert told.differences == {own.id: None, other.id: BreakType.DUPLICATE, back.id: BreakType.STATUS_MISMATCH}


def test_another_booking_that_was_taken_back_says_nothing_of_ours() -> None:
    known = order(7, id=ORDER_ID, provider_reference="ref-1")
    other = line(line_no=2, provider_reference="ref-2")
    back = line(-1_000, is_reversal=1, line_no=3, provider_reference="ref-2")
    told = judge(known, [other, back], GRACE_DAYS, by_reference=True)
    assert (told.settlement, told.line_id) == (Settlement.OPEN, None)
    assert told.differences == {other.id: None, back.id: None}


def test_what_agrees_is_taken_before_what_came_first() -> None:
    wrong, right = line(5, line_no=2), line(line_no=3)
    told = judge(order(7, id=ORDER_ID), [wrong, right], GRACE_DAYS)
    assert told.differences == {wrong.id: BreakType.DUPLICATE, right.id: None}


def test_a_line_beyond_the_grace_is_late_unless_it_was_missed_before() -> None:
    late = line(business_date=LATE)
    known = order(7, id=ORDER_ID)
    assert judge(known, [late], GRACE_DAYS).differences == {late.id: BreakType.LATE}
    missed = replace(known, settlement="BROKEN", break_id=new_id("brk", 7, NOW_MS))
    assert judge(missed, [late], GRACE_DAYS).differences == {late.id: None}
