"""Commands of the benefit systems: coupons and points in users' hands. All lie on the user's slot."""

from __future__ import annotations

from collections.abc import Iterable

from pay_core import coupon as coupons
from pay_core import ledger
from pay_core.chart import POINTS_UNIT, AccountKind
from pay_core.coupon import COUPON, CouponFunder
from pay_core.ledger import AccountRef, Draft
from pay_core.tables import Account, Coupon
from paykit.errors import FieldViolation, InvalidArgument, NotFound
from paykit.ids import slot_in, slot_of
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key


class IssueCoupon(Command[Coupon]):
    """Hands a coupon to a user. InvalidArgument where it would have expired already."""

    result_type = Coupon

    def __init__(
        self,
        origin: Origin,
        owner_id: str,
        currency: str,
        face_value_minor: int,
        funder: CouponFunder,
        merchant_id: str,
        campaign: str,
        expires_at_ms: int,
    ) -> None:
        super().__init__(slot_of(owner_id), origin)
        self.owner_id, self.currency, self.face_value_minor = owner_id, currency, face_value_minor
        self.funder, self.merchant_id = funder, merchant_id
        self.campaign, self.expires_at_ms = campaign, expires_at_ms

    def decide(self, work: Work) -> Coupon:
        if self.expires_at_ms <= work.now_ms:
            raise InvalidArgument([FieldViolation("expire_time", "must be in the future")])
        coupon = Coupon(
            id=work.new_id("cpn"),
            slot=self.slot,
            owner_id=self.owner_id,
            state=COUPON.initial.value,
            currency=self.currency,
            face_value_minor=self.face_value_minor,
            funder=self.funder.value,
            merchant_id=self.merchant_id,
            campaign=self.campaign,
            payment_id="",
            expires_at_ms=self.expires_at_ms,
            created_at_ms=work.now_ms,
        )
        payer = self.merchant_id or "the platform"
        return work.insert(coupon, note=f"{self.face_value_minor} {self.currency} to {self.owner_id}, paid by {payer}")


class VoidCoupon(Command[Coupon]):
    """Takes a coupon back. NotFound (COUPON_NOT_FOUND); FailedPrecondition (COUPON_NOT_AVAILABLE)."""

    result_type = Coupon

    def __init__(self, origin: Origin, coupon_id: str) -> None:
        super().__init__(slot_in(coupon_id), origin)
        self.coupon_id = coupon_id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Coupon, self.coupon_id)

    def decide(self, work: Work) -> Coupon:
        coupon = work.get(Coupon, self.coupon_id)
        if coupon is None:
            raise NotFound(f"no coupon {self.coupon_id}", reason=coupons.COUPON_NOT_FOUND)
        return work.update(coupons.voided(coupon))


class GrantPoints(Command[Account]):
    """Gives points to a user, in a journal that belongs to no payment (its ``payment_id`` is empty).

    They land on a frozen account too. FailedPrecondition (BALANCE_LIMIT_REACHED) where it cannot hold more.
    """

    result_type = Account

    def __init__(self, origin: Origin, owner_id: str, point_count: int, reason: str) -> None:
        super().__init__(slot_of(owner_id), origin)
        self.point_count, self.reason = point_count, reason
        self.points: AccountRef = ledger.owned(owner_id, AccountKind.POINTS, POINTS_UNIT)
        self.issued: AccountRef = ledger.internal(self.slot, AccountKind.POINTS_ISSUED, POINTS_UNIT)

    def reads(self, rows: Rows) -> Iterable[Key]:
        return ledger.account_keys([self.points, self.issued])

    def decide(self, work: Work) -> Account:
        draft = Draft(self.slot, POINTS_UNIT)
        draft.shift(self.issued, self.points, self.point_count)
        ledger.post(work, draft, "")
        account = work.get(Account, self.points.account_key, "account_key")
        assert account is not None
        return work.update(account, note=f"{self.point_count} granted: {self.reason}")
