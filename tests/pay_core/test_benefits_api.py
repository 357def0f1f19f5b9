"""BenefitService over gRPC: coupons and points in users' hands, each request carried out once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import select

from pay_core.ledger import AccountKind
from pay_core.tables import Account, Book, Coupon, Entry, Journal
from paykit.clock import SystemClock
from paykit.context import BusinessContext
from paykit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from paykit.ids import new_id, slot_of
from paykit.store.system import CommandRecord
from paymesh.common.v1.money_pb2 import Money
from paymesh.pay.v1 import ledger_service_pb2 as pb
from paymesh.pay.v1 import payment_pb2
from tests.pay_core.conftest import Running

LATER = Timestamp(seconds=SystemClock().now_ms() // 1000 + 3600)
PAST = Timestamp(seconds=1_000_000_000)
MERCHANT = pb.COUPON_FUNDER_MERCHANT


def issue(**changes: Any) -> pb.IssueCouponRequest:
    """A coupon of 5.00 EUR for ann."""
    fields: dict[str, Any] = {
        "request_id": "i1",
        "owner_id": "ann",
        "face_value": Money(currency_code="EUR", amount_minor=500),
        "funder": pb.COUPON_FUNDER_PLATFORM,
        "expire_time": LATER,
    }
    return pb.IssueCouponRequest(**(fields | changes))


def grant(**changes: Any) -> pb.GrantPointsRequest:
    """100 points for ann."""
    fields: dict[str, Any] = {"request_id": "g1", "owner_id": "ann", "point_count": 100, "reason": "WELCOME"}
    return pb.GrantPointsRequest(**(fields | changes))


def void(**changes: Any) -> pb.VoidCouponRequest:
    """Of a coupon that is not there."""
    fields: dict[str, Any] = {"request_id": "v1", "coupon_id": new_id("cpn", 1, 1_700_000_000_000)}
    return pb.VoidCouponRequest(**(fields | changes))


BAD: list[tuple[str, Any, str]] = [
    ("IssueCoupon", issue(request_id=""), "request_id"),
    ("IssueCoupon", issue(owner_id=""), "owner_id"),
    ("IssueCoupon", issue(owner_id="internal.7"), "owner_id"),
    ("IssueCoupon", issue(face_value=None), "face_value"),
    ("IssueCoupon", issue(face_value=Money(currency_code="EUR", amount_minor=-1)), "face_value.amount_minor"),
    ("IssueCoupon", issue(face_value=Money(currency_code="PTS", amount_minor=1)), "face_value.currency_code"),
    ("IssueCoupon", issue(funder=0), "funder"),
    ("IssueCoupon", issue(funder=9), "funder"),
    ("IssueCoupon", issue(funder=MERCHANT), "merchant_id"),
    ("IssueCoupon", issue(funder=MERCHANT, merchant_id="internal.7"), "merchant_id"),
    ("IssueCoupon", issue(merchant_id="shop"), "merchant_id"),
    ("IssueCoupon", issue(campaign="x" * 65), "campaign"),
    ("IssueCoupon", issue(expire_time=None), "expire_time"),
    ("IssueCoupon", issue(expire_time=PAST), "expire_time"),
    ("IssueCoupon", issue(expire_time=Timestamp(seconds=2**62)), "expire_time"),
    ("IssueCoupon", issue(expire_time=Timestamp(seconds=1, nanos=-1)), "expire_time"),
    ("VoidCoupon", void(request_id=""), "request_id"),
    ("VoidCoupon", void(coupon_id="cpn_1"), "coupon_id"),
    ("VoidCoupon", void(coupon_id=new_id("pay", 1, 1_700_000_000_000)), "coupon_id"),
    ("ListCoupons", pb.ListCouponsRequest(), "owner_id"),
    ("ListCoupons", pb.ListCouponsRequest(owner_id="ann", page_size=201), "page_size"),
    ("ListCoupons", pb.ListCouponsRequest(owner_id="ann", page_token="x"), "page_token"),
    ("GrantPoints", grant(request_id=""), "request_id"),
    ("GrantPoints", grant(owner_id="internal.7"), "owner_id"),
    ("GrantPoints", grant(point_count=0), "point_count"),
    ("GrantPoints", grant(point_count=10**12 + 1), "point_count"),
    ("GrantPoints", grant(reason=""), "reason"),
]


async def rows(running: Running, kind: Any) -> list[Any]:
    """All rows of a table."""
    return await running.service.store.fetch_everywhere(kind, select(kind.__table__), shadow=False)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_refuses_every_malformed_request_and_names_the_field(running: Running, context: BusinessContext) -> None:
    for method, request, field in BAD:
        with pytest.raises(InvalidArgument) as caught:
            await getattr(running.benefit, method)(request)
        named = [violation.field for violation in caught.value.violations]
        assert named == [field], f"{method} {request}: {named}"
    for kind in (Coupon, Account, Journal, Book):
        assert not await rows(running, kind), kind
    assert not [record for record in await rows(running, CommandRecord) if record.trigger == "rpc"]


async def test_issues_a_coupon_once_on_its_owners_slot(running: Running, context: BusinessContext) -> None:
    request = issue(funder=MERCHANT, merchant_id="shop", campaign="spring")
    answers = await asyncio.gather(*(running.benefit.IssueCoupon(request) for _ in range(10)))
    (stored,) = await rows(running, Coupon)
    for answer in answers:
        coupon = answer.coupon
        assert coupon.coupon_id == stored.id
        assert (coupon.owner_id, coupon.state, coupon.funder) == ("ann", pb.COUPON_STATE_AVAILABLE, MERCHANT)
        assert (coupon.merchant_id, coupon.campaign, coupon.payment_id) == ("shop", "spring", "")
        assert coupon.face_value == Money(currency_code="EUR", amount_minor=500)
        assert coupon.expire_time == LATER
    assert stored.slot == slot_of("ann")
    with pytest.raises(AlreadyExists) as caught:
        await running.benefit.IssueCoupon(issue())
    assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_takes_back_a_coupon_once(running: Running, context: BusinessContext) -> None:
    coupon_id = (await running.benefit.IssueCoupon(issue())).coupon.coupon_id
    first = (await running.benefit.VoidCoupon(void(coupon_id=coupon_id))).coupon
    again = (await running.benefit.VoidCoupon(void(coupon_id=coupon_id))).coupon
    assert first == again
    assert (first.state, first.version) == (pb.COUPON_STATE_VOIDED, 2)
    with pytest.raises(FailedPrecondition) as refused:
        await running.benefit.VoidCoupon(void(coupon_id=coupon_id, request_id="v2"))
    assert (refused.value.reason, refused.value.subject) == ("COUPON_NOT_AVAILABLE", coupon_id)
    with pytest.raises(NotFound) as missing:
        await running.benefit.VoidCoupon(void())
    assert missing.value.reason == "COUPON_NOT_FOUND"


async def test_lists_a_users_own_coupons_page_by_page(running: Running, context: BusinessContext) -> None:
    made = [(await running.benefit.IssueCoupon(issue(request_id=f"i{i}"))).coupon.coupon_id for i in range(5)]
    await running.benefit.IssueCoupon(issue(owner_id="bob"))
    found, token, pages = [], "", 0
    while token or not pages:
        page = await running.benefit.ListCoupons(pb.ListCouponsRequest(owner_id="ann", page_size=2, page_token=token))
        found += [coupon.coupon_id for coupon in page.coupons]
        token, pages = page.next_page_token, pages + 1
    assert found == sorted(made, reverse=True)
    assert pages == 3


async def test_grants_points_once_in_a_journal_that_sums_to_zero(running: Running, context: BusinessContext) -> None:
    answers = await asyncio.gather(*(running.benefit.GrantPoints(grant()) for _ in range(10)))
    assert {answer.account.balance.amount_minor for answer in answers} == {100}
    account = (await running.benefit.GrantPoints(grant(request_id="g2", point_count=11))).account
    assert account.balance == Money(currency_code="PTS", amount_minor=111)
    assert (account.owner_id, account.kind) == ("ann", payment_pb2.ACCOUNT_KIND_POINTS)
    balances = {row.kind: row.balance_minor for row in await rows(running, Account)}
    assert balances == {AccountKind.POINTS: 111, AccountKind.POINTS_ISSUED: -111}
    for journal in await rows(running, Journal):
        entries = [entry for entry in await rows(running, Entry) if entry.journal_id == journal.id]
        assert len(entries) == 2
        assert sum(entry.amount_minor for entry in entries) == 0
        assert {entry.currency for entry in entries} == {journal.currency} == {"PTS"}
        assert journal.payment_id == ""
        assert journal.accounting_date


async def test_grants_every_one_of_many_at_once(running: Running, context: BusinessContext) -> None:
    await asyncio.gather(*(running.benefit.GrantPoints(grant(request_id=f"g{i}", point_count=7)) for i in range(100)))
    balances = {row.kind: row.balance_minor for row in await rows(running, Account)}
    assert balances == {AccountKind.POINTS: 700, AccountKind.POINTS_ISSUED: -700}
