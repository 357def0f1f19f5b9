"""A storm: every behaviour at once, faults on top, the provider killed and the service restarted in the middle.

What must hold afterwards: each order is terminal, or UNKNOWN and announced; what the gateway says is what the
provider's book says; nothing was done twice.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from channel_gateway.sandbox.behaviour import BEHAVIOURS
from channel_gateway.tables import ChannelOrder
from tests.channel_gateway.gateway import Gateway
from tests.conftest import MakeShards

ORDERS = 240
SETTLE_S = 60.0
LIES = {name for name, behaviour in BEHAVIOURS.items() if behaviour.is_false}
NEVER_OVER = {"customer_never", "maintenance"}


async def submit_all(gateway: Gateway, tokens: list[str]) -> list[Any]:
    """The orders, submitted a few at a time."""
    slots = asyncio.Semaphore(16)

    async def one(token: str) -> Any:
        request = gateway.request("CHARGE", token)
        async with slots:
            return await gateway.submit(request)

    return await asyncio.gather(*(one(token) for token in tokens))


async def rows(gateway: Gateway) -> dict[str, ChannelOrder]:
    found = await gateway.service.store.fetch_everywhere(ChannelOrder, select(ChannelOrder.__table__), shadow=False)
    return {row.id: row for row in found}


@pytest.mark.timeout(180)
async def test_after_a_storm_gateway_and_provider_agree(tmp_path: Path, make_shards: MakeShards) -> None:
    dice = random.Random(4711)
    tokens = [f"tok_{name}" for name in sorted(BEHAVIOURS.keys() - LIES - NEVER_OVER)] * 4 + ["tok_ok"] * ORDERS
    tokens = tokens[:ORDERS]
    dice.shuffle(tokens)
    gateway = await Gateway(tmp_path, make_shards(2), query_ladder_s=[0.2, 0.5, 1, 1]).start()
    try:
        assert await gateway.provider.faults(
            *({"behaviour": name, "kind": "charge", "token_prefix": "tok_ok", "probability": 0.03} for name in
              ("timeout_charged", "drop_uncharged", "error_charged", "unavailable", "notify_late")),
            {"behaviour": "unavailable", "kind": "query", "probability": 0.2},
        ) == 200  # fmt: skip
        half = len(tokens) // 2
        orders = await submit_all(gateway, tokens[:half])
        await gateway.process.end(signal.SIGKILL)
        orders += await submit_all(gateway, tokens[half : half + 40])
        await gateway.process.start()
        await gateway.stop_service()
        await gateway.start_service()
        orders += await submit_all(gateway, tokens[half + 40 :])
        announced: set[str] = set()
        async with asyncio.timeout(SETTLE_S):
            while True:
                announced = {e.channel_order.channel_order_id for s, e in gateway.events if s.endswith("order_unknown")}
                stored = await rows(gateway)
                if all(row.finished_at_ms is not None or row.id in announced for row in stored.values()):
                    break
                await asyncio.sleep(0.2)
        book = await gateway.book()
        assert stored.keys() == {order.channel_order_id for order in orders}
        assert len(orders) == ORDERS
        for row in stored.values():
            entry = book.get(row.id)
            if row.state == "SUCCEEDED":
                assert entry is not None
                assert (entry.status, entry.provider_reference) == ("succeeded", row.provider_reference)
                assert (entry.amount_minor, entry.currency) == (row.amount_minor, row.currency)
            elif row.state == "FAILED":
                assert entry is not None
                assert entry.status == "failed"
            else:
                assert row.state == "UNKNOWN"
        assert book.keys() <= stored.keys()
        told = Counter(
            event.channel_order.channel_order_id
            for subject, event in gateway.events
            if subject.endswith(("order_succeeded", "order_failed"))
        )
        assert told == Counter(row.id for row in stored.values() if row.finished_at_ms is not None)
        assert not [event for subject, event in gateway.events if subject.endswith("mismatch_found")]
        assert sum(row.state == "SUCCEEDED" for row in stored.values()) > ORDERS // 2
    finally:
        await gateway.stop()
