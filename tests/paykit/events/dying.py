"""``python -m tests.paykit.events.dying URL``: a consumer that hangs with its third event, to be killed."""

from __future__ import annotations

import asyncio
import sys

from paykit.events.jetstream import JetStreamBus
from paykit.events.message import Delivery
from tests.paykit.events.test_bus_contract import subscription


async def _main(url: str) -> None:
    bus = JetStreamBus(url, ack_wait_s=3.0)
    await bus.start()
    taken = 0

    async def take(delivery: Delivery) -> None:
        nonlocal taken
        taken += 1
        if taken > 2:
            print(delivery.message.id, flush=True)
            await asyncio.Event().wait()

    await bus.subscribe(subscription(max_in_flight=1), take)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
