"""Which repair each type of break has, when it runs by itself, and the states it passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from recon.matching import BreakType, MatchKind, match_key
from recon.repair import (
    ASKING,
    EXCEPTIONS,
    REMEDIES,
    REPAIR,
    RepairKind,
    RepairRules,
    RepairState,
    amount_of,
    is_automatic,
    obstacle,
    remedy_of,
)
from recon.tables import Break
from tests.recon.support import mint

SERVICE_OF = {
    RepairKind.QUERY: {"channel_gateway"},
    RepairKind.REFUND: {"channel_gateway"},
    RepairKind.COMPLETE: {"pay_core", "trade_core"},
    RepairKind.REVERSE: {"pay_core"},
    RepairKind.ADJUST: {"pay_core"},
}


def rules(up_to_minor: dict[str, int] | None = None, **by_type: dict[str, int]) -> RepairRules:
    return RepairRules(
        delay_ms=60_000,
        answer_ms=15_000,
        answer_max_ms=600_000,
        look_ms=60_000,
        up_to_minor=up_to_minor or {},
        up_to_minor_by_type={BreakType(type_): bounds for type_, bounds in by_type.items()},
    )


def broken(type_: BreakType, *, kind: MatchKind = MatchKind.PAY_CHANNEL, amount_minor: int = 500) -> Break:
    """A break that names all it could: an instruction, a payment, a doubt, a channel and the difference."""
    return Break(
        id=mint("brk"),
        slot=7,
        biz_id=mint("biz"),
        type=type_.value,
        state="OPEN",
        kind=kind.value,
        match_key=match_key(kind, mint("ins")),
        amount_minor=amount_minor,
        currency="EUR",
        owner="channel-operations",
        evidence="seen",
        close_reason="",
        opened_at_ms=1,
        closed_at_ms=None,
        payment_id=mint("pay"),
        channel="sandbox_card",
        channel_order_id=mint("chn"),
        subject_id=mint("dbt"),
        difference_minor=-amount_minor,
    )


def test_every_type_of_break_has_one_repair_that_its_service_can_carry_out() -> None:
    assert set(REMEDIES) == set(BreakType)
    for type_ in BreakType:
        for kind in MatchKind:
            remedy = remedy_of(type_, kind)
            assert remedy.service in SERVICE_OF[remedy.kind], (type_, kind)
    assert {remedy.kind for remedy in [*REMEDIES.values(), *EXCEPTIONS.values()]} == set(RepairKind)


@pytest.mark.parametrize(
    ("type_", "kind", "wanted"),
    [
        (BreakType.RESULT_UNKNOWN, MatchKind.PAY_CHANNEL, ("QUERY", "channel_gateway")),
        (BreakType.MISSING_THERE, MatchKind.STATEMENT, ("QUERY", "channel_gateway")),
        (BreakType.MISSING_FIRST, MatchKind.PAY_CHANNEL, ("COMPLETE", "pay_core")),
        (BreakType.MISSING_FIRST, MatchKind.TRADE_PAY, ("COMPLETE", "trade_core")),
        (BreakType.MISSING_SECOND, MatchKind.TRADE_PAY, ("COMPLETE", "pay_core")),
        (BreakType.MISSING_FIRST, MatchKind.PAY_LEDGER, ("REVERSE", "pay_core")),
        (BreakType.MISSING_SECOND, MatchKind.PAY_CHANNEL, ("QUERY", "channel_gateway")),
        (BreakType.LATE, MatchKind.PAY_CHANNEL, ("REFUND", "channel_gateway")),
        (BreakType.DUPLICATE, MatchKind.PAY_CHANNEL, ("REFUND", "channel_gateway")),
        (BreakType.MISSING_HERE, MatchKind.STATEMENT, ("ADJUST", "pay_core")),
        (BreakType.UNEXPLAINED, MatchKind.STATEMENT, ("ADJUST", "pay_core")),
    ],
)
def test_the_repair_of_a_break_is_the_one_of_the_table(
    type_: BreakType, kind: MatchKind, wanted: tuple[str, str]
) -> None:
    assert remedy_of(type_, kind) == wanted


def test_every_state_can_be_reached_and_what_has_ended_stays() -> None:
    reached, waiting = {REPAIR.initial}, [REPAIR.initial]
    while waiting:
        after = REPAIR.transitions[waiting.pop()] - reached
        reached |= after
        waiting += after
    assert reached == set(RepairState)
    assert REPAIR.terminal == {"DONE", "FAILED", "REJECTED", "WITHDRAWN"}
    assert not REPAIR.allows("PROPOSED", RepairState.SENT)  # nothing goes out that nobody approved


@given(st.sampled_from(BreakType), st.sampled_from(MatchKind), st.integers(0, 10**9), st.integers(0, 10**9))
def test_what_moves_money_runs_by_itself_up_to_the_bound_and_what_asks_always(
    type_: BreakType, kind: MatchKind, amount_minor: int, bound_minor: int
) -> None:
    row = broken(type_, kind=kind, amount_minor=amount_minor)
    remedy = remedy_of(type_, kind)
    by_itself = is_automatic(row, remedy.kind, rules({"EUR": bound_minor}))
    if remedy.kind in ASKING:
        assert by_itself
        assert is_automatic(row, remedy.kind, rules())
    else:
        assert by_itself == (0 < amount_minor <= bound_minor)
        assert not is_automatic(row, remedy.kind, rules())
        assert not is_automatic(row, remedy.kind, rules({"USD": 10**12}))
        assert not is_automatic(row, remedy.kind, rules({"EUR": 10**12}, **{type_.value: {"EUR": 0}}))


def test_a_break_that_does_not_say_what_it_is_about_is_left_to_people() -> None:
    adjusted = broken(BreakType.MISSING_HERE)
    assert amount_of(adjusted, RepairKind.ADJUST) == -500
    assert obstacle(replace(adjusted, channel=""), RepairKind.ADJUST, -500)
    assert obstacle(adjusted, RepairKind.ADJUST, 0)
    stray = replace(broken(BreakType.LATE), subject_id="")
    assert obstacle(stray, RepairKind.REFUND, 500)
    nothing = replace(broken(BreakType.RESULT_UNKNOWN), match_key="PAY_CHANNEL/x", channel_order_id="", subject_id="")
    assert obstacle(nothing, RepairKind.QUERY, 500)
    unpaid = replace(broken(BreakType.MISSING_FIRST), payment_id="")
    assert obstacle(unpaid, RepairKind.COMPLETE, 500)
    assert obstacle(unpaid, RepairKind.REVERSE, 500)
    assert not is_automatic(nothing, RepairKind.QUERY, rules())


def test_answers_are_asked_for_with_doubling_bounded_pauses() -> None:
    assert [rules().next_ask_ms(count) for count in (0, 1, 2, 60)] == [15_000, 30_000, 60_000, 600_000]
