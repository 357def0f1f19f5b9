"""Of an order that an open break names, the ledger's own word counts, and the provider may have done it twice."""

from __future__ import annotations

import msgspec
import pytest

from channel_gateway.sandbox.client import BookEntry
from meshctl.invariants.base import Tally
from meshctl.invariants.ledger import outside_mirrors_the_book, the_book_is_mirrored
from meshctl.invariants.provider import followers_fit_originals, moved_once
from meshctl.invariants.world import Slice
from pay_core.tables import Instruction
from recon.tables import Break
from tests.channel_gateway.orders import NOW_MS, make_order
from tests.meshctl.invariants.test_other_providers import OUTSIDE, SCOPE

CHARGED_MINOR = 1_000
ORDER = make_order(state="SUCCEEDED", channel="sandbox_card", amount_minor=CHARGED_MINOR)
INSTRUCTION = Instruction(
    id=ORDER.instruction_id,
    slot=ORDER.slot,
    payment_id=ORDER.payment_id,
    seq=1,
    direction="FORWARD",
    action="COLLECT",
    tool="channel",
    state="SUCCEEDED",
    currency="EUR",
    amount_minor=CHARGED_MINOR,
    owner_id="",
    account_kind="",
    channel="sandbox_card",
    token="tok_ok",
    channel_order_id=ORDER.id,
    original_channel_order_id=None,
    reverses_id=None,
    refunded_minor=0,
    failure_reason="",
)
ENTRY = BookEntry(
    sequence=1,
    account="sandbox_card_live",
    livemode=True,
    kind="charge",
    reference=ORDER.id,
    provider_reference="sbx_charge_1",
    original_reference="",
    asked_minor=CHARGED_MINOR,
    amount_minor=CHARGED_MINOR,
    currency="EUR",
    status="succeeded",
    failure_code="",
    created_at_ms=NOW_MS,
)
AGAIN = msgspec.structs.replace(ENTRY, sequence=2, provider_reference="sbx_charge_2", copy_no=1)
DENIED = msgspec.structs.replace(ENTRY, status="failed")
GIVEN_BACK = msgspec.structs.replace(
    ENTRY,
    sequence=3,
    kind="refund",
    reference="chn_refund",
    provider_reference="sbx_refund_1",
    original_reference=ORDER.id,
    asked_minor=CHARGED_MINOR,
)
MORE_BACK = msgspec.structs.replace(GIVEN_BACK, amount_minor=CHARGED_MINOR + 1)


def a_break(state: str) -> Break:
    return Break(
        id="brk_1",
        slot=ORDER.slot,
        biz_id=ORDER.biz_id,
        type="DUPLICATE",
        state=state,
        kind="STATEMENT",
        match_key=f"STATEMENT/{ORDER.id}",
        amount_minor=CHARGED_MINOR,
        currency="EUR",
        owner="nobody",
        evidence="",
        close_reason="",
        opened_at_ms=NOW_MS,
        closed_at_ms=None,
        channel_order_id=ORDER.id,
    )


@pytest.mark.parametrize(
    ("entries", "state", "violations"),
    [
        ([ENTRY], "CLOSED", (0, 0)),
        ([ENTRY], "OPEN", (0, 0)),
        ([ENTRY, AGAIN], "CLOSED", (1, 1)),
        ([ENTRY, AGAIN], "OPEN", (0, 0)),
        ([DENIED], "CLOSED", (0, 1)),
        ([DENIED], "OPEN", (0, 0)),
    ],
    ids=["as it is", "as it is, in doubt", "twice", "twice, in doubt", "denied", "denied, in doubt"],
)
def test_what_differs_is_a_violation_but_while_an_open_break_names_it(
    entries: list[BookEntry], state: str, violations: tuple[int, int]
) -> None:
    world = Slice("live", 0, SCOPE)
    world.add("channel_gateway", "s0", ORDER)
    world.add("pay_core", "s0", INSTRUCTION)
    world.add("recon", "s0", a_break(state))
    key = "internal.7/EXTERNAL:sandbox_card/EUR"
    world.add("pay_core", "s0", msgspec.structs.replace(OUTSIDE, account_key=key))
    for entry in entries:
        world.add("", "", entry)
    once, mirror = Tally(), Tally()
    moved_once(world, once)
    outside_mirrors_the_book(world, mirror)
    the_book_is_mirrored(mirror)
    assert (once.violation_count, mirror.violation_count) == violations


@pytest.mark.parametrize(
    ("entries", "state", "violations"),
    [
        ([ENTRY, GIVEN_BACK], "CLOSED", 0),
        ([ENTRY, MORE_BACK], "CLOSED", 1),
        ([ENTRY, MORE_BACK], "OPEN", 0),
        ([DENIED, GIVEN_BACK], "CLOSED", 1),
        ([DENIED, GIVEN_BACK], "OPEN", 0),
    ],
    ids=["fits", "too much", "too much, in doubt", "denied", "denied, in doubt"],
)
def test_a_provider_gives_back_what_it_charged_but_where_it_denies_the_charge(
    entries: list[BookEntry], state: str, violations: int
) -> None:
    world = Slice("live", 0, SCOPE)
    world.add("channel_gateway", "s0", ORDER)
    world.add("recon", "s0", a_break(state))
    for entry in entries:
        world.add("", "", entry)
    fits = Tally()
    followers_fit_originals(world, fits)
    assert fits.violation_count == violations
