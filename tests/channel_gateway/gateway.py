"""The channel gateway as a running service beside the real sandbox provider."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Self

import aiohttp
import grpc

from channel_gateway import app
from channel_gateway.sandbox.client import BookEntry, read_book
from channel_gateway.settings import ChannelGatewaySettings
from paykit.clock import SystemClock
from paykit.context import BusinessContext, mint, to_metadata
from paykit.events.embedded import EmbeddedBus
from paykit.events.message import Delivery, Subscription
from paykit.ids import new_id
from paykit.service import Service
from paykit.settings import CommonSettings, ShardSettings
from paymesh.channel.v1 import (
    channel_order_pb2,
    channel_service_pb2,
    channel_service_pb2_grpc,
    doubt_service_pb2_grpc,
)
from paymesh.common.v1 import money_pb2
from paymesh.event.v1 import compensation_pb2, events_pb2
from paymesh.ops.v1 import compensation_service_pb2, compensation_service_pb2_grpc
from tests.channel_gateway.provider import (
    ADMIN_KEY,
    CHANNEL,
    LIVE_KEY,
    LIVE_SIGNING,
    SHADOW_KEY,
    SHADOW_SIGNING,
    WALLET,
    WALLET_KEY,
    WALLET_SIGNING,
    Provider,
    ProviderProcess,
    free_port,
)
from tests.schema import make_schema

SLOT = 7
CHANNEL_B, CARD_B_KEY, CARD_B_SIGNING = "sandbox_card_b", "card-b-api-secret", "card-b-signing-secret"
KINDS = {"CHARGE": 1, "REFUND": 2, "PAYOUT": 3, "AUTHORIZE": 4, "CAPTURE": 5, "VOID": 6}
WAIT_S = 30.0
_EVENTS: dict[str, Any] = {
    "channel.mismatch_found": events_pb2.ChannelMismatchEvent,
    "channel.mismatch_resolved": events_pb2.ChannelDoubtEvent,
    "channel.compensation_done": compensation_pb2.CompensationDoneEvent,
}  # the others are ChannelOrderEvent


def account(base_url: str, api_key: str, key_id: str, signing: str) -> dict[str, Any]:
    """The settings of a provider account."""
    return {
        "base_url": base_url,
        "api_key": {"value": api_key},
        "notification_keys": {key_id: {"value": signing}},
    }


def channel_settings(base_url: str, /, **changes: Any) -> dict[str, Any]:
    """A channel that is impatient enough for tests."""
    return (
        account(base_url, LIVE_KEY, "live-1", LIVE_SIGNING)
        | {
            "shadow": account(base_url, SHADOW_KEY, "shadow-1", SHADOW_SIGNING),
            "timeout_s": 1.0,
            "query_ladder_s": [0.3, 0.5, 1, 2],
            "resend_delay_s": 0.2,
        }
        | changes
    )


def wallet_settings(base_url: str) -> dict[str, Any]:
    """A wallet: its customers may pay another amount than they are asked for."""
    changes = {"operations": ["CHARGE", "REFUND"], "amount_may_differ": True, "query_ladder_s": [20]}
    wallet = account(base_url, WALLET_KEY, "wallet-1", WALLET_SIGNING)
    return channel_settings(base_url) | wallet | changes | {"shadow": None}


def card_b_settings(base_url: str) -> dict[str, Any]:
    """A second channel for cards, without a shadow account."""
    return channel_settings(base_url) | account(base_url, CARD_B_KEY, "b-1", CARD_B_SIGNING) | {"shadow": None}


VERY_LATE_MS = 18_000  # after the least time in which a channel may be certain of "not found"


class Gateway:
    """Starts provider and service, calls the service, and collects its events."""

    def __init__(
        self, folder: Path, shards: dict[str, ShardSettings], *, notifications_in_flight_max: int = 256, **channel: Any
    ) -> None:
        self._folder = folder
        self._shards = shards
        self._channel = channel
        self._notifications_in_flight_max = notifications_in_flight_max
        self._notification_port = free_port()
        url = f"http://127.0.0.1:{self._notification_port}/notifications/{CHANNEL}"
        waits = {"settle_ms": 30, "late_ms": 300, "very_late_ms": VERY_LATE_MS, "notification_backoff_ms": 30}
        self.process = ProviderProcess(folder, url, **waits)
        self.notification_url = url
        self.channels: dict[str, Any] = {}  # beside those of the sandbox provider
        self.second_card = False  # whether there is a second channel for cards: ``CHANNEL_B``
        self.events: list[tuple[str, Any]] = []
        self._arrived = asyncio.Condition()
        self.service: Service
        self.stub: Any
        self.doubts: Any

    def configure(self, **channel: Any) -> None:
        """Changes what the channel's settings will be at the next start of the service."""
        self._channel |= channel

    def add_second_card(self) -> Self:
        """Another account for cards at the provider, and a channel to it, before anything is started."""
        self.second_card = True
        self.process.add_account(
            CHANNEL_B,
            api_key=CARD_B_KEY,
            notification_key_id="b-1",
            notification_key=CARD_B_SIGNING,
            notification_url=self.notification_url.replace(CHANNEL, CHANNEL_B),
        )
        return self

    async def start(self) -> Self:
        """Migrates, then starts all."""
        await make_schema(app.NAME, self._shards)
        await self.process.start()
        self.session = aiohttp.ClientSession()
        self.provider = Provider(self.process.url, self.session)
        await self.start_service()
        return self

    async def start_service(self) -> None:
        """Starts the service alone."""
        settings = ChannelGatewaySettings.model_validate(
            {
                "listen": "127.0.0.1:0",
                "shards": self._shards,
                "timers": {"interval_s": 0.1},
                "notification_listen": f"127.0.0.1:{self._notification_port}",
                "notifications_in_flight_max": self._notifications_in_flight_max,
                "channels": {
                    CHANNEL: channel_settings(self.process.url) | self._channel,
                    WALLET: wallet_settings(self.process.url),
                    **({CHANNEL_B: card_b_settings(self.process.url) | self._channel} if self.second_card else {}),
                    **self.channels,
                },
            }
        )
        self.bus = EmbeddedBus(self._folder / "bus")
        await self.bus.start()
        for mode in ("live", "shadow"):
            await self.bus.subscribe(Subscription(consumer="test", mode=mode, subjects=("channel.*",)), self._take)
        self.service = app.build(settings, CommonSettings(), self.bus, SystemClock())
        await self.service.start()
        self._grpc = grpc.aio.insecure_channel(f"127.0.0.1:{self.service.port}")
        self.stub = channel_service_pb2_grpc.ChannelServiceStub(self._grpc)
        self.doubts = doubt_service_pb2_grpc.DoubtServiceStub(self._grpc)

    async def stop_service(self) -> None:
        """Drains the service."""
        await self._grpc.close()
        await self.service.stop()
        await self.bus.stop()

    async def stop(self) -> None:
        """Stops all."""
        await self.stop_service()
        await self.session.close()
        assert await self.process.end() == 0

    async def _take(self, delivery: Delivery) -> None:
        subject, body = delivery.message.subject, delivery.message.body
        event = _EVENTS.get(subject.partition(".")[2], events_pb2.ChannelOrderEvent)()
        event.ParseFromString(body)
        async with self._arrived:
            self.events.append((subject, event))
            self._arrived.notify_all()

    async def event(self, channel_order_id: str, subject: str) -> Any:
        """The event of that subject about an order, awaited."""

        def found() -> Any:
            return next(
                (e for s, e in self.events if s == subject and e.channel_order.channel_order_id == channel_order_id),
                None,
            )

        async with self._arrived, asyncio.timeout(WAIT_S):
            await self._arrived.wait_for(found)
            return found()

    async def ended(self, channel_order_ids: set[str]) -> dict[str, Any]:
        """The orders as their final events tell them, by id, once each has one."""

        def found() -> dict[str, Any]:
            final = (".channel.order_succeeded", ".channel.order_failed")
            told = {e.channel_order.channel_order_id: e.channel_order for s, e in self.events if s.endswith(final)}
            return told if told.keys() >= channel_order_ids else {}

        async with self._arrived, asyncio.timeout(WAIT_S):
            await self._arrived.wait_for(found)
            return {order_id: order for order_id, order in found().items() if order_id in channel_order_ids}

    def request(self, kind: str = "CHARGE", token: str = "tok_ok", **changes: Any) -> Any:
        """A SubmitChannelOrderRequest over 10.00 EUR, of a payment of its own."""
        now_ms = int(time.time() * 1000)
        instruction_id = new_id("ins", SLOT, now_ms)
        fields: dict[str, Any] = {
            "request_id": instruction_id,
            "kind": KINDS[kind],
            "channel": CHANNEL,
            "amount": money_pb2.Money(currency_code="EUR", amount_minor=1_000),
            "instruction_id": instruction_id,
            "payment_id": new_id("pay", SLOT, now_ms),
            "token": token,
        } | changes
        return channel_service_pb2.SubmitChannelOrderRequest(**fields)

    async def submit(self, request: Any, *, shadow: bool = False, context: BusinessContext | None = None) -> Any:
        """The channel order as answered."""
        context = context or mint(SLOT, int(time.time() * 1000), shadow=shadow)
        response = await self.stub.SubmitChannelOrder(request, metadata=to_metadata(context), timeout=WAIT_S)
        return response.channel_order

    async def get(self, channel_order_id: str, *, shadow: bool = False) -> Any:
        """The channel order as it now is."""
        request = channel_service_pb2.GetChannelOrderRequest(channel_order_id=channel_order_id)
        metadata = to_metadata(mint(SLOT, int(time.time() * 1000), shadow=shadow))
        return (await self.stub.GetChannelOrder(request, metadata=metadata, timeout=WAIT_S)).channel_order

    async def until(self, channel_order_id: str, state: str) -> Any:
        """The channel order once it is in ``state``."""
        wanted = channel_order_pb2.ChannelOrderState.Value(f"CHANNEL_ORDER_STATE_{state}")
        for _ in range(400):  # a state that nothing announces has to be looked at
            order = await self.get(channel_order_id)
            if order.state == wanted:
                return order
            await asyncio.sleep(0.05)
        raise AssertionError(f"{channel_order_id} never became {state}")

    async def book(self) -> dict[str, BookEntry]:
        """The provider's book by channel order id."""
        return {entry.reference: entry async for entry in read_book(self.process.url, ADMIN_KEY)}

    async def compensate(self, compensation: Any) -> Any:
        """The result of a repair once it has ended."""
        stub = compensation_service_pb2_grpc.CompensationServiceStub(self._grpc)
        request = compensation_service_pb2.CompensateRequest(
            request_id=compensation.repair_id, compensation=compensation
        )
        metadata = to_metadata(mint(SLOT, int(time.time() * 1000)))
        result = (await stub.Compensate(request, metadata=metadata, timeout=WAIT_S)).result
        if not result.outcome:
            async with self._arrived, asyncio.timeout(WAIT_S):
                await self._arrived.wait_for(lambda: self._has_ended(compensation.repair_id))
            get = compensation_service_pb2.GetCompensationRequest(repair_id=compensation.repair_id)
            result = (await stub.GetCompensation(get, metadata=metadata, timeout=WAIT_S)).result
        return result

    def _has_ended(self, repair_id: str) -> bool:
        ended = [event for subject, event in self.events if subject.endswith("compensation_done")]
        return any(event.result.repair_id == repair_id for event in ended)
