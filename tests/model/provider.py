"""A provider with a book of its own, and channel_gateway's part before it: the plainest that can be.

An order is open until the test says what becomes of it, and never changes after that. What no gateway would take (more
given back than was charged, an authorisation used twice, another request under a known id) is a Violation.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from paykit.errors import NotFound
from paykit.ids import new_id, slot_in
from paymesh.channel.v1 import channel_order_pb2 as pb
from paymesh.channel.v1 import channel_service_pb2
from paymesh.common.v1.money_pb2 import Money
from paymesh.event.v1.events_pb2 import ChannelOrderEvent

OPEN, SUCCEEDED, FAILED = "OPEN", "SUCCEEDED", "FAILED"
CHARGE, REFUND, PAYOUT = pb.CHANNEL_ORDER_KIND_CHARGE, pb.CHANNEL_ORDER_KIND_REFUND, pb.CHANNEL_ORDER_KIND_PAYOUT
AUTHORIZE, CAPTURE = pb.CHANNEL_ORDER_KIND_AUTHORIZE, pb.CHANNEL_ORDER_KIND_CAPTURE
VOID = pb.CHANNEL_ORDER_KIND_VOID
INTO = (CHARGE, CAPTURE)
OUT_OF = (REFUND, PAYOUT)
WALLET = "sandbox_wallet"

_STATE = {
    OPEN: pb.CHANNEL_ORDER_STATE_PENDING,
    SUCCEEDED: pb.CHANNEL_ORDER_STATE_SUCCEEDED,
    FAILED: pb.CHANNEL_ORDER_STATE_FAILED,
}


class Violation(AssertionError):
    """Something that must never happen has happened."""


@dataclass
class Order:
    """One order in the book. ``moved_minor``: what a SUCCEEDED one really moved."""

    id: str
    request: channel_service_pb2.SubmitChannelOrderRequest
    state: str = OPEN
    moved_minor: int = 0
    reason: str = ""

    @property
    def kind(self) -> int:
        """A ChannelOrderKind."""
        return self.request.kind

    @property
    def amount_minor(self) -> int:
        """What was asked for."""
        return self.request.amount.amount_minor

    @property
    def may_differ(self) -> bool:
        """Whether the customer may pay another amount."""
        return self.kind == CHARGE and self.request.channel == WALLET

    def proto(self) -> pb.ChannelOrder:
        """As channel_gateway shows it."""
        is_other = self.state == SUCCEEDED and self.moved_minor != self.amount_minor
        return pb.ChannelOrder(
            channel_order_id=self.id,
            kind=self.request.kind,
            state=_STATE[self.state],
            channel=self.request.channel,
            amount=Money(currency_code=self.request.amount.currency_code, amount_minor=self.amount_minor),
            instruction_id=self.request.instruction_id,
            payment_id=self.request.payment_id,
            original_channel_order_id=self.request.original_channel_order_id,
            failure_reason=self.reason,
            settled_minor=self.moved_minor if is_other else 0,
        )


class Provider:
    """The book, by order and by instruction."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.by_instruction: dict[str, Order] = {}

    def submit(self, request: channel_service_pb2.SubmitChannelOrderRequest, now_ms: int) -> pb.ChannelOrder:
        """Takes an order, once."""
        known = self.by_instruction.get(request.instruction_id)
        if known is not None:
            if known.request != request:
                raise Violation(f"{request.instruction_id} is submitted twice, and differs")
            return known.proto()
        self._check_original(request)
        order = Order(new_id("chn", slot_in(request.payment_id), now_ms), request)
        self.orders[order.id] = self.by_instruction[request.instruction_id] = order
        return order.proto()

    def get(self, instruction_id: str) -> pb.ChannelOrder:
        """What is known; NotFound."""
        order = self.by_instruction.get(instruction_id)
        if order is None:
            raise NotFound(f"no order of {instruction_id}", reason="CHANNEL_ORDER_NOT_FOUND")
        return order.proto()

    def open_orders(self) -> list[Order]:
        """Those nobody knows the end of, oldest first."""
        return [order for order in self.orders.values() if order.state == OPEN]

    def settle(self, order: Order, reason: str, moved_minor: int) -> ChannelOrderEvent:
        """The end of an open order: FAILED for ``reason``, or SUCCEEDED where it is empty."""
        assert order.state == OPEN
        order.state, order.reason = (FAILED, reason) if reason else (SUCCEEDED, "")
        order.moved_minor = 0 if reason else moved_minor
        return ChannelOrderEvent(channel_order=order.proto())

    def net_of(self, payment_ids: set[str]) -> int:
        """What was taken from outside for some payments, less what was given back or paid out."""
        sums: Counter[bool] = Counter()
        for order in self.orders.values():
            if order.request.payment_id in payment_ids and order.kind in INTO + OUT_OF:
                sums[order.kind in INTO] += order.moved_minor
        return sums[True] - sums[False]

    def net(self) -> int:
        """What was taken from outside in all."""
        return self.net_of({order.request.payment_id for order in self.orders.values()})

    def _check_original(self, request: channel_service_pb2.SubmitChannelOrderRequest) -> None:
        if request.kind not in (REFUND, CAPTURE, VOID):
            if not request.token:
                raise Violation(f"{request.instruction_id} names no token")
            return
        original = self.orders.get(request.original_channel_order_id)
        if original is None or original.state != SUCCEEDED:
            raise Violation(f"{request.instruction_id} goes back to what never happened")
        earlier = [
            order
            for order in self.orders.values()
            if order.request.original_channel_order_id == original.id and order.state != FAILED
        ]
        wanted_minor = request.amount.amount_minor
        if request.kind == REFUND:
            left_minor = original.moved_minor - sum(order.amount_minor for order in earlier)
            if original.kind not in INTO or wanted_minor > left_minor:
                raise Violation(f"{request.instruction_id} gives {wanted_minor} of {left_minor} back")
        elif original.kind != AUTHORIZE or earlier or wanted_minor > original.amount_minor:
            raise Violation(f"{request.instruction_id} uses {original.id} again, or more of it than there is")
