"""The channels there are: one kind, one entry here, one class that passes the contract suite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from channel_gateway.channel_order import ChannelPolicy
from channel_gateway.channel_settings import ChannelSettings
from channel_gateway.channels.base import Channel
from channel_gateway.channels.sandbox import SandboxChannel
from channel_gateway.channels.signed_json import SignedJsonChannel
from channel_gateway.channels.stripe import StripeChannel
from channel_gateway.routing import Declared, Reason
from paykit.errors import FailedPrecondition

# (name, livemode, the channel's settings, the account to use) -> Channel. The last two are of the kind's own classes,
# which its line in settings.py sees to.
CHANNELS: dict[str, Callable[[str, bool, Any, Any], Channel]] = {
    "sandbox": SandboxChannel,
    "signed_json": SignedJsonChannel,
    "stripe": StripeChannel,
}


class ChannelSet:
    """The configured channels, live and shadow."""

    def __init__(self, settings: Mapping[str, ChannelSettings]) -> None:
        self.settings = dict(settings)
        self._channels: dict[tuple[str, str], Channel] = {}
        self._declared: dict[tuple[str, str], Declared] = {}
        for name, channel in settings.items():
            self._add("live", name, channel, channel)
            if channel.shadow is not None:
                self._add("shadow", name, channel, channel.shadow)

    def _add(self, mode: str, name: str, settings: ChannelSettings, account: Any) -> None:
        made = CHANNELS[settings.kind](name, mode == "live", settings, account)
        made.policy = msgspec.structs.replace(made.policy, channel=name, merchant_id=account.merchant_id)
        self._channels[mode, name] = made
        self._declared[mode, name] = Declared(made.operations, settings.currencies, settings.bounds())

    async def start(self) -> None:
        """Opens all."""
        for channel in self._channels.values():
            await channel.start()

    async def stop(self) -> None:
        """Closes all."""
        await asyncio.gather(*(channel.stop() for channel in self._channels.values()))

    def __iter__(self) -> Iterator[tuple[str, Channel]]:
        """(mode, channel) of each."""
        return ((mode, channel) for (mode, _), channel in self._channels.items())

    def find(self, mode: str, name: str) -> Channel | None:
        """The channel of that name and mode, or None."""
        return self._channels.get((mode, name))

    def get(self, mode: str, name: str) -> Channel:
        """As ``find``; FailedPrecondition CHANNEL_UNKNOWN, or SHADOW_UNAVAILABLE where it has no shadow account."""
        channel = self._channels.get((mode, name))
        if channel is not None:
            return channel
        if ("live", name) in self._channels:
            raise FailedPrecondition(f"channel {name} has no shadow account", reason="SHADOW_UNAVAILABLE", subject=name)
        raise FailedPrecondition("no such channel is configured", reason="CHANNEL_UNKNOWN", subject=name[:64])

    def declared(self, mode: str, names: Iterable[str]) -> dict[str, Declared | Reason]:
        """What each of the channels ``names`` declares to carry, or why it is not there in this mode."""
        return {name: self._declared.get((mode, name)) or self._absence(name) for name in names}

    def _absence(self, name: str) -> Reason:
        return Reason.SHADOW_UNAVAILABLE if ("live", name) in self._channels else Reason.CHANNEL_UNKNOWN

    def policy(self, mode: str, name: str) -> ChannelPolicy:
        """The times of a channel; as ``get`` where there is none."""
        return self.get(mode, name).policy
