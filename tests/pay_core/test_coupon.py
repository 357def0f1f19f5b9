"""Coupons: who may pay with one, what becomes of it, and that whoever funds it bears exactly what it paid."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pay_core import coupon as coupons
from pay_core.coupon import (
    COUPON,
    COUPON_EXPIRED,
    COUPON_NOT_APPLICABLE,
    COUPON_NOT_AVAILABLE,
    COUPON_NOT_FOUND,
    CouponFunder,
    CouponState,
    MerchantCoupon,
    Pot,
)
from pay_core.ledger import AccountKind
from pay_core.rules.model import Share, ShareKind
from pay_core.tables import Coupon
from paykit.errors import FailedPrecondition, NotFound
from paykit.ids import new_id, slot_of
from paykit.money import allocate
from paymesh.pay.v1 import ledger_service_pb2

NOW_MS = 1_700_000_000_000
PAYMENT = new_id("pay", slot_of("ann"), NOW_MS)


def made(**changes: Any) -> Coupon:
    """A coupon of ann's over 5.00 EUR, funded by the platform."""
    fields: dict[str, Any] = {
        "id": new_id("cpn", slot_of("ann"), NOW_MS),
        "slot": slot_of("ann"),
        "owner_id": "ann",
        "state": "AVAILABLE",
        "currency": "EUR",
        "face_value_minor": 500,
        "funder": "PLATFORM",
        "merchant_id": "",
        "campaign": "",
        "payment_id": "",
        "expires_at_ms": NOW_MS + 1000,
        "created_at_ms": NOW_MS - 1000,
    }
    return Coupon(**(fields | changes))


def payee(owner: str, amount_minor: int, reference: str = "") -> Share:
    """What a merchant gets."""
    return Share(ShareKind.PAYEE, owner, AccountKind.MERCHANT, amount_minor, reference)


@pytest.mark.parametrize(
    ("states", "proto", "prefix"),
    [
        (CouponState, ledger_service_pb2.CouponState, "COUPON_STATE_"),
        (CouponFunder, ledger_service_pb2.CouponFunder, "COUPON_FUNDER_"),
    ],
)
def test_has_the_names_of_the_contract(states: type[StrEnum], proto: Any, prefix: str) -> None:
    assert {prefix + state.value for state in states} | {prefix + "UNSPECIFIED"} == set(proto.keys())


def test_reaches_every_state_and_leaves_only_a_voided_one_never() -> None:
    reached: set[StrEnum] = set()
    ahead: list[StrEnum] = [COUPON.initial]
    while ahead:
        state = ahead.pop()
        if state not in reached:
            reached.add(state)
            ahead += COUPON.transitions[state]
    assert reached == set(CouponState)
    assert COUPON.terminal == {CouponState.VOIDED}


@pytest.mark.parametrize(
    ("coupon", "owner", "currency", "amount_minor", "reason"),
    [
        (made(), "ann", "EUR", 500, ""),
        (made(), "ann", "EUR", 1, ""),
        (None, "ann", "EUR", 500, COUPON_NOT_FOUND),
        (made(), "bob", "EUR", 500, COUPON_NOT_FOUND),
        (made(state="USED"), "bob", "EUR", 500, COUPON_NOT_FOUND),
        (made(state="RESERVED"), "ann", "EUR", 500, COUPON_NOT_AVAILABLE),
        (made(state="USED"), "ann", "EUR", 500, COUPON_NOT_AVAILABLE),
        (made(state="VOIDED"), "ann", "EUR", 500, COUPON_NOT_AVAILABLE),
        (made(expires_at_ms=NOW_MS), "ann", "EUR", 500, COUPON_EXPIRED),
        (made(expires_at_ms=NOW_MS + 1), "ann", "EUR", 500, ""),
        (made(), "ann", "USD", 500, COUPON_NOT_APPLICABLE),
        (made(), "ann", "EUR", 501, COUPON_NOT_APPLICABLE),
        (made(), "ann", "EUR", 0, COUPON_NOT_APPLICABLE),
    ],
)
def test_refuses_whoever_cannot_pay_with_it_and_says_why(
    coupon: Coupon | None, owner: str, currency: str, amount_minor: int, reason: str
) -> None:
    assert coupons.refusal(coupon, owner, currency, amount_minor, NOW_MS) == reason
    if not reason:
        assert coupons.require(coupon, "cpn", owner, currency, amount_minor, (), NOW_MS) is coupon
        return
    with pytest.raises((FailedPrecondition, NotFound)) as caught:
        coupons.require(coupon, "cpn", owner, currency, amount_minor, (), NOW_MS)
    assert caught.value.reason == reason
    assert isinstance(caught.value, NotFound) == (reason == COUPON_NOT_FOUND)


def test_a_merchants_coupon_pays_only_that_merchant() -> None:
    coupon = made(funder="MERCHANT", merchant_id="shop")
    assert coupons.require(coupon, coupon.id, "ann", "EUR", 500, {"mall", "shop"}, NOW_MS) is coupon
    with pytest.raises(FailedPrecondition) as caught:
        coupons.require(coupon, coupon.id, "ann", "EUR", 500, {"mall"}, NOW_MS)
    assert caught.value.reason == COUPON_NOT_APPLICABLE


def test_one_that_is_set_aside_can_be_used_or_let_go_and_not_taken_back() -> None:
    kept = coupons.reserved(made(), PAYMENT)
    assert (kept.state, kept.payment_id) == ("RESERVED", PAYMENT)
    free = coupons.released(kept)
    assert (free.state, free.payment_id) == ("AVAILABLE", "")
    with pytest.raises(FailedPrecondition) as caught:
        coupons.voided(kept)
    assert caught.value.reason == COUPON_NOT_AVAILABLE
    assert coupons.used(kept, PAYMENT, 300).state == "USED"
    assert coupons.voided(free).state == "VOIDED"


@given(st.lists(st.integers(1, 100), min_size=1, max_size=10))
def test_is_free_again_with_the_last_part_given_back_and_not_before(parts: list[int]) -> None:
    coupon = coupons.used(made(face_value_minor=1000), PAYMENT, sum(parts))
    for part in parts:
        assert (coupon.state, coupon.payment_id) == ("USED", PAYMENT)
        coupon = coupons.given_back(coupon, part)
    assert coupon == made(id=coupon.id, face_value_minor=1000)


SHARES = st.lists(
    st.builds(
        Share,
        st.sampled_from(ShareKind),
        st.sampled_from(("shop", "mall", "")),
        st.sampled_from((AccountKind.MERCHANT, AccountKind.USER)),
        st.integers(1, 1000),
        st.sampled_from(("", "r1", "r2")),
    ),
    min_size=1,
    max_size=6,
)
USES = st.lists(
    st.builds(
        MerchantCoupon, st.sampled_from(("c1", "c2", "c3")), st.sampled_from(("shop", "mall")), st.integers(1, 900)
    ),
    max_size=3,
    unique_by=lambda use: use.coupon_id,
)


@given(SHARES, USES)
def test_a_merchant_bears_its_own_coupons_to_the_cent_and_nobody_else_does(
    shares: list[Share], uses: list[MerchantCoupon]
) -> None:
    def due(merchant: str) -> int:
        return sum(use.amount_minor for use in uses if use.merchant_id == merchant)

    def own(these: list[Share], merchant: str) -> int:
        return sum(
            share.amount_minor
            for share in these
            if share.kind == ShareKind.PAYEE
            and share.account_kind == AccountKind.MERCHANT
            and share.owner_id == merchant
        )

    too_much = [merchant for merchant in ("shop", "mall") if due(merchant) > own(shares, merchant)]
    if too_much:
        with pytest.raises(FailedPrecondition) as caught:
            coupons.absorb(shares, uses)
        assert caught.value.reason == COUPON_NOT_APPLICABLE
        return
    lowered, absorbed = coupons.absorb(shares, uses)
    for merchant in ("shop", "mall"):
        assert own(lowered, merchant) == own(shares, merchant) - due(merchant)
    for use in uses:
        assert sum(part.amount_minor for part in absorbed if part.coupon_id == use.coupon_id) == use.amount_minor
    assert all(share.amount_minor > 0 for share in lowered)
    assert all(part.amount_minor > 0 for part in absorbed)
    for reference in ("", "r1", "r2"):  # so that what a refund by reference takes is what its payee was paid
        before = sum(share.amount_minor for share in shares if share.reference == reference)
        after = sum(share.amount_minor for share in lowered if share.reference == reference)
        after += sum(part.amount_minor for part in absorbed if part.reference == reference)
        assert after == before


def test_refuses_a_coupon_over_more_than_its_merchant_gets() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        coupons.absorb([payee("shop", 99), payee("mall", 500)], [MerchantCoupon("c1", "shop", 100)])
    assert caught.value.reason == COUPON_NOT_APPLICABLE
    lowered, absorbed = coupons.absorb(
        [payee("shop", 100, "a"), payee("mall", 500)], [MerchantCoupon("c1", "shop", 100)]
    )
    assert lowered == [payee("mall", 500)]
    assert absorbed == [coupons.Absorbed("c1", "shop", 100, "a")]


@given(st.data())
def test_refunds_give_a_merchants_coupon_what_the_merchant_bore_of_them(data: st.DataObject) -> None:
    """A payment of several payees and tools is refunded in any parts, of all payees or of one."""
    shop, mall = data.draw(st.integers(1, 500), "shop"), data.draw(st.integers(0, 500), "mall")
    coupon_minor = data.draw(st.integers(1, shop), "coupon")
    lowered, absorbed = coupons.absorb(
        [payee("shop", shop)] + [payee("mall", mall)] * (mall > 0), [MerchantCoupon("c1", "shop", coupon_minor)]
    )
    sources = [part.amount_minor for part in absorbed] + [share.amount_minor for share in lowered]
    others = data.draw(st.integers(0, shop + mall - coupon_minor), "card")
    pots = [coupon_minor, others, shop + mall - coupon_minor - others]
    for is_last in [False] * data.draw(st.integers(0, 5), "refunds") + [True]:
        left_out = -1 if is_last else data.draw(st.integers(0, len(sources)))
        narrowed = [0 if i == left_out else minor for i, minor in enumerate(sources)]
        if not sum(narrowed):
            continue
        amount = sum(narrowed) if is_last else data.draw(st.integers(1, sum(narrowed)), "refund")
        taken = allocate(amount, narrowed)
        given_back = coupons.paired(amount, [Pot(pots[0], "c1"), Pot(pots[1]), Pot(pots[2])], {"c1": taken[0]})
        assert sum(given_back) == amount
        assert given_back[0] == taken[0]
        sources = [left - part for left, part in zip(sources, taken, strict=True)]
        pots = [left - part for left, part in zip(pots, given_back, strict=True)]
        assert min(pots) >= 0
    assert pots == [0, 0, 0]


def test_what_nobody_bore_of_a_merchants_coupon_does_not_come_back_to_it() -> None:
    assert coupons.paired(50, [Pot(100, "c1"), Pot(30), Pot(70)], {}) == [0, 15, 35]
    assert coupons.paired(0, [Pot(0, "c1")], {}) == [0]


def test_keeps_every_field_that_a_change_of_state_does_not_name() -> None:
    coupon = made(campaign="spring")
    back = coupons.given_back(coupons.used(coupon, PAYMENT, 500), 500)
    assert msgspec.to_builtins(back) == msgspec.to_builtins(coupon)
