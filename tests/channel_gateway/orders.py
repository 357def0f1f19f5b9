"""Channel orders as tests need them."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from channel_gateway.channel_order import ChannelPolicy
from channel_gateway.tables import ChannelOrder
from paykit.context import mint, pack
from paykit.ids import new_id

NOW_MS = 1_700_000_000_000
SLOT = 7

POLICY = ChannelPolicy(
    send_within_ms=2_000,
    sending_ms=10_000,
    query_ladder_ms=(1_000, 5_000, 60_000),
    not_found_certain_after_ms=30_000,
    resend_delay_ms=1_000,
    resend_give_up_after_ms=600_000,
    channel="sandbox_card",
)

_counter = itertools.count(1)


def make_order(**changes: Any) -> ChannelOrder:
    """An ACCEPTED charge of 10.00 EUR, with ``changes``."""
    number = next(_counter)
    context = mint(SLOT, NOW_MS, caller="pay_core")
    order = ChannelOrder(
        id=new_id("chn", SLOT, NOW_MS + number),
        slot=SLOT,
        biz_id=context.biz_id,
        kind="CHARGE",
        state="ACCEPTED",
        channel="sandbox_card",
        amount_minor=1_000,
        currency="EUR",
        instruction_id=new_id("ins", SLOT, NOW_MS + number),
        payment_id=new_id("pay", SLOT, NOW_MS + number),
        original_channel_order_id="",
        original_provider_reference="",
        token="tok_ok",
        provider_reference="",
        failure_reason="",
        query_count=0,
        send_count=0,
        sent_at_ms=None,
        due_at_ms=NOW_MS,
        context=pack(context),
        created_at_ms=NOW_MS,
        finished_at_ms=None,
    )
    return msgspec.structs.replace(order, **changes)


def make_sending(**changes: Any) -> ChannelOrder:
    """An order whose call to the provider is under way since NOW_MS."""
    due_at_ms = NOW_MS + POLICY.sending_ms
    return make_order(**({"state": "SENDING", "send_count": 1, "sent_at_ms": NOW_MS, "due_at_ms": due_at_ms} | changes))
