"""A rig with its channels open, and the orders that checks send through them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from channel_gateway.channel_order import ChannelOrderKind, ProviderResult, ResultStatus
from channel_gateway.channels import ChannelSet
from channel_gateway.channels.base import Channel, NotificationInvalid, NotificationIrrelevant, ReceivedNotification
from channel_gateway.signature import SignatureInvalid
from channel_gateway.tables import ChannelOrder
from tests.channel_gateway.channels.rig import Does, Feature, Notice, Rig
from tests.channel_gateway.orders import make_sending

NAME = "contract"
NOTIFIED_WITHIN_S = 10.0
PATIENT_S = 10.0


class Bench:
    """The live and the shadow channel of a rig, started."""

    def __init__(self, rig: Rig, channels: ChannelSet) -> None:
        self.rig = rig
        self.channels = channels
        self.live = channels.get("live", NAME)
        self.shadow = channels.get("shadow", NAME)

    def needs(self, *what: ChannelOrderKind | Feature) -> None:
        """Skips the check where the settings leave an operation out, or the rig says that it lacks a feature."""
        for need in what:
            has = need in self.live.operations if isinstance(need, ChannelOrderKind) else need not in self.rig.lacks
            if not has:
                pytest.skip(f"{type(self.rig).__name__} declares that it has no {need.value}")

    def reason(self, name: str) -> str:
        """What the rig's channel calls a failure."""
        return self.rig.reasons.get(name, name)

    def order(self, **changes: Any) -> ChannelOrder:
        """A charge of 10.00 under way."""
        return make_sending(**{"currency": self.rig.currency, "channel": NAME} | changes)

    def following(
        self, original: ChannelOrder, known: ProviderResult, kind: str, amount_minor: int = 1_000
    ) -> ChannelOrder:
        """An order that goes back to, or on with, ``original``."""
        return self.order(
            kind=kind,
            token="",
            amount_minor=amount_minor,
            payment_id=original.payment_id,
            original_channel_order_id=original.id,
            original_provider_reference=known.provider_reference,
        )

    async def charge(self, does: Does, **following: Does) -> tuple[ChannelOrder, ProviderResult]:
        """A charge that goes like that, and what the channel says of it."""
        order = self.order(token=self.rig.token(does, **following))
        return order, await self.live.charge(order)

    async def authorize(self, **following: Does) -> tuple[ChannelOrder, ProviderResult]:
        """An authorisation that succeeded."""
        order = self.order(kind="AUTHORIZE", token=self.rig.token(Does.SUCCEED, **following))
        result = await self.live.authorize(order)
        assert (result.status, result.amount_minor) == (ResultStatus.SUCCEEDED, order.amount_minor)
        return order, result

    async def perform(self, order: ChannelOrder) -> ProviderResult:
        """The operation that the order is of."""
        result: ProviderResult = await getattr(self.live, order.kind.lower())(order)
        return result

    async def notified(self, channel: Channel, order: ChannelOrder) -> tuple[Notice, ReceivedNotification]:
        """The next notification that ``channel`` reads as a success of ``order``; others are of other checks."""
        async with asyncio.timeout(NOTIFIED_WITHIN_S):
            while True:
                notice = await self.rig.inbox.notices.get()
                with contextlib.suppress(SignatureInvalid, NotificationInvalid, NotificationIrrelevant):
                    received = channel.read_notification(notice.body, notice.headers, time.time())
                    is_success = received.result.status is ResultStatus.SUCCEEDED
                    if received.channel_order_id == order.id and is_success:
                        return notice, received


@contextlib.asynccontextmanager
async def opened(rig: Rig, **changes: Any) -> AsyncIterator[Bench]:
    """The rig's channels with ``changes`` to its settings, until the block ends. They wait long, however busy the
    machine is, but where a check is about waiting and sets ``timeout_s``."""
    channels = ChannelSet({NAME: rig.settings(**{"timeout_s": PATIENT_S} | changes)})
    await channels.start()
    try:
        yield Bench(rig, channels)
    finally:
        await channels.stop()
