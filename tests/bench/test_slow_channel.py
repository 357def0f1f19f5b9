"""A flood counts as refused only where it was refused for want of room on the channel."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from bench.children import LoadFailed
from bench.slow_channel import MERCHANTS, SLOW, Submitter, _offer
from paykit.errors import MeshError, ResourceExhausted, Unavailable
from paykit.ids import slot_in
from paykit.rpc.errors import to_status
from paymesh.channel.v1 import channel_service_pb2


class Stub:
    """A gateway that takes orders, or refuses them."""

    def __init__(self, refusal: MeshError | None = None) -> None:
        self.calls: list[tuple[Any, dict[str, str]]] = []
        self._refusal = refusal

    async def SubmitChannelOrder(self, request: Any, metadata: Any, timeout: float) -> Any:
        self.calls.append((request, dict(metadata)))
        if self._refusal is not None:
            status = rpc_status.to_status(to_status(self._refusal))
            trailing = grpc.aio.Metadata(*status.trailing_metadata)
            raise grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, status.details)
        return channel_service_pb2.SubmitChannelOrderResponse()


async def test_orders_are_of_one_channel_and_of_merchants_in_turn() -> None:
    stub = Stub()
    submitter = Submitter(stub, SLOW)
    for _ in range(MERCHANTS + 1):
        assert await _offer(submitter)
    assert {request.channel for request, _ in stub.calls} == {SLOW}
    assert len({request.request_id for request, _ in stub.calls}) == MERCHANTS + 1
    assert all(slot_in(request.payment_id) == slot_in(request.instruction_id) for request, _ in stub.calls)
    merchants = [metadata["x-biz-code"].split("/")[0] for _, metadata in stub.calls]
    assert len(set(merchants)) == MERCHANTS
    assert merchants[0] == merchants[-1]


async def test_a_refusal_for_want_of_room_is_counted() -> None:
    busy = ResourceExhausted("too many orders wait", reason="CHANNEL_BUSY", retry_after_ms=1_000)
    assert not await _offer(Submitter(Stub(busy), SLOW))


@pytest.mark.parametrize(
    "refusal",
    [
        ResourceExhausted("too many commands wait", reason="OVERLOADED", retry_after_ms=1_000),
        Unavailable("the shard cannot be reached now"),
    ],
    ids=["another_bound", "an_outage"],
)
async def test_any_other_refusal_fails_the_run(refusal: MeshError) -> None:
    with pytest.raises(LoadFailed, match=refusal.reason):
        await _offer(Submitter(Stub(refusal), SLOW))
