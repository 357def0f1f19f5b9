"""The sandbox provider's book tells of its own channels alone: what other providers did is told by their statements."""

from __future__ import annotations

import msgspec
import pytest

from channel_gateway.tables import ChannelOrder
from meshctl.invariants.base import Tally
from meshctl.invariants.ledger import outside_mirrors_the_book, the_book_is_mirrored
from meshctl.invariants.provider import orders_agree_with_book
from meshctl.invariants.world import Scope, Slice
from pay_core.ledger import AccountKind
from pay_core.tables import Account
from tests.channel_gateway.orders import NOW_MS, make_order

SCOPE = Scope(
    now_ms=NOW_MS,
    settled=True,
    stated_ms=1_000,
    databases={},
    slots={},
    accounts={"sandbox_card_live": ("sandbox_card", "live")},
)
OUTSIDE = Account(
    id="acc_1",
    slot=7,
    account_key="",
    owner_id="internal.7",
    kind=AccountKind.EXTERNAL.value,
    currency="EUR",
    balance_minor=-1_000,
    held_minor=0,
    floor_minor=None,
    created_at_ms=NOW_MS,
)


@pytest.mark.parametrize(
    ("channel", "mode", "is_told"),
    [
        ("sandbox_card", "live", True),
        ("sandbox_card", "shadow", False),
        ("harbour_bank", "live", False),
    ],
)
def test_an_order_that_the_book_lacks_is_wrong_only_where_the_book_is_its_channels(
    channel: str, mode: str, is_told: bool
) -> None:
    world = Slice(mode, 0, SCOPE)
    order: ChannelOrder = make_order(state="SUCCEEDED", channel=channel)
    world.add("channel_gateway", "s0", order)
    key = f"internal.7/EXTERNAL:{channel}/EUR"
    world.add("pay_core", "s0", msgspec.structs.replace(OUTSIDE, account_key=key))
    orders, mirror = Tally(), Tally()
    orders_agree_with_book(world, orders)
    outside_mirrors_the_book(world, mirror)
    the_book_is_mirrored(mirror)
    assert (orders.violation_count, mirror.violation_count) == (is_told, is_told)
