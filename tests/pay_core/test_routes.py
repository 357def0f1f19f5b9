"""Several channels for one instruction: asked for together, booked where it was done, given back by the same."""

from __future__ import annotations

from collections import Counter

import pytest

from pay_core.chains import Order
from pay_core.ledger import AccountKind
from pay_core.orchestration import PaymentView
from pay_core.payment import CHANNEL, Funding, Operation, SettlementMode
from pay_core.routes import route_of
from pay_core.rules import load
from pay_core.tables import Account, Entry
from pay_core.tools.base import Outcome
from pay_core.tools.channel import SUBMIT_CHANNEL_ORDER
from paykit.errors import FailedPrecondition
from paymesh.channel.v1 import channel_service_pb2, route_pb2
from tests.pay_core.world import Result, World

ROUTED = load(
    """
version: 5
tools:
  - {name: all, when: "true", allow: [card, balance, bank_account]}
routes:
  - name: cards
    when: "instrument == 'CARD'"
    channels: [first_card, {channel: other_card, weight: 3, fixed_minor: 10, rate_ppm: 9_000}]
    strategy: WEIGHTED
    channels_max: 2
    switch_on: [CARD_DECLINED, PROVIDER_UNREACHABLE]
  - {name: banks, when: "instrument == 'BANK_ACCOUNT'", channels: [bank]}
""",
    "routed",
)


def recharge(world: World, channel: str = "", amount_minor: int = 700) -> PaymentView:
    """A top-up of ann's by a card; the rules choose its channel where none is named."""
    funding = Funding(amount_minor, CHANNEL, channel, "tok", "CARD")
    return world.start(Order(Operation.RECHARGE, "ann", "EUR", amount_minor, (funding,)), f"r{world.now_ms}")


def submitted(world: World) -> channel_service_pb2.SubmitChannelOrderRequest:
    """What channel_gateway is asked for, once what goes to other slots has come there."""
    while (call := world.calls.pop(0)).destination != SUBMIT_CHANNEL_ORDER:
        world.deliver(call)
    return channel_service_pb2.SubmitChannelOrderRequest.FromString(call.body)


def settle(world: World, request: channel_service_pb2.SubmitChannelOrderRequest, channel: str, reason: str = "") -> str:
    """The result of a channel; the channel order's id."""
    order_id = f"chn_{request.instruction_id[4:]}"
    outcome = Outcome(reason, order_id, (request.amount.amount_minor, request.amount.currency_code), 0, channel)
    world.tell(Result(f"msg-{order_id}", request.payment_id, request.instruction_id, outcome))
    return order_id


def external(world: World) -> Counter[str]:
    """What has left each channel's account."""
    # "internal.<slot>/EXTERNAL:<channel>/<currency>"
    keys = {row.id: row.account_key for row in world.all(Account) if "/EXTERNAL:" in row.account_key}
    left: Counter[str] = Counter()
    for entry in world.all(Entry):
        if entry.account_id in keys:
            left[keys[entry.account_id].split(":")[1].split("/")[0]] -= entry.amount_minor
    return left


def test_the_candidates_are_asked_for_as_the_rules_name_them() -> None:
    world = World(ROUTED)
    view = recharge(world)
    request = submitted(world)
    assert request.channel == view.chain[0].channel == "first_card"
    assert list(request.candidates) == [
        route_pb2.RouteCandidate(channel="first_card", weight=1),
        route_pb2.RouteCandidate(channel="other_card", weight=3, cost_fixed_minor=10, cost_rate_ppm=9_000),
    ]
    assert request.strategy == route_pb2.ROUTE_STRATEGY_WEIGHTED
    assert (request.channels_max, list(request.switch_on)) == (2, ["CARD_DECLINED", "PROVIDER_UNREACHABLE"])
    assert route_of(view.chain[0].route) == ROUTED.routes[0].route


def test_a_channel_that_was_named_and_one_that_is_alone_have_no_route() -> None:
    world = World(ROUTED)
    view = recharge(world, "third_card")
    request = submitted(world)
    assert (request.channel, list(request.candidates), view.chain[0].route) == ("third_card", [], None)


def test_it_is_booked_and_given_back_on_the_channel_that_did_it() -> None:
    world = World(ROUTED)
    funding = Funding(700, CHANNEL, "", "tok", "CARD")
    view = world.transfer("ann", [funding], [("shop", AccountKind.MERCHANT, 700)], "t1")
    order_id = settle(world, submitted(world), "other_card")
    assert world.payment(view).state == "SUCCEEDED"
    assert world.chain(view)[0].channel == "other_card"
    assert external(world) == Counter({"other_card": 700})
    world.refund(view.payment.id, 300, "f1")
    refund = submitted(world)
    assert (refund.channel, refund.original_channel_order_id, list(refund.candidates)) == ("other_card", order_id, [])
    settle(world, refund, "other_card")
    assert external(world) == Counter({"other_card": 400})
    assert world.total(AccountKind.CLEARING) == 0


def test_a_capture_and_a_void_go_by_the_channel_of_their_authorisation() -> None:
    for channel in ("first_card", "other_card"):
        world = World(ROUTED)
        funding, shop = Funding(700, CHANNEL, "", "tok", "CARD"), ("shop", AccountKind.MERCHANT, 700)
        view = world.transfer("ann", [funding], [shop], "t1", SettlementMode.AUTHORIZE)
        order_id = settle(world, submitted(world), channel)
        world.capture(view.payment.id, 0, "c1")
        capture = submitted(world)
        assert (capture.channel, capture.original_channel_order_id) == (channel, order_id)
        settle(world, capture, channel)
        assert external(world) == Counter({channel: 700})


def test_a_failure_names_the_channel_that_gave_up_last() -> None:
    world = World(ROUTED)
    view = recharge(world)
    settle(world, submitted(world), "other_card", "CARD_DECLINED")
    failed = world.chain(view)[0]
    assert (failed.state, failed.channel, failed.failure_reason) == ("FAILED", "other_card", "CARD_DECLINED")
    assert world.payment(view).state == "FAILED"
    assert not external(world)


def test_a_channel_that_the_rules_never_named_settles_nothing() -> None:
    world = World(ROUTED)
    view = recharge(world)
    with pytest.raises(FailedPrecondition) as caught:
        settle(world, submitted(world), "third_card")
    assert caught.value.reason == "CHANNEL_MISMATCH"
    assert world.chain(view)[0].state == "PROCESSING"
    assert not external(world)
