"""What the channel gateway is told at start."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from channel_gateway.channels.sandbox_settings import SandboxChannelSettings
from paykit.settings import Address, Count, ServiceSettings

ChannelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


# One class a kind: an entry here, one in channels.CHANNELS.
AnyChannelSettings = SandboxChannelSettings


class ChannelGatewaySettings(ServiceSettings):
    """The channel gateway's part of the settings file."""

    channels: Annotated[dict[ChannelName, AnyChannelSettings], Field(min_length=1, max_length=100)]
    notification_listen: Address
    notifications_in_flight_max: Count = 256  # beyond it 503, and the provider comes again
