"""BenefitService: checks fields, translates, decides nothing."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from pay_core import benefits, queries
from pay_core.api.fields import customer
from pay_core.convert import account_proto, coupon_proto
from pay_core.coupon import CouponFunder
from pay_core.points import POINT_COUNT_MAX
from paykit import context as business_context
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.pay.v1 import ledger_service_pb2, ledger_service_pb2_grpc

_COUPON_FUNDER: Any = ledger_service_pb2.CouponFunder  # at run time an EnumTypeWrapper; its stub is a class
_FUNDER_OF_NUMBER = {_COUPON_FUNDER.Value(f"COUPON_FUNDER_{funder}"): funder for funder in CouponFunder}
_SECONDS_MAX = 253_402_300_799  # the end of the year 9999, as protobuf has it


class BenefitApi(ledger_service_pb2_grpc.BenefitServiceServicer):
    """Coupons and points in users' hands."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def IssueCoupon(self, request: Any, context: Any) -> Any:
        fields = Fields()
        fields.request_id(request.request_id)
        owner_id = customer(fields, "owner_id", request.owner_id)
        fields.money("face_value", request.face_value)
        fields.enum("funder", request.funder, _COUPON_FUNDER)
        _check_merchant(fields, request)
        fields.name("campaign", request.campaign, required=False)
        expires_at_ms = _millis(fields, "expire_time", request.expire_time)
        fields.raise_if_any()
        command = benefits.IssueCoupon(
            Origin.rpc(business_context.current(), "IssueCoupon", owner_id, request.request_id, request),
            owner_id,
            request.face_value.currency_code,
            request.face_value.amount_minor,
            _FUNDER_OF_NUMBER[request.funder],
            request.merchant_id,
            request.campaign,
            expires_at_ms,
        )
        return ledger_service_pb2.IssueCouponResponse(coupon=coupon_proto(await self._store.run(command)))

    async def VoidCoupon(self, request: Any, context: Any) -> Any:
        fields = Fields()
        fields.request_id(request.request_id)
        coupon_id = fields.id("coupon_id", request.coupon_id, "cpn")
        fields.raise_if_any()
        origin = Origin.rpc(business_context.current(), "VoidCoupon", coupon_id, request.request_id, request)
        coupon = await self._store.run(benefits.VoidCoupon(origin, coupon_id))
        return ledger_service_pb2.VoidCouponResponse(coupon=coupon_proto(coupon))

    async def ListCoupons(self, request: Any, context: Any) -> Any:
        fields = Fields()
        owner_id = customer(fields, "owner_id", request.owner_id)
        size = fields.page_size(request.page_size)
        scope = f"coupons {owner_id}"
        before_id = fields.page_token(request.page_token, scope, str)
        fields.raise_if_any()
        shadow = business_context.current().shadow
        rows = await queries.coupons_of(self._store, owner_id, before_id, size + 1, shadow=shadow)
        token = encode_page_token(scope, rows[size - 1].id) if len(rows) > size else ""
        coupons = [coupon_proto(row) for row in rows[:size]]
        return ledger_service_pb2.ListCouponsResponse(coupons=coupons, next_page_token=token)

    async def GrantPoints(self, request: Any, context: Any) -> Any:
        fields = Fields()
        fields.request_id(request.request_id)
        owner_id = customer(fields, "owner_id", request.owner_id)
        if not 1 <= request.point_count <= POINT_COUNT_MAX:
            fields.fail("point_count", f"must be 1 to {POINT_COUNT_MAX}")
        reason = fields.name("reason", request.reason)
        fields.raise_if_any()
        origin = Origin.rpc(business_context.current(), "GrantPoints", owner_id, request.request_id, request)
        account = await self._store.run(benefits.GrantPoints(origin, owner_id, request.point_count, reason))
        return ledger_service_pb2.GrantPointsResponse(account=account_proto(account))


def _check_merchant(fields: Fields, request: ledger_service_pb2.IssueCouponRequest) -> None:
    if request.funder != _COUPON_FUNDER.Value("COUPON_FUNDER_MERCHANT"):
        if request.merchant_id:
            fields.fail("merchant_id", "only where a merchant pays for the coupon")
        return
    customer(fields, "merchant_id", request.merchant_id)


def _millis(fields: Fields, field: str, value: Timestamp) -> int:
    """A required time, in Unix milliseconds."""
    if not value.seconds and not value.nanos:
        fields.fail(field, "required")
    elif not (0 <= value.seconds <= _SECONDS_MAX and 0 <= value.nanos < 1_000_000_000):
        fields.fail(field, "not a time from 1970 to 9999")
    return int(value.seconds) * 1000 + value.nanos // 1_000_000
