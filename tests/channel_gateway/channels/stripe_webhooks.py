"""Events to the webhook endpoint, signed as Stripe signs: once with each secret that is valid while one is rolled."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Sequence
from typing import Any

import aiohttp

# What an endpoint for the channel is subscribed to.
ENABLED = frozenset(
    {
        "payment_intent.succeeded",
        "payment_intent.payment_failed",
        "payment_intent.canceled",
        "payment_intent.amount_capturable_updated",
        "charge.refunded",
        "refund.created",
        "refund.updated",
        "refund.failed",
        "payout.paid",
        "payout.failed",
        "payout.canceled",
    }
)


def sign(body: bytes, secrets: Sequence[str], timestamp_s: int) -> str:
    """The Stripe-Signature header."""
    signed = [hmac.new(secret.encode(), b"%d." % timestamp_s + body, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={timestamp_s}", *(f"v1={signature}" for signature in signed), "v0=0123456789abcdef"])


class Webhooks:
    """The endpoint of one account: makes events, and delivers them in the background, again until they are taken."""

    def __init__(self, url: str, secrets: Sequence[str], livemode: bool) -> None:
        self._url = url
        self.secrets = list(secrets)
        self._livemode = livemode
        self._numbers = itertools.count(1)
        self._session: aiohttp.ClientSession | None = None
        self._deliveries: set[asyncio.Task[None]] = set()

    def event(self, type_: str, about: dict[str, Any]) -> bytes:
        """The body of an event about an object as it now is."""
        number = next(self._numbers)
        event = {
            "id": f"evt_{'live' if self._livemode else 'test'}{number:012d}",
            "object": "event",
            "api_version": "2026-10-28.endive",
            "created": int(time.time()),
            "data": {"object": copy.deepcopy(about)},
            "livemode": self._livemode,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "type": type_,
        }
        return json.dumps(event, indent=2).encode()

    def send(self, type_: str, about: dict[str, Any], copies: int = 1) -> None:
        """Delivers an event, ``copies`` times."""
        if not self._url or type_ not in ENABLED:
            return
        body = self.event(type_, about)
        for _ in range(copies):
            task = asyncio.get_running_loop().create_task(self._deliver(body))
            self._deliveries.add(task)
            task.add_done_callback(self._deliveries.discard)

    async def stop(self) -> None:
        """Ends what is under way."""
        for task in self._deliveries:
            task.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _deliver(self, body: bytes) -> None:
        self._session = self._session or aiohttp.ClientSession()
        for pause_s in (0.05, 0.2, 0.5, 1.0):
            headers = {
                "Content-Type": "application/json",
                "Stripe-Signature": sign(body, self.secrets, int(time.time())),
            }
            try:
                async with self._session.post(self._url, data=body, headers=headers) as answer:
                    if answer.status < 300:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(pause_s)
