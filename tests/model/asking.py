"""What clients ask of the two cores, as requests; and who the clients of one history are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from paykit.ids import slot_of
from paymesh.common.v1.money_pb2 import Money
from paymesh.pay.v1 import ledger_service_pb2 as ledger_pb
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from tests.model.money import parted

TRADE = "/paymesh.trade.v1.TradeService"
PAY = "/paymesh.pay.v1.PayService"
LEDGER = "/paymesh.pay.v1.LedgerService"
BENEFIT = "/paymesh.pay.v1.BenefitService"

BUYER_SLOTS = (3, 3, 700)  # two at home with each other and with a merchant, one on the other shard
MERCHANT_SLOTS = (3, 901)
DAY_MS = 86_400_000

PURCHASE, ESCROW = trade_pb2.TRADE_TYPE_PURCHASE, trade_pb2.TRADE_TYPE_ESCROW
PRE_AUTHORIZATION = trade_pb2.TRADE_TYPE_PRE_AUTHORIZATION
SPLIT, PLAN = trade_pb2.TRADE_TYPE_SPLIT_PURCHASE, trade_pb2.TRADE_TYPE_INSTALMENT_PLAN
MERGED, PEER = trade_pb2.TRADE_TYPE_MERGED_PAYMENT, trade_pb2.TRADE_TYPE_PEER_TRANSFER
TOP_UP, CASH_OUT = trade_pb2.TRADE_TYPE_TOP_UP, trade_pb2.TRADE_TYPE_CASH_OUT


class People(NamedTuple):
    """Who takes part in one history; nobody took part in one before."""

    buyers: tuple[str, ...]
    merchants: tuple[str, ...]

    @property
    def owners(self) -> set[str]:
        """All of them."""
        return {*self.buyers, *self.merchants}


def people(number: int) -> People:
    """The people of a history, on the slots that are theirs."""
    buyers = [_named(f"u{number}.{i}", slot) for i, slot in enumerate(BUYER_SLOTS)]
    merchants = [_named(f"m{number}.{i}", slot) for i, slot in enumerate(MERCHANT_SLOTS)]
    return People(tuple(buyers), tuple(merchants))


def _named(prefix: str, slot: int) -> str:
    return next(name for i in count() if slot_of(name := f"{prefix}.{i}") == slot)


def eur(amount_minor: int) -> Money:
    """An amount in cents."""
    return Money(currency_code="EUR", amount_minor=amount_minor)


def time_at(ms: int) -> Timestamp:
    """Unix milliseconds."""
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def methods_for(
    amount_minor: int, tools: Sequence[str], coupons: Sequence[tuple[str, int]], *, is_partial: bool, is_open: bool
) -> list[trade_pb2.PayMethod]:
    """Pay methods that add up to an amount, in about equal parts; ``coupons``: those that may be used, and their worth.

    ``is_open``: the last that is no coupon leaves its amount out.
    """
    found: list[trade_pb2.PayMethod] = []
    rest, left = amount_minor, list(coupons)
    parts = parted(amount_minor, [1] * len(tools)) if tools else []
    for tool, part in zip(tools, parts, strict=True):
        token = ""
        if tool == "coupon":
            if not left:
                continue
            token, worth = left.pop()
            part = min(part, worth)
        part = min(part, rest)
        if part:
            found.append(method(tool, part, token))
            rest -= part
    money = [one for one in found if one.WhichOneof("tool") != "coupon"]
    if rest and not money:
        money = [method("card", rest)]
        found += money
    elif rest:
        money[-1].amount.amount_minor += rest
    if is_open and not is_partial and money:
        money[-1].ClearField("amount")
    return found


def method(tool: str, amount_minor: int, token: str = "") -> trade_pb2.PayMethod:
    """One pay method."""
    made = trade_pb2.PayMethod(amount=eur(amount_minor))
    match tool:
        case "card":
            made.card.card_token = "tok_card"
        case "wallet":
            made.wallet.wallet_token = "tok_wallet"
        case "bank":
            made.bank.bank_token = "tok_bank"
        case "coupon":
            made.coupon.coupon_id = token
        case "points":
            made.points.SetInParent()
        case _:
            made.balance.SetInParent()
    return made


def create(trade_type: Any, request_id: str, buyer: str, amount_minor: int, **fields: Any) -> pb.CreateTradeRequest:
    """A new order."""
    request = pb.CreateTradeRequest(
        request_id=request_id, trade_type=trade_type, buyer_id=buyer, amount=eur(amount_minor), **fields
    )
    if trade_type in (ESCROW, PRE_AUTHORIZATION):
        request.hold_time_to_live.CopyFrom(Duration(seconds=7 * 86_400))
    return request


def parts_of(
    amount_minor: int, number: int, merchants: Sequence[str], due_ms: Sequence[int]
) -> list[trade_pb2.TradePart]:
    """The parts of a split (``merchants``) or of a plan (``due_ms``)."""
    made = []
    for i, part in enumerate(parted(amount_minor, list(range(1, number + 1)))):
        trade_part = trade_pb2.TradePart(amount=eur(part))
        if merchants:
            trade_part.payee_id = merchants[i % len(merchants)]
        if due_ms:
            trade_part.due_time.CopyFrom(time_at(due_ms[i]))
        made.append(trade_part)
    return made


def coupon(request_id: str, owner: str, face_minor: int, merchant: str, until_ms: int) -> ledger_pb.IssueCouponRequest:
    """A coupon, the platform's or a merchant's."""
    by_merchant, by_platform = ledger_pb.COUPON_FUNDER_MERCHANT, ledger_pb.COUPON_FUNDER_PLATFORM
    return ledger_pb.IssueCouponRequest(
        request_id=request_id,
        owner_id=owner,
        face_value=eur(face_minor),
        funder=by_merchant if merchant else by_platform,
        merchant_id=merchant,
        campaign="spring",
        expire_time=time_at(until_ms),
    )
