"""The plain model of the money: what every customer must have, from what was asked, what came of it, and the book.

It knows no ledger, no instruction and no row. It hears which payments pay_core took on, in what order, and how each
ended; from that it splits amounts over tools and payees by the written rule (in proportion to what is left of each,
largest remainder, ties to the earlier), and asks the provider's book what really moved outside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from paymesh.pay.v1 import payment_pb2 as pb
from tests.model.provider import FAILED, Provider, Violation

POINTS_PER = (7, 3)  # points, minor units: the rate of the rules
_ORDER = ("coupon", "points", "balance", "channel1", "channel2", "channel3")  # in which tools collect
_KIND = {pb.ACCOUNT_KIND_USER: "USER", pb.ACCOUNT_KIND_MERCHANT: "MERCHANT"}
_OVER = (pb.PAYMENT_STATE_SUCCEEDED, pb.PAYMENT_STATE_VOIDED, pb.PAYMENT_STATE_FAILED)

Account = tuple[str, str]  # owner and kind


def parted(amount: int, weights: Sequence[int]) -> list[int]:
    """An amount in proportion to weights: each gets its whole part, then the largest remainders one more."""
    total = sum(weights)
    parts = [amount * weight // total for weight in weights]
    order = sorted(range(len(weights)), key=lambda i: -(amount * weights[i] % total))  # stable: ties to the earlier
    for i in order[: amount - sum(parts)]:
        parts[i] += 1
    return parts


@dataclass
class Issued:
    """A coupon as it was issued; ``merchant`` is empty where the platform pays."""

    face_minor: int
    merchant: str


@dataclass
class Pot:
    """One tool of a payment. ``left``: what is still reserved."""

    tool: str
    token: str
    amount: int
    units: int = 0
    merchant: str = ""  # of a coupon that a merchant pays
    left: int = 0
    units_taken: int = 0


@dataclass
class Item:
    """What one tool paid, or one payee got, at one time, and what of it went back."""

    tool: str
    amount: int
    owner: str = ""
    kind: str = ""
    token: str = ""  # of a coupon that a merchant pays: on both sides
    reference: str = ""
    units: int = 0
    given: int = 0
    units_given: int = 0

    @property
    def left(self) -> int:
        """What did not go back."""
        return self.amount - self.given


@dataclass
class Share:
    """What one payee is to get, or what of a coupon its merchant bears; ``left`` is not captured yet."""

    owner: str
    kind: str
    reference: str
    left: int
    token: str = ""


@dataclass
class Paid:
    """A payment and what came of it."""

    id: str
    request: Any
    amount: int
    payer: str
    operation: str
    mode: int = 0
    pots: list[Pot] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    collects: list[Item] = field(default_factory=list)
    disburses: list[Item] = field(default_factory=list)
    captured: int = 0
    state: int = pb.PAYMENT_STATE_PROCESSING
    parts: list[tuple[Item, int, int]] = field(default_factory=list)  # of a refund: item, amount, units
    family: list[str] = field(default_factory=list)  # ids of its refunds


class Money:
    """Everything that was paid in one history."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.granted: Counter[str] = Counter()  # points
        self.coupons: dict[str, Issued] = {}
        self.payments: dict[str, Paid] = {}
        self.by_request: dict[str, str] = {}
        self._early: dict[str, list[Any]] = {}

    # What is heard

    def called(self, method: str, request: Any, response: Any) -> None:
        """pay_core has answered a call."""
        name = method.rpartition("/")[2]
        begin: dict[str, Callable[[Any, Any], Paid]] = {
            "Recharge": self._outside,
            "Withdraw": self._outside,
            "Transfer": self._transfer,
            "Refund": self._refund,
        }
        if name not in begin:
            return
        payment = response.payment
        known = self.by_request.get(request.request_id)
        if known is not None:
            if known != payment.payment_id:
                raise Violation(f"{request.request_id} made {known} and {payment.payment_id}")
            return
        self.by_request[request.request_id] = payment.payment_id
        self.payments[payment.payment_id] = begin[name](request, payment)
        for told in self._early.pop(payment.payment_id, []):
            self.told(told)

    def told(self, payment: pb.Payment) -> None:
        """pay_core says where a payment rests."""
        paid = self.payments.get(payment.payment_id)
        if paid is None:
            self._early.setdefault(payment.payment_id, []).append(payment)
            return
        if paid.state in _OVER:
            raise Violation(f"{paid.id} ended as {paid.state}, and then as {payment.state}")
        paid.state = payment.state
        if paid.operation == "REFUND":
            self._refund_ended(paid)
        elif paid.operation == "TRANSFER":
            self._transfer_told(paid, payment)

    def _outside(self, request: Any, payment: pb.Payment) -> Paid:
        operation = "RECHARGE" if payment.operation == pb.OPERATION_RECHARGE else "WITHDRAW"
        return Paid(payment.payment_id, request, request.amount.amount_minor, request.owner_id, operation)

    def _transfer(self, request: Any, payment: pb.Payment) -> Paid:
        paid = Paid(payment.payment_id, request, request.amount.amount_minor, request.payer_id, "TRANSFER")
        paid.mode = request.settlement_mode
        for funding in request.fundings:
            tool = funding.WhichOneof("tool")
            pot = Pot(tool, "", funding.amount.amount_minor)
            if tool == "channel":
                pot.tool = f"channel{funding.channel.instrument}"
            elif tool == "coupon":
                pot.token, pot.merchant = funding.coupon.coupon_id, self.coupons[funding.coupon.coupon_id].merchant
            elif tool == "points":
                pot.units = -(-pot.amount * POINTS_PER[0] // POINTS_PER[1])
            paid.pots.append(pot)
        paid.pots.sort(key=lambda pot: _ORDER.index(pot.tool))
        paid.shares = [
            Share(payee.owner_id, _KIND[payee.account_kind], payee.reference, payee.amount.amount_minor)
            for payee in request.payees
        ]
        for pot in [pot for pot in paid.pots if pot.merchant]:
            self._bear(paid, pot)
        paid.shares = [share for share in paid.shares if share.left]
        return paid

    def _bear(self, paid: Paid, pot: Pot) -> None:
        own = [share for share in paid.shares if share.owner == pot.merchant and not share.token]
        for share, part in zip(own, parted(pot.amount, [share.left for share in own]), strict=True):
            share.left -= part
            if part:
                paid.shares.append(Share("", "", share.reference, part, pot.token))

    # Money that is held, captured, given up

    def _transfer_told(self, paid: Paid, payment: pb.Payment) -> None:
        if payment.state == pb.PAYMENT_STATE_FAILED:
            paid.collects, paid.disburses = [], []
            return
        if not paid.collects and not any(pot.left for pot in paid.pots) and not paid.captured:
            self._taken(paid)
            if paid.mode in (pb.SETTLEMENT_MODE_UNSPECIFIED, pb.SETTLEMENT_MODE_IMMEDIATE):
                self._disburse(paid, paid.amount)
                return
        now = payment.captured_minor - paid.captured
        paid.captured = payment.captured_minor
        shares = self._disburse(paid, now) if now else []
        is_kept = payment.state == pb.PAYMENT_STATE_AUTHORIZED
        if paid.mode == pb.SETTLEMENT_MODE_AUTHORIZE:
            if now:
                self._collect_reserved(paid, now, shares)
        elif not is_kept:
            self._out_of_escrow(paid)

    def _taken(self, paid: Paid) -> None:
        """The tools have paid, or keep it."""
        for pot in paid.pots:
            pot.left = pot.amount
            if paid.mode != pb.SETTLEMENT_MODE_AUTHORIZE:
                paid.collects.append(_item(pot, pot.amount, pot.units))

    def _disburse(self, paid: Paid, amount: int) -> list[Item]:
        items = []
        for share, part in zip(paid.shares, parted(amount, [share.left for share in paid.shares]), strict=True):
            share.left -= part
            if part:
                tool = "coupon" if share.token else "balance"
                items.append(Item(tool, part, share.owner, share.kind, share.token, share.reference))
        paid.disburses += items
        return items

    def _collect_reserved(self, paid: Paid, amount: int, shares: list[Item]) -> None:
        pots = [pot for pot in paid.pots if pot.left]
        parts = _paired(amount, [(pot.left, pot.token if pot.merchant else "") for pot in pots], shares)
        for pot, part in zip(pots, parts, strict=True):
            if not part:
                continue
            taken = pot.amount - pot.left
            units = -(-pot.units * (taken + part) // pot.amount) - pot.units_taken
            pot.units_taken += units
            pot.left = 0 if pot.tool.startswith(("channel", "coupon")) else pot.left - part
            paid.collects.append(_item(pot, part, units))

    def _out_of_escrow(self, paid: Paid) -> None:
        rest = sum(share.left for share in paid.shares)
        if rest:
            shares = [Item("", share.left, token=share.token) for share in paid.shares]
            for item, part, units in _back(paid.collects, rest, shares):
                item.given += part
                item.units_given += units

    # Refunds

    def _refund(self, request: Any, payment: pb.Payment) -> Paid:
        original = self.payments[request.payment_id]
        paid = Paid(payment.payment_id, request, request.amount.amount_minor, original.payer, "REFUND")
        sources = [item for item in original.disburses if request.payee_reference in ("", item.reference)]
        if paid.amount > sum(item.left for item in sources):
            raise Violation(f"{paid.id} gives {paid.amount} back of less")
        parts = parted(paid.amount, [item.left for item in sources])
        taken = [(item, part, 0) for item, part in zip(sources, parts, strict=True) if part]
        borne = [Item("", part, token=item.token) for item, part, _ in taken]
        paid.parts = taken + _back(original.collects, paid.amount, borne)
        for item, part, units in paid.parts:
            item.given += part
            item.units_given += units
        original.family.append(paid.id)
        return paid

    def _refund_ended(self, paid: Paid) -> None:
        if paid.state == pb.PAYMENT_STATE_FAILED:
            for item, part, units in paid.parts:
                item.given -= part
                item.units_given -= units

    # What must be

    def expected(self, cases: Sequence[Any]) -> Counter[Account]:
        """What everybody must have, once nothing is under way. ``cases``: all there are, as rows."""
        result: Counter[Account] = Counter()
        for owner, count in self.granted.items():
            result[owner, "POINTS"] += count
        for paid in self.payments.values():
            if paid.operation != "REFUND":
                self._count(paid, [case for case in cases if case.payment_id in (paid.id, *paid.family)], result)
        return result

    def _count(self, paid: Paid, cases: Sequence[Any], result: Counter[Account]) -> None:
        user = (paid.payer, "USER")
        outside, own = self._sides(paid)
        result[user] += own
        for item in paid.collects:
            if item.tool == "points":
                result[paid.payer, "POINTS"] -= item.units - item.units_given
        for item in paid.disburses:
            if item.owner:
                result[item.owner, item.kind] += item.left
        ids = {paid.id, *paid.family} | {case.resolution_payment_id for case in cases if case.resolution_payment_id}
        stuck = self.provider.net_of(ids) - outside
        if stuck < 0:
            raise Violation(f"{-stuck} more went outside for {paid.id} than should")
        with_platform = sum(case.amount_minor for case in cases if _keeps(case))
        refused = [o for o in self.provider.orders.values() if o.request.payment_id in ids and o.state == FAILED]
        if stuck and not refused and not cases:
            raise Violation(f"{stuck} of {paid.id} did not go back outside, and nobody refused it")
        result[user] += stuck - with_platform

    def _sides(self, paid: Paid) -> tuple[int, int]:
        """What must be outside (taken less given), and by what the payer's own balance changes."""
        is_done = paid.state == pb.PAYMENT_STATE_SUCCEEDED
        if paid.operation == "RECHARGE":
            return (paid.amount, paid.amount) if is_done else (0, 0)
        if paid.operation == "WITHDRAW":
            return (-paid.amount, -paid.amount) if is_done else (0, 0)
        outside = sum(item.left for item in paid.collects if item.tool.startswith("channel"))
        return outside, -sum(item.left for item in paid.collects if item.tool == "balance")


def _keeps(case: Any) -> bool:
    """Whether what a case is about is with the platform: undecided, or accepted."""
    return bool(case.type != "RELEASE_FAILED") and (case.state == "OPEN" or case.resolution == "ACCEPT")


def _item(pot: Pot, amount: int, units: int) -> Item:
    return Item(pot.tool, amount, token=pot.token if pot.merchant else "", units=units)


def _paired(amount: int, pots: Sequence[tuple[int, str]], shares: Sequence[Item]) -> list[int]:
    """A merchant's coupon has what its merchant bears; the others share the rest by what is left of each."""
    borne: Counter[str] = Counter()
    for share in shares:
        if share.token:
            borne[share.token] += share.amount
    parts = [borne[token] if token else 0 for _, token in pots]
    rest = amount - sum(parts)
    if rest:
        more = parted(rest, [0 if token else left for left, token in pots])
        parts = [part + one for part, one in zip(parts, more, strict=True)]
    return parts


def _back(collects: Sequence[Item], amount: int, shares: Sequence[Item]) -> list[tuple[Item, int, int]]:
    """What goes back of each tool, and how many of its units."""
    result = []
    for item, part in zip(collects, _paired(amount, [(i.left, i.token) for i in collects], shares), strict=True):
        if part:
            due = item.units * (item.given + part) // item.amount
            result.append((item, part, max(due - item.units_given, 0)))
    return result
