"""Who pays whom in the loads, and how requests become Batch messages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bench import payments
from bench.payments import PAIRS, pairs
from paykit.ids import new_id, slot_of
from paykit.settings import ShardSettings
from paykit.store.shard_map import ShardMap


def test_pairs_are_the_same_every_time_and_lie_on_one_slot_and_on_two_shards() -> None:
    shards = ShardMap({name: ShardSettings(live="sqlite+aiosqlite:///x") for name in ("s0", "s1")}, 1)
    found = pairs()
    assert found == pairs()
    assert len(found) == len({pair.payer for pair in found}) == PAIRS
    for pair in found:
        assert slot_of(pair.payer) == slot_of(pair.near)
        assert shards.shard_of(slot_of(pair.payer)) != shards.shard_of(slot_of(pair.far))


def test_requests_of_every_operation_become_the_batch_message_of_that_operation() -> None:
    stub = SimpleNamespace(BatchRecharge=1, BatchWithdraw=2, BatchTransfer=3, BatchRefund=4)
    requests: list[Any] = [
        payments.recharge("ann", 100),
        payments.withdraw("ann", 100),
        payments.transfer("ann", "bob", 100),
        payments.refund(new_id("pay", 7, 1), 100),
    ]
    assert len({request.request_id for request in requests}) == len(requests)
    for number, request in enumerate(requests, 1):
        method, message = payments.batched(stub, [request, request])
        assert method == number
        assert [item.request for item in message.items] == [request, request]
        assert message.items[0].context.biz_id != message.items[1].context.biz_id
