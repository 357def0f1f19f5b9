"""The channels of a service to the others: one per service, shared by all its stubs and batch callers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import grpc

from paykit.clock import Clock
from paykit.errors import ConfigurationError, Unavailable
from paykit.rpc.batching import BatchCaller
from paykit.rpc.calling import MeshChannel
from paykit.rpc.credentials import channel_credentials
from paykit.rpc.server import MAX_MESSAGE_BYTES
from paykit.settings import TlsSettings

# A lost connection is retried in place: every mutation carries a request_id, so a second arrival has no second effect.
_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    }
)
_OPTIONS = [
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]


class Channels:
    """Channels by service name. ``addresses`` maps the name to host:port (a DNS name with several hosts is balanced).

    Create it inside the running event loop; channels open on first use. ``clock`` is the service's own: the deadlines
    of its contexts are told by it.
    """

    def __init__(
        self, addresses: Mapping[str, str], tls: TlsSettings | None = None, *, clock: Clock | None = None
    ) -> None:
        self._clock = clock
        self._addresses = dict(addresses)
        self._credentials = None if tls is None else channel_credentials(tls)
        self._channels: dict[str, MeshChannel] = {}
        self._callers: dict[tuple[str, str], BatchCaller] = {}

    def address(self, service: str) -> str:
        """The address of ``service``; ConfigurationError where the settings name none."""
        try:
            return self._addresses[service]
        except KeyError:
            raise ConfigurationError(f"addresses.{service}: missing, and this service is called") from None

    def get(self, service: str) -> MeshChannel:
        """The channel to ``service``, for its generated stubs."""
        channel = self._channels.get(service)
        if channel is None:
            channel = self._channels[service] = MeshChannel(self._open(self.address(service)), self._clock)
        return channel

    def _open(self, address: str) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        return grpc.aio.secure_channel(address, self._credentials, options=_OPTIONS)

    def batch(self, service: str, method: str) -> BatchCaller:
        """The one caller that gathers calls of ``method`` ("/paymesh.pay.v1.PayService/Transfer") to ``service``."""
        caller = self._callers.get((service, method))
        if caller is None:
            caller = self._callers[service, method] = BatchCaller(self.get(service), method)
        return caller

    async def wait_ready(self, service: str, timeout_s: float) -> None:
        """Returns when ``service`` is connected; Unavailable names the service and its address after ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.get(service).channel_ready()
        except TimeoutError:
            raise Unavailable(
                f"{service} cannot be reached at {self.address(service)} within {timeout_s:g} s"
            ) from None

    async def close(self, grace_s: float = 5.0) -> None:
        """Lets calls in flight end within ``grace_s``, then closes every channel."""
        await asyncio.gather(*(caller.close(grace_s) for caller in self._callers.values()))
        await asyncio.gather(*(channel.close(grace_s) for channel in self._channels.values()))
        self._callers.clear()
        self._channels.clear()
