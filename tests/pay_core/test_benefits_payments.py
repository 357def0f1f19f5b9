"""Orders paid with coupons and points, over gRPC: whoever funds them bears them, and refunds restore every one."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import select

from pay_core.tables import Account, Coupon, Entry, Payment
from paykit.clock import SystemClock
from paykit.context import BusinessContext
from paykit.errors import FailedPrecondition, MeshError
from paykit.ids import slot_of
from paymesh.common.v1.money_pb2 import Money
from paymesh.pay.v1 import ledger_service_pb2 as ledger_pb
from paymesh.pay.v1 import pay_service_pb2 as pb
from paymesh.pay.v1 import payment_pb2
from tests.pay_core.conftest import Running

# On ann's slot: nothing has to be waited for.
SHOP = next(name for i in count() if slot_of(name := f"shop-{i}") == slot_of("ann"))
MALL = next(name for i in count() if slot_of(name := f"mall-{i}") == slot_of("ann"))
POINTS = payment_pb2.Funding(points=payment_pb2.PointsFunding())
AUTHORIZE, ESCROW = payment_pb2.SETTLEMENT_MODE_AUTHORIZE, payment_pb2.SETTLEMENT_MODE_ESCROW


def eur(amount_minor: int) -> Money:
    """An amount."""
    return Money(currency_code="EUR", amount_minor=amount_minor)


class Shopping:
    """Ann, her points and her coupons."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self._numbers = count()

    def request_id(self) -> str:
        """A new one."""
        return f"q{next(self._numbers)}"

    async def points(self, point_count: int) -> None:
        """Gives ann points; 100 are worth 1.00 EUR."""
        request = ledger_pb.GrantPointsRequest(
            request_id=self.request_id(), owner_id="ann", point_count=point_count, reason="WELCOME"
        )
        await self.running.benefit.GrantPoints(request)

    async def coupon(self, face_minor: int, merchant_id: str = "", owner_id: str = "ann") -> str:
        """Gives a coupon; its id."""
        request = ledger_pb.IssueCouponRequest(
            request_id=self.request_id(),
            owner_id=owner_id,
            face_value=eur(face_minor),
            funder=ledger_pb.COUPON_FUNDER_MERCHANT if merchant_id else ledger_pb.COUPON_FUNDER_PLATFORM,
            merchant_id=merchant_id,
            expire_time=Timestamp(seconds=SystemClock().now_ms() // 1000 + 3600),
        )
        return str((await self.running.benefit.IssueCoupon(request)).coupon.coupon_id)

    async def pay(self, payees: dict[str, int], fundings: list[payment_pb2.Funding], mode: Any = 0) -> Any:
        """Pays merchants, each under its own name as reference."""
        request = pb.TransferRequest(
            request_id=self.request_id(),
            payer_id="ann",
            amount=eur(sum(payees.values())),
            fundings=fundings,
            payees=[
                payment_pb2.Payee(
                    owner_id=name,
                    account_kind=payment_pb2.ACCOUNT_KIND_MERCHANT,
                    amount=eur(amount_minor),
                    reference=name,
                )
                for name, amount_minor in payees.items()
            ],
            settlement_mode=mode,
        )
        return (await self.running.pay.Transfer(request)).payment

    async def refund(self, payment_id: str, amount_minor: int, payee: str = "") -> None:
        """Gives a part back."""
        request = pb.RefundRequest(
            request_id=self.request_id(), payment_id=payment_id, amount=eur(amount_minor), payee_reference=payee
        )
        refunded = (await self.running.pay.Refund(request)).payment
        assert refunded.state == payment_pb2.PAYMENT_STATE_SUCCEEDED

    async def rows(self, kind: Any) -> list[Any]:
        """All rows of a table."""
        return await self.running.service.store.fetch_everywhere(kind, select(kind.__table__), shadow=False)

    async def balances(self) -> dict[str, int]:
        """What accounts have, by kind, a merchant's by its name; those with nothing left out. The books are checked."""
        entries: Counter[tuple[str, str]] = Counter()
        for entry in await self.rows(Entry):
            entries[entry.journal_id, entry.currency] += entry.amount_minor
        assert not any(entries.values())
        found: Counter[str] = Counter()
        for account in await self.rows(Account):
            name = account.owner_id if account.kind == "MERCHANT" else account.kind
            found[name] += account.balance_minor
        return {name: balance for name, balance in found.items() if balance}

    async def coupons(self) -> dict[str, str]:
        """The state of every coupon."""
        return {row.id: row.state for row in await self.rows(Coupon)}


def by_coupon(coupon_id: str, amount_minor: int) -> payment_pb2.Funding:
    """A funding by coupon."""
    return payment_pb2.Funding(amount=eur(amount_minor), coupon=payment_pb2.CouponFunding(coupon_id=coupon_id))


@pytest.fixture
def shopping(running: Running, context: BusinessContext) -> Shopping:
    return Shopping(running)


async def test_each_funder_bears_its_own_and_refunds_restore_every_one(shopping: Shopping) -> None:
    await shopping.points(1000)
    platform, merchant = await shopping.coupon(200), await shopping.coupon(300, SHOP)
    fundings = [by_coupon(platform, 200), by_coupon(merchant, 300), POINTS]
    paid = await shopping.pay({SHOP: 600, MALL: 401}, fundings)
    assert paid.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    assert await shopping.balances() == {
        SHOP: 300,
        MALL: 401,
        "MARKETING": -701,
        "POINTS": 499,
        "POINTS_ISSUED": -499,
    }
    await shopping.refund(paid.payment_id, 77, MALL)
    assert (await shopping.balances())[SHOP] == 300
    assert set((await shopping.coupons()).values()) == {"USED"}
    for amount_minor in (1, 333, 250):
        await shopping.refund(paid.payment_id, amount_minor)
        assert "COUPON" not in await shopping.balances()
    await shopping.refund(paid.payment_id, 1001 - 77 - 584)
    assert await shopping.coupons() == {platform: "AVAILABLE", merchant: "AVAILABLE"}
    assert await shopping.balances() == {"POINTS": 1000, "POINTS_ISSUED": -1000}


async def test_of_many_payments_at_once_one_gets_the_coupon(shopping: Shopping) -> None:
    await shopping.points(10_000)
    coupon = await shopping.coupon(100)
    fundings = [by_coupon(coupon, 100), POINTS]
    answers = await asyncio.gather(*(shopping.pay({SHOP: 150}, fundings) for _ in range(20)), return_exceptions=True)
    done = [answer for answer in answers if not isinstance(answer, BaseException)]
    refused = [answer.reason for answer in answers if isinstance(answer, MeshError)]
    assert [payment.state for payment in done] == [payment_pb2.PAYMENT_STATE_SUCCEEDED]
    assert refused == ["COUPON_NOT_AVAILABLE"] * 19
    assert await shopping.balances() == {SHOP: 150, "MARKETING": -150, "POINTS": 9950, "POINTS_ISSUED": -9950}


async def test_too_few_points_free_the_coupon_that_was_used_before(shopping: Shopping) -> None:
    await shopping.points(49)
    coupon = await shopping.coupon(100)
    failed = await shopping.pay({SHOP: 150}, [by_coupon(coupon, 100), POINTS])
    assert (failed.state, failed.failure_reason) == (payment_pb2.PAYMENT_STATE_FAILED, "INSUFFICIENT_POINTS")
    assert await shopping.coupons() == {coupon: "AVAILABLE"}
    assert await shopping.balances() == {"POINTS": 49, "POINTS_ISSUED": -49}


async def test_a_capture_of_a_part_forfeits_the_coupon_and_frees_the_points(shopping: Shopping) -> None:
    await shopping.points(1000)
    coupon = await shopping.coupon(400, SHOP)
    held = await shopping.pay({SHOP: 1000}, [by_coupon(coupon, 400), POINTS], AUTHORIZE)
    assert held.state == payment_pb2.PAYMENT_STATE_AUTHORIZED
    assert await shopping.coupons() == {coupon: "RESERVED"}
    assert await shopping.balances() == {"POINTS": 1000, "POINTS_ISSUED": -1000}
    request = pb.CapturePaymentRequest(request_id="capture", payment_id=held.payment_id, amount=eur(500))
    captured = (await shopping.running.pay.CapturePayment(request)).payment
    assert captured.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    assert await shopping.coupons() == {coupon: "USED"}
    assert await shopping.balances() == {SHOP: 300, "MARKETING": -300, "POINTS": 700, "POINTS_ISSUED": -700}
    (points,) = [row for row in await shopping.rows(Account) if row.kind == "POINTS"]
    assert points.held_minor == 0
    await shopping.refund(held.payment_id, 500)
    assert await shopping.coupons() == {coupon: "AVAILABLE"}
    assert await shopping.balances() == {"POINTS": 1000, "POINTS_ISSUED": -1000}


@pytest.mark.parametrize("mode", [AUTHORIZE, ESCROW])
async def test_a_void_is_as_if_nothing_had_been(shopping: Shopping, mode: Any) -> None:
    await shopping.points(1000)
    coupon = await shopping.coupon(400, SHOP)
    held = await shopping.pay({SHOP: 700, MALL: 300}, [by_coupon(coupon, 400), POINTS], mode)
    assert held.state == payment_pb2.PAYMENT_STATE_AUTHORIZED
    request = pb.VoidPaymentRequest(request_id="void", payment_id=held.payment_id)
    assert (await shopping.running.pay.VoidPayment(request)).payment.state == payment_pb2.PAYMENT_STATE_VOIDED
    assert await shopping.coupons() == {coupon: "AVAILABLE"}
    assert await shopping.balances() == {"POINTS": 1000, "POINTS_ISSUED": -1000}


async def test_a_part_captured_out_of_escrow_leaves_the_coupon_account_at_zero(shopping: Shopping) -> None:
    await shopping.points(1000)
    coupon = await shopping.coupon(400, SHOP)
    held = await shopping.pay({SHOP: 700, MALL: 300}, [by_coupon(coupon, 400), POINTS], ESCROW)
    request = pb.CapturePaymentRequest(request_id="capture", payment_id=held.payment_id, amount=eur(333))
    captured = (await shopping.running.pay.CapturePayment(request)).payment
    assert captured.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    balances = await shopping.balances()
    assert not balances.keys() & {"COUPON", "ESCROW", "CLEARING"}
    assert balances[SHOP] + balances[MALL] == -balances["MARKETING"] == 1000 - balances["POINTS"]


async def test_refuses_a_coupon_that_cannot_pay_and_writes_nothing(shopping: Shopping) -> None:
    bobs, shops, small = (
        await shopping.coupon(100, owner_id="bob"),
        await shopping.coupon(100, SHOP),
        await shopping.coupon(99),
    )
    for coupon, payees, reason in (
        (bobs, {SHOP: 100}, "COUPON_NOT_FOUND"),
        (shops, {MALL: 100}, "COUPON_NOT_APPLICABLE"),
        (shops, {MALL: 50, SHOP: 50}, "COUPON_NOT_APPLICABLE"),
        (small, {SHOP: 100}, "COUPON_NOT_APPLICABLE"),
    ):
        with pytest.raises(MeshError) as caught:
            await shopping.pay(payees, [by_coupon(coupon, 100)])
        assert caught.value.reason == reason
    await shopping.running.benefit.VoidCoupon(ledger_pb.VoidCouponRequest(request_id="v", coupon_id=shops))
    with pytest.raises(FailedPrecondition) as refused:
        await shopping.pay({SHOP: 100}, [by_coupon(shops, 100)])
    assert (refused.value.reason, refused.value.subject) == ("COUPON_NOT_AVAILABLE", shops)
    assert not await shopping.rows(Payment)
    assert not await shopping.rows(Account)
